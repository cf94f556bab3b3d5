import { useEffect, useState } from "preact/hooks";
import { type Problem, ask, may, useAsked } from "../api";
import type { Error as Mistake, Me, ProfileShown } from "../api.gen";
import { Review } from "../review";
import { go } from "../router";
import { type Field, KINDS, type Kind, type Values, get, put } from "./kinds";

interface Member extends Values {
  name?: string | null;
  address: string;
  ratio: number;
  enabled: boolean;
}

/** One object in a form; without a name, a new one. */
export function ObjectForm({ kind, name, me }: { kind: string; name: string; me: Me }) {
  const known = KINDS[kind];
  const path = `/objects/${kind}/${encodeURIComponent(name)}`;
  const [theirs, setTheirs] = useState<{ values: Values; etag: string | null }>();
  const [values, setValues] = useState<Values>();
  const [error, setError] = useState("");
  const [noDsr, setNoDsr] = useState(false);
  const [mistakes, setMistakes] = useState<Mistake[]>([]);
  const [reviewing, review] = useState(false);
  const load = async (keep: boolean) => {
    if (name === "") {
      setValues(known?.fresh);
      setTheirs({ values: known?.fresh ?? {}, etag: null });
      return;
    }
    try {
      const { data, etag } = await ask<Values>("GET", path);
      // Ours on top of theirs: what we have not touched is as they have it now.
      if (keep && values && theirs) setValues(changed(theirs.values, values).reduce((made, key) => ({ ...made, [key]: values[key] }), data));
      else setValues(data);
      setTheirs({ values: data, etag });
    } catch (wrong) {
      setError(String(wrong instanceof Error ? wrong.message : wrong));
    }
  };
  useEffect(() => void load(false), []);
  useEffect(() => {
    if (mistakes.length > 0) document.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }, [mistakes]);
  if (!known) return <p>There is no such kind of object.</p>;
  if (!values || !theirs) return <p class="quiet">{error || "Waiting for the director …"}</p>;
  const admin = may(me, "admin");
  const back = () => (kind === "virtual-services" ? go(...(name ? [kind, name] : [])) : go(kind));
  const refused = (problem: Problem) => {
    review(false);
    setMistakes(problem.errors ?? []);
  };
  const set = (field: Field, value: unknown) => {
    const made = put(values, field.path, value);
    setValues(field.then ? field.then(made) : made);
    setMistakes(mistakes.filter((one) => one.pointer !== pointer(field.path)));
  };
  const elsewhere = mistakes.filter((one) => !isAt(one, known.fields, values, kind));
  const title = name ? `${known.one[0]?.toUpperCase()}${known.one.slice(1)} ${name}` : `New ${known.one}`;
  return (
    <>
      <h1>{title}</h1>
      {!admin && <p class="quiet">Only admins change the configuration.</p>}
      {elsewhere.length > 0 && (
        <div class="problems down" role="alert">
          <ul>{elsewhere.map((one) => <li><code>{one.path}</code>: {one.message} <span class="quiet">{one.hint}</span></li>)}</ul>
        </div>
      )}
      <form class="card fields" noValidate onSubmit={(event) => { event.preventDefault(); if (!noDsr) { setMistakes([]); review(true); } }}>
        <fieldset disabled={!admin} aria-label={title}>
          {known.fields.filter(({ when, path: key }) => (!when || when(values)) && !(noDsr && key.startsWith("dsr."))).map((field) => (
            <>
              {field.path === "dsr.type" && <EnableDsr on={!noDsr} turn={(on) => setNoDsr(!on)} />}
              <Input key={field.path} field={field} value={get(values, field.path)} mistake={mistakes.find((one) => one.pointer === pointer(field.path) || one.pointer?.startsWith(`${pointer(field.path)}/`))}
                set={(value) => set(field, value)} fixed={field.path === "name" && name !== ""} />
            </>
          ))}
          {noDsr && <EnableDsr on={false} turn={(on) => setNoDsr(!on)} />}
          {kind === "network-profiles" && !noDsr && <Consequence profile={values as unknown as ProfileShown} />}
          {kind === "pools" && <Members members={(values["member"] as Member[] | undefined) ?? []} mistakes={mistakes} set={(member) => setValues({ ...values, member })} />}
          <p class="buttons">
            <button type="submit" class="main" disabled={noDsr}>Save …</button>
            <button type="button" onClick={back}>Cancel</button>
          </p>
        </fieldset>
      </form>
      {reviewing && (
        <Review
          title={name ? `Change ${known.one} ${name}` : `Make ${known.one} ${String(values["name"])}`}
          change={name ? { method: "PUT", path, body: values, etag: theirs.etag } : { method: "POST", path: `/objects/${kind}`, body: values }}
          onClose={() => review(false)}
          onDone={() => (kind === "virtual-services" ? go(kind, String(values["name"])) : go(kind))}
          onMistakes={refused}
          onStale={(keep) => { review(false); void load(keep); }}
        />
      )}
    </>
  );
}

