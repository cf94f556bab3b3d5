// Every change is shown before it is made: the lines of the files that differ, and what will move.

import { useEffect, useRef, useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { Refused, ask, why, type Problem } from "./api";
import type { Outcome } from "./api.gen";
import { clock, percent, short } from "./format";

export interface Change {
  method: string;
  /** With a question mark where a query follows. */
  path: string;
  body?: unknown;
  etag?: string | null;
  /** Whether "dry_run" goes into the body and not into the query. */
  inBody?: boolean;
  /** Where the diff is, if the answer has none. */
  diff?: string;
}

interface Moves {
  service: string;
  slots: number;
  slots_later: number;
  flows: number;
  flows_moved: number;
}

export type Planned = Outcome & { diff?: string };

export function Dialog({ title, children, onClose }: { title: string; children: ComponentChildren; onClose: () => void }) {
  const box = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    box.current?.showModal();
  }, []);
  return (
    <dialog ref={box} aria-label={title} onClose={onClose}>
      <h2>{title}</h2>
      {children}
    </dialog>
  );
}

async function send(change: Change, dry: boolean, reason: string): Promise<Planned> {
  const headers: Record<string, string> = change.etag ? { "If-Match": change.etag } : {};
  if (change.inBody) {
    const body = { ...(change.body as object), ...(dry ? { dry_run: true } : {}), ...(reason ? { reason } : {}) };
    return (await ask<Planned>(change.method, change.path, body, headers)).data;
  }
  const query = new URLSearchParams({ ...(dry ? { dry_run: "true" } : {}), ...(reason ? { reason } : {}) });
  return (await ask<Planned>(change.method, `${change.path}?${query}`, change.body, headers)).data;
}

interface Props {
  title: string;
  change: Change;
  onClose: () => void;
  onDone: () => void;
  /** Mistakes that stand at fields of a form; then there is nothing to review. */
  onMistakes?: (problem: Problem) => void;
  /** What to do when somebody else was faster: take the other one, or go on with ours on top of it. */
  onStale?: (keep: boolean) => void;
}

export function Review({ title, change, onClose, onDone, onMistakes, onStale }: Props) {
  const [plan, setPlan] = useState<Planned>();
  const [diff, setDiff] = useState("");
  const [problem, setProblem] = useState<Problem>();
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const refused = (error: unknown) => {
    const found: Problem = error instanceof Refused ? error.problem : { title: "Error", status: 0, detail: why(error) };
    if (found.status === 422 && found.errors && onMistakes) onMistakes(found);
    else setProblem(found);
  };
  useEffect(() => {
    let over = false;
    const look = async () => {
      try {
        const planned = await send(change, true, "");
        const lines = change.diff ? (await ask<{ diff: string }>("GET", change.diff)).data.diff : (planned.diff ?? "");
        if (!over) {
          setPlan(planned);
          setDiff(lines);
        }
      } catch (error) {
        if (!over) refused(error);
      }
    };
    void look();
    return () => {
      over = true;
    };
  }, []);
  const apply = async () => {
    setBusy(true);
    try {
      await send(change, false, reason);
      onDone();
    } catch (error) {
      refused(error);
    }
    setBusy(false);
  };
  return (
    <Dialog title={title} onClose={onClose}>
      {!plan && !problem && <p class="quiet">Asking the director what this would do …</p>}
      {problem && <Trouble problem={problem} {...(onStale ? { onStale } : {})} />}
      {plan && !problem && (
        <>
          {plan.unchanged ? <p>Nothing would change.</p> : <Plan plan={plan} />}
          {diff && <Diff text={diff} />}
          <label>
            Note for the history (optional)
            <input value={reason} maxLength={1000} onInput={(event) => setReason(event.currentTarget.value)} />
          </label>
        </>
      )}
      <p class="buttons">
        {plan && !problem && (
          <button type="button" class="main" disabled={busy || plan.unchanged} onClick={() => void apply()}>
            Apply
          </button>
        )}
        <button type="button" onClick={onClose}>
          Cancel
        </button>
      </p>
    </Dialog>
  );
}

