import { useState } from "preact/hooks";
import { may, useAsked } from "../api";
import type { Me, MonitorShown, PoolShown, ProfileShown } from "../api.gen";
import { Review } from "../review";
import { go, href } from "../router";
import { KINDS } from "./kinds";

interface Item {
  name: string;
  etag: string;
  file: string;
  used_by: string[];
  object: unknown;
}

/** All objects of a kind: what they are, where they stand, who uses them. */
export function ObjectList({ kind, me }: { kind: string; me: Me }) {
  const { data, error, again } = useAsked<{ items: Item[] }>(`/objects/${kind}`, 5000);
  const [gone, setGone] = useState<Item>();
  const admin = may(me, "admin");
  const { title, one } = KINDS[kind] ?? { title: kind, one: kind };
  return (
    <>
      <div class="bar">
        <h1>{title}</h1>
        {admin && <button type="button" class="main" onClick={() => go("new", kind)}>New {one}</button>}
      </div>
      {!data && <p class="quiet">{error || "Waiting for the director …"}</p>}
      {data && (
        <div class="wide" tabIndex={0} role="region" aria-label={title}>
          <table>
            <thead>
              <tr><th scope="col">Name</th><th scope="col">What</th><th scope="col">Used by</th><th scope="col">File</th>{admin && <th scope="col">Actions</th>}</tr>
            </thead>
            <tbody>
              {data.items.map((item) => (
                <tr key={item.name}>
                  <th scope="row"><a href={href("edit", kind, item.name)}>{item.name}</a></th>
                  <td>{inShort(kind, item.object)}</td>
                  <td>{item.used_by.map((user) => <span class="line">{user}</span>)}{item.used_by.length === 0 && <span class="quiet">nobody</span>}</td>
                  <td class="quiet">{item.file}</td>
                  {admin && (
                    <td class="actions">
                      <button type="button" aria-label={`Delete ${item.name}`} onClick={() => setGone(item)}>Delete</button>
                    </td>
                  )}
                </tr>
              ))}
            </tbody>
          </table>
          {data.items.length === 0 && <p class="quiet empty">There is none yet.</p>}
        </div>
      )}
      {gone && (
        <Review
          title={`Delete ${one} ${gone.name}`}
          change={{ method: "DELETE", path: `/objects/${kind}/${encodeURIComponent(gone.name)}`, etag: gone.etag }}
          onClose={() => setGone(undefined)}
          onDone={() => { setGone(undefined); again(); }}
        />
      )}
    </>
  );
}

function inShort(kind: string, object: unknown): string {
  if (kind === "pools") {
    const pool = object as PoolShown;
    const monitors = pool.health_monitors.join(", ") || "no monitors";
    return `${pool.member.length} members, ${pool.algorithm.replaceAll("_", " ")}, ${monitors}`;
  }
  if (kind === "network-profiles") {
    const profile = object as ProfileShown;
    return `${profile.type.replaceAll("_", " ")}, DSR ${profile.dsr.type.toUpperCase()}${profile.dsr.encapsulation ? ` ${profile.dsr.encapsulation}` : ""}`;
  }
  const monitor = object as MonitorShown;
  return `${monitor.type}, every ${monitor.send_interval} s, up after ${monitor.successful_checks}, down after ${monitor.failed_checks}`;
}
