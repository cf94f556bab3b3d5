import { useState } from "preact/hooks";
import { logIn, useMe, why } from "../api";
import { go } from "../router";

export function Login() {
  const me = useMe();
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  async function enter(event: Event) {
    event.preventDefault();
    setBusy(true);
    try {
      await logIn(name, password);
      go();
    } catch (wrong) {
      setError(why(wrong));
      setPassword("");
    }
    setBusy(false);
  }
  return (
    <form class="card narrow" onSubmit={(event) => void enter(event)}>
      <h1>Log in</h1>
      {me?.role === "nobody" && <p class="quiet">This director shows nothing to who is not logged in.</p>}
      <label>
        Name
        <input autocomplete="username" required value={name} onInput={(event) => setName(event.currentTarget.value)} />
      </label>
      <label>
        Password
        <input type="password" autocomplete="current-password" required value={password} onInput={(event) => setPassword(event.currentTarget.value)} />
      </label>
      {error && <p class="wrong" role="alert">{error}</p>}
      <p>
        <button type="submit" class="main" disabled={busy}>
          Log in
        </button>
      </p>
      <p class="quiet">Users stand in the configuration ([[api.user]]): viewers look, operators give orders, admins change the configuration.</p>
    </form>
  );
}