function Trouble({ problem, onStale }: { problem: Problem; onStale?: (keep: boolean) => void }) {
  if (problem.status === 412) {
    const by = problem.changed;
    return (
      <div class="problems" role="alert">
        <p>
          Somebody else has changed this meanwhile{by ? `: ${by.who || "somebody"} at ${clock(by.at)} (revision ${by.revision}${by.why ? `, “${by.why}”` : ""})` : ""}.
          Nothing of yours is lost.
        </p>
        {onStale && (
          <p class="buttons">
            <button type="button" onClick={() => onStale(true)}>Keep my edits, on top of theirs</button>
            <button type="button" onClick={() => onStale(false)}>Take theirs</button>
          </p>
        )}
      </div>
    );
  }
  return (
    <div class="problems down" role="alert">
      {problem.used_by ? (
        <p>
          It is in use by {problem.used_by.map((user, i) => <><strong>{user}</strong>{i < problem.used_by!.length - 1 ? ", " : ""}</>)}, so it cannot be deleted.
        </p>
      ) : (
        <p>{problem.detail}</p>
      )}
      {problem.errors && problem.errors.length > 0 && (
        <ul>
          {problem.errors.map((one) => (
            <li>
              <code>{one.path}</code>: {one.message} <span class="quiet">{one.hint}</span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function Plan({ plan }: { plan: Planned }) {
  const { changes, deliveries, moves, routes, members, services } = plan.consequences;
  const moving = moves as unknown as Moves[];
  const lines: [string, string[]][] = [
    ["Another delivery", deliveries],
    ["Announced", routes.announce],
    ["Withdrawn", routes.withdraw],
    ["Announced later, when members are up", routes.announce_later],
    ["Members asked by health monitors", members.asked],
    ["Not asked any more", members.not_asked],
    ["Services added", services.added],
    ["Services removed", services.removed],
  ];
  return (
    <>
      <h3>What changes</h3>
      <ul class="changes">
        {changes.map((one) => (
          <li>{String(one["text"])}</li>
        ))}
        {changes.length === 0 && <li class="quiet">No value: comments and order, at most.</li>}
      </ul>
      <h3>What it moves</h3>
      {moving.length === 0 ? (
        <p>No flow moves.</p>
      ) : (
        <div class="wide" tabIndex={0} role="group" aria-label="Flows that move">
          <table>
            <thead>
              <tr>
                <th scope="col">Virtual service</th>
                <th scope="col" class="number">New flows that move</th>
                <th scope="col" class="number">Later</th>
                <th scope="col" class="number">Remembered flows</th>
                <th scope="col" class="number">Of them broken</th>
              </tr>
            </thead>
            <tbody>
              {moving.map((one) => (
                <tr>
                  <th scope="row">{one.service}</th>
                  <td class="number">{percent(one.slots)}</td>
                  <td class="number">{percent(one.slots_later)}</td>
                  <td class="number">{short(one.flows)}</td>
                  <td class="number">{short(one.flows_moved)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <dl>
        {lines.filter(([, items]) => items.length > 0).map(([name, items]) => (
          <>
            <dt>{name}</dt>
            <dd>{items.slice(0, 12).join(", ")}{items.length > 12 && ` and ${items.length - 12} more`}</dd>
          </>
        ))}
      </dl>
    </>
  );
}

export function Diff({ text }: { text: string }) {
  const kind = (line: string) =>
    line.startsWith("+++") || line.startsWith("---") || line.startsWith("@@") ? "place" : line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : "";
  if (!text) return <p class="quiet">No line differs.</p>;
  return (
    <pre class="diff" tabIndex={0} aria-label="Lines that differ">
      {text.split("\n").map((line) => (
        <span class={kind(line)}>{line}{"\n"}</span>
      ))}
    </pre>
  );
}
