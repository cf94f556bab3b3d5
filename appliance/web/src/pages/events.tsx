import { useState } from "preact/hooks";
import { EventRows } from "../event_rows";
import { told, useHappened } from "../happened";

const LEVELS = ["debug", "info", "warning", "error"];
const MOST = 300;

export function EventsPage() {
  const { items, trouble } = useHappened();
  const [wanted, want] = useState("");
  const [level, setLevel] = useState("info");
  const [still, hold] = useState<typeof items>();
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const found = (still ?? items).filter((one) => {
    if (LEVELS.indexOf(one.level) < LEVELS.indexOf(level)) return false;
    const text = `${one.event} ${told(one)}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  return (
    <>
      <div class="bar">
        <h1>Events</h1>
        <p class="buttons">
          <input type="search" aria-label="Find events" placeholder="member.out web/web1" value={wanted} onInput={(event) => want(event.currentTarget.value)} />
          <select aria-label="At least this level" value={level} onChange={(event) => setLevel(event.currentTarget.value)}>
            {LEVELS.map((one) => <option>{one}</option>)}
          </select>
          <button type="button" aria-pressed={still !== undefined} onClick={() => hold(still ? undefined : items)}>{still ? "Go on" : "Hold"}</button>
        </p>
      </div>
      {trouble && <p class="wrong" role="alert">{trouble}</p>}
      <div class="wide" tabIndex={0} role="region" aria-label="Events">
        <table>
          <thead>
            <tr><th scope="col">Time</th><th scope="col">Event</th><th scope="col">What</th></tr>
          </thead>
          <tbody>
            <EventRows items={found.slice(-MOST)} />
          </tbody>
        </table>
      </div>
      {found.length === 0 && <p class="quiet">No event is like that.</p>}
    </>
  );
}
