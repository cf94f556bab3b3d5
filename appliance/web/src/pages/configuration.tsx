import { useState } from "preact/hooks";
import { may, useAsked } from "../api";
import type { Me } from "../api.gen";
import { Diff, Review } from "../review";

interface Revisions {
  in_force: number | null;
  revisions: { number: number; at: number; who: string; via: string; why: string; digest: string; summary: string }[];
}

export function Configuration({ me }: { me: Me }) {
  const { data, error, again } = useAsked<Revisions>("/config/revisions", 5000);
  const [shown, show] = useState<number>();
  const [back, setBack] = useState<{ to: number; from: number | null }>();
  const admin = may(me, "admin");
  return (
    <>
      <h1>Configuration</h1>
      {!data && <p class="quiet">{error || "Waiting for the director …"}</p>}
      {data && (
        <div class="wide" tabIndex={0} role="region" aria-label="History">
          <table>
            <thead>
              <tr><th scope="col" class="number">Revision</th><th scope="col">When</th><th scope="col">Who</th><th scope="col">Why</th><th scope="col">What</th>{admin && <th scope="col">Actions</th>}</tr>
            </thead>
            <tbody>
              {data.revisions.map((one) => (
                <tr key={one.number} data-revision={one.number}>
                  <th scope="row" class="number">{one.number}</th>
                  <td>{new Date(one.at * 1000).toLocaleString([], { hour12: false })}</td>
                  <td>{one.who || "–"} <span class="quiet">{one.via}</span></td>
                  <td>{one.why}</td>
                  <td class="fields">{one.summary}{one.number === data.in_force && <strong> in force</strong>}</td>
                  {admin && (
                    <td class="actions">
                      {one.number !== data.in_force && (
                        <>
                          <button type="button" aria-label={`Compare revision ${one.number}`} onClick={() => show(shown === one.number ? undefined : one.number)}>Compare</button>
                          <button type="button" aria-label={`Roll back to revision ${one.number}`} onClick={() => setBack({ to: one.number, from: data.in_force })}>Roll back</button>
                        </>
                      )}
                    </td>
                  )}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {shown !== undefined && <Compare number={shown} />}
      {!admin && <p class="quiet">Admins compare and roll back.</p>}
      {back !== undefined && (
        <Review
          title={`Roll back to revision ${back.to}`}
          change={{ method: "POST", path: "/config/rollback", body: { revision: back.to, in_force: back.from }, inBody: true, diff: `/config/diff?revision=${back.to}` }}
          onClose={() => { setBack(undefined); again(); }}
          onDone={() => { setBack(undefined); again(); }}
        />
      )}
    </>
  );
}

function Compare({ number }: { number: number }) {
  const { data, error } = useAsked<{ diff: string }>(`/config/diff?revision=${number}`);
  return (
    <section aria-label="Comparison">
      <h2>What revision {number} has otherwise than what is in force</h2>
      {data ? <Diff text={data.diff} /> : <p class="quiet">{error}</p>}
    </section>
  );
}