function changed(before: Values, after: Values): string[] {
  return [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((key) => JSON.stringify(before[key]) !== JSON.stringify(after[key]));
}

function pointer(path: string): string {
  return `/${path.replaceAll(".", "/")}`;
}

function isAt(one: Mistake, fields: Kind["fields"], values: Values, kind: string): boolean {
  if (one.pointer === null) return false;
  if (kind === "pools" && /^\/member\/\d+\/(name|address|ratio|enabled)$/.test(one.pointer)) return true;
  return fields.some((field) => (!field.when || field.when(values)) && (one.pointer === pointer(field.path) || one.pointer!.startsWith(`${pointer(field.path)}/`)));
}

function EnableDsr({ on, turn }: { on: boolean; turn: (on: boolean) => void }) {
  return (
    <div class="field">
      <label class="check">
        <input type="checkbox" checked={on} aria-describedby="dsr-only" onChange={(event) => turn(event.currentTarget.checked)} /> Enable DSR
      </label>
      <p id="dsr-only" class={on ? "hint" : "wrong"}>{on ? "Replies go straight from the member to the client." : "Onward forwards by direct server return only: without it a profile cannot be saved."}</p>
    </div>
  );
}

function said({ message, hint }: Mistake): string {
  return hint ? `${message}; ${hint}` : message;
}

// --------------------------------------------------------------------------------------------------------------------
// Fields

interface InputProps {
  field: Field;
  value: unknown;
  mistake: Mistake | undefined;
  set: (value: unknown) => void;
  fixed: boolean;
}

function Input({ field, value, mistake, set, fixed }: InputProps) {
  const id = `field-${field.path.replaceAll(".", "-")}`;
  const notes = `${id}-notes`;
  const invalid = mistake ? ("true" as const) : undefined;
  const common = { id, disabled: fixed, "aria-invalid": invalid, "aria-describedby": mistake || field.hint ? notes : undefined };
  return (
    <div class={`field ${mistake ? "bad" : ""}`}>
      {field.kind === "flag" ? (
        <label class="check">
          <input type="checkbox" {...common} checked={value === true} onChange={(event) => set(event.currentTarget.checked)} /> {field.label}
        </label>
      ) : (
        <label for={id}>{field.label}</label>
      )}
      {field.kind === "text" && <input {...common} value={String(value ?? "")} onInput={(event) => set(event.currentTarget.value === "" && field.path !== "name" ? null : event.currentTarget.value)} />}
      {field.kind === "number" && <input {...common} type="number" step="any" value={value === null || value === undefined ? "" : String(value)} onInput={(event) => set(event.currentTarget.value === "" ? null : Number(event.currentTarget.value))} />}
      {field.kind === "words" && <Words {...common} value={(value as unknown[] | null | undefined) ?? []} set={set} />}
      {field.kind === "choice" && (
        <select {...common} value={String(value ?? "")} onChange={(event) => set(event.currentTarget.value || null)}>
          {field.choices?.map((one) => <option key={one} value={one}>{field.names?.[one] ?? one.replaceAll("_", " ")}</option>)}
        </select>
      )}
      {field.kind === "one" && <One {...common} of={field.of ?? ""} value={String(value ?? "")} set={set} />}
      {field.kind === "some" && <Some {...common} of={field.of ?? ""} value={(value as string[] | undefined) ?? []} set={set} />}
      {(mistake || field.hint) && (
        <p id={notes} class={mistake ? "wrong" : "hint"}>{mistake ? said(mistake) : field.hint}</p>
      )}
    </div>
  );
}

function Words({ value, set, ...rest }: { value: unknown[]; set: (value: unknown) => void; id: string; disabled: boolean }) {
  const [text, setText] = useState(value.join(", "));
  const parsed = (typed: string) => typed.split(",").map((word) => word.trim()).filter(Boolean).map((word) => (/^\d+$/.test(word) ? Number(word) : word));
  return <input {...rest} value={text} onInput={(event) => { setText(event.currentTarget.value); set(parsed(event.currentTarget.value)); }} />;
}

function useNames(kind: string): string[] {
  const { data } = useAsked<{ items: { name: string }[] }>(`/objects/${kind}`);
  return data?.items.map(({ name }) => name) ?? [];
}

function One({ of, value, set, ...rest }: { of: string; value: string; set: (value: unknown) => void; id: string; disabled: boolean }) {
  const names = useNames(of);
  return (
    <select {...rest} value={value} onChange={(event) => set(event.currentTarget.value)}>
      {["", ...new Set([...(value ? [value] : []), ...names])].map((one) => <option key={one} value={one}>{one || "choose one"}</option>)}
    </select>
  );
}

function Some({ of, value, set, id }: { of: string; value: string[]; set: (value: unknown) => void; id: string; disabled: boolean }) {
  const names = [...new Set([...value, ...useNames(of)])];
  return (
    <span class="some" id={id} role="group" aria-label="Health monitors">
      {names.map((one) => (
        <label key={one} class="check">
          <input type="checkbox" checked={value.includes(one)} onChange={(event) => set(event.currentTarget.checked ? [...value, one] : value.filter((other) => other !== one))} /> {one}
        </label>
      ))}
      {names.length === 0 && <span class="quiet">there is none</span>}
    </span>
  );
}

function Members({ members, mistakes, set }: { members: Member[]; mistakes: Mistake[]; set: (members: Member[]) => void }) {
  const change = (at: number, changes: Partial<Member>) => set(members.map((one, i) => (i === at ? ({ ...one, ...changes } as Member) : one)));
  const wrong = (at: number, key: string) => mistakes.find((one) => one.pointer === `/member/${at}/${key}`);
  const state = (at: number, key: string) => (wrong(at, key) ? { "aria-invalid": "true" as const, "aria-describedby": `member-${at}-notes` } : {});
  return (
    <div class="field">
      <h2>Members</h2>
      <div class="wide">
        <table>
          <thead>
            <tr><th scope="col">Name</th><th scope="col">Address</th><th scope="col">Weight</th><th scope="col">Enabled</th><th scope="col">Remove</th></tr>
          </thead>
          <tbody>
            {members.map((one, i) => (
              <tr key={i}>
                <td><input aria-label={`Name of member ${i + 1}`} placeholder={one.address} value={one.name ?? ""} {...state(i, "name")} onInput={(event) => change(i, event.currentTarget.value ? { name: event.currentTarget.value } : { name: null })} /></td>
                <td>
                  <input aria-label={`Address of member ${i + 1}`} value={one.address} {...state(i, "address")} onInput={(event) => change(i, { address: event.currentTarget.value })} />
                  <div id={`member-${i}-notes`}>
                    {["name", "address", "ratio"].map((key) => wrong(i, key)).filter(Boolean).map((mistake) => <p class="wrong">{said(mistake!)}</p>)}
                  </div>
                </td>
                <td><input type="number" min={0} max={1000} aria-label={`Weight of member ${i + 1}`} value={one.ratio} {...state(i, "ratio")} onInput={(event) => change(i, { ratio: Number(event.currentTarget.value) })} /></td>
                <td><input type="checkbox" aria-label={`Member ${i + 1} enabled`} checked={one.enabled} onChange={(event) => change(i, { enabled: event.currentTarget.checked })} /></td>
                <td><button type="button" aria-label={`Remove member ${i + 1}`} onClick={() => set(members.filter((_, other) => other !== i))}>Remove</button></td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p><button type="button" onClick={() => set([...members, { address: "", ratio: 1, enabled: true }])}>Add a member</button></p>
    </div>
  );
}

// --------------------------------------------------------------------------------------------------------------------
// What an encapsulation costs

const BETWEEN: Record<string, number> = { ipip: 0, gre: 4, gue: 12 };
const TCP = 20;
const IP = { 4: 20, 6: 40 };

/** The largest packets and segments that fit, for links of 1500 bytes. */
function Consequence({ profile }: { profile: ProfileShown }) {
  if (profile.dsr.type === "l2")
    return <p class="consequence">L2: nothing is added to packets, so the MTU stays as it is. Members have to be on a segment of the director.</p>;
  const added = (outer: 4 | 6) => IP[outer] + (BETWEEN[profile.dsr.encapsulation ?? "ipip"] ?? 0);
  return (
    <div class="consequence">
      <p>Each packet grows by {added(4)} bytes to members with IPv4 addresses, {added(6)} to those with IPv6. With links of 1500 bytes:</p>
      <table>
        <thead>
          <tr><th scope="col">Members</th><th scope="col" class="number">Largest packet</th>{profile.type === "tcp_fast_path" && <><th scope="col" class="number">MSS, VIP IPv4</th><th scope="col" class="number">MSS, VIP IPv6</th></>}</tr>
        </thead>
        <tbody>
          {([4, 6] as const).map((outer) => (
            <tr key={outer}>
              <th scope="row">IPv{outer}</th>
              <td class="number">{1500 - added(outer)}</td>
              {profile.type === "tcp_fast_path" && ([4, 6] as const).map((inner) => <td class="number">{1500 - added(outer) - IP[inner] - TCP}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
      {profile.type === "tcp_fast_path" && <p>Members have to advertise no larger MSS to clients: <code>ip route replace default via … advmss {1500 - added(4) - IP[4] - TCP}</code></p>}
    </div>
  );
}
