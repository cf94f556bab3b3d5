import { useEffect, useState } from "preact/hooks";
import { may, ask, why } from "../api";
import type { Me, Ordered, ServiceMember, ServiceNow, Summary } from "../api.gen";
import { Chart, type Line, type Mark, Marks } from "../chart";
import { bits, clock, percent, short } from "../format";
import { isAbout, useHappened, type Happening } from "../happened";
import { useTrack } from "../history";
import { useLive } from "../live";
import { Path, Ring, isBroken } from "../pictures";
import { Dialog, Review } from "../review";
import { go, href } from "../router";
import { useAsked } from "../api";

export function Service({ name, summary, me }: { name: string; summary: Summary; me: Me }) {
  const { data: now } = useLive<ServiceNow | null>(`/api/v1/services/${encodeURIComponent(name)}`, "service");
  const { items } = useHappened();
  const { at, lines } = useTrack(name, summary);
  const [deleting, setDeleting] = useState(false);
  const row = summary.services.find((one) => one.name === name);
  if (!row) return <p>There is no virtual service {name}. <a href={href()}>To the dashboard</a></p>;
  if (!now) return <h1>{name}</h1>;
  const things = new Set([name, ...now.members.map((one) => one.id), ...now.service.vips.flatMap(({ vip }) => [vip, `${vip}/32`, `${vip}/128`])]);
  const marks = items.filter((one) => isAbout(one, things)).map(asMark);
  const line = (label: string, key: string): Line => ({ label, values: lines[key] ?? [] });
  const drops = Object.entries(lines)
    .filter(([key, values]) => key.startsWith("drop ") && values.some((value) => value))
    .slice(0, 6)
    .map(([key, values]) => ({ label: key.slice(5), values }));
  return (
    <>
      <div class="bar">
        <h1>
          {name} <span class={`score ${row.state === "down" ? "red" : row.state === "disabled" ? "none" : (row.score ?? 0) >= 85 ? "green" : (row.score ?? 0) >= 65 ? "yellow" : (row.score ?? 0) > 0 ? "orange" : "red"}`}>{row.state === "up" ? row.score : row.state}</span>
        </h1>
        {may(me, "admin") && (
          <p class="buttons">
            <button type="button" onClick={() => go("edit", "virtual-services", name)}>Edit</button>
            <button type="button" onClick={() => setDeleting(true)}>Delete</button>
          </p>
        )}
      </div>
      {row.score_reason && row.state !== "disabled" && <p class={`problems ${row.state}`}>{row.score_reason}</p>}
      <dl class="facts">
        <Fact name="VIP">{now.service.vips.map((vip) => <span class="line">{vip.vip} {now.service.protocol}/{now.service.ports.join(",")} <span class="quiet">{vip.announced ? "announced" : `not announced: ${(vip.reason ?? "").replaceAll("_", " ")} ${vip.detail}`}{others(row.vips.find((one) => one.vip === vip.vip)?.elsewhere)}</span></span>)}</Fact>
        <Fact name="Pool"><a href={href("edit", "pools", now.service.pool)}>{now.service.pool}</a> {now.service.algorithm.replaceAll("_", " ")}, {now.service.hash_mode.replaceAll("_", " ")}</Fact>
        <Fact name="Profile"><a href={href("edit", "network-profiles", now.service.network_profile)}>{now.service.network_profile}</a> {now.service.delivery}</Fact>
        <Fact name="In rotation">{now.service.in_rotation} of {now.members.length}, at least {now.service.min_members}</Fact>
      </dl>
      <section class="charts" aria-label="Charts">
        <Chart title="Throughput, bit/s" at={at} lines={[line("client to member", "bytes_per_s")]} marks={marks} format={bits} />
        <Chart title="Packets/s" at={at} lines={[line("packets", "packets_per_s")]} marks={marks} format={short} />
        <Chart title="New flows/s" at={at} lines={[line("new flows", "new_flows_per_s")]} marks={marks} format={short} />
        <Chart title="Flows remembered by the director" at={at} lines={[line("pins", "pins")]} marks={marks} format={short} />
        <Chart title="Drops/s of the director, by reason" at={at} lines={drops.length ? drops : [{ label: "none", values: at.map(() => 0) }]} marks={marks} format={short} />
      </section>
      <Marks marks={marks} now={now.time} />
      <h2>Members</h2>
      <Members members={now.members} me={me} />
      <div class="halves pictures">
        <section aria-label="Ring">
          <h2>Ring</h2>
          <div class="card"><Ring now={now} /></div>
        </section>
        <section aria-label="Path">
          <h2>Path</h2>
          <div class="card"><Path now={now} /></div>
        </section>
      </div>
      {deleting && <DeleteIt name={name} onClose={() => setDeleting(false)} />}
    </>
  );
}

function DeleteIt({ name, onClose }: { name: string; onClose: () => void }) {
  const { etag } = useAsked<unknown>(`/objects/virtual-services/${encodeURIComponent(name)}`);
  if (!etag) return null;
  const change = { method: "DELETE", path: `/objects/virtual-services/${encodeURIComponent(name)}`, etag };
  return <Review title={`Delete virtual service ${name}`} change={change} onClose={onClose} onDone={() => go()} />;
}

function Fact({ name, children }: { name: string; children: preact.ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function others(directors: string[] | undefined): string {
  return directors === undefined ? "" : directors.length > 0 ? `; also by ${directors.join(", ")}` : "; by no other director";
}

function asMark(one: Happening): Mark {
  const about = one.fields["member"] ?? one.fields["vip"] ?? one.fields["service"] ?? "";
  return { at: one.at, text: `${clock(one.at)} ${one.event} ${String(about)}`, bad: one.level !== "info" && one.level !== "debug" };
}

// --------------------------------------------------------------------------------------------------------------------
// Members

type Order = "drain" | "maint" | "ready" | "weight";

function Members({ members, me }: { members: ServiceMember[]; me: Me }) {
  const [asked, ask_] = useState<{ member: ServiceMember; order: Order }>();
  const orders = may(me, "operator");
  return (
    <>
      <div class="wide" tabIndex={0} role="region" aria-label="Members">
        <table>
          <thead>
            <tr>
              <th scope="col">Member</th>
              <th scope="col">State</th>
              <th scope="col">Order</th>
              <th scope="col" class="number">Weight</th>
              <th scope="col" class="number">Slots</th>
              <th scope="col" class="number">Packets/s</th>
              <th scope="col" class="number">New flows/s</th>
              <th scope="col">Checks</th>
              <th scope="col" class="number">MSS</th>
              <th scope="col" class="number" title="From clients' SYN to their first ACK">Handshake</th>
              {orders && <th scope="col">Actions</th>}
            </tr>
          </thead>
          <tbody>
            {members.map((member) => (
              <tr key={member.id} class={isBroken(member) ? "down" : member.state} data-member={member.id}>
                <th scope="row">
                  {member.name} <span class="quiet">{member.address}</span>
                </th>
                <td>
                  <span class="state-name"><span class={`dot ${isBroken(member) ? "red" : member.state === "in_rotation" ? "green" : "none"}`} /> {member.state.replace("_", " ")}</span>
                  {member.doctor.map((text) => <span class="why">doctor: {text}</span>)}
                  {member.reason && <span class="why">{member.reason.replaceAll("_", " ")}{(member.finding ?? member.detail) && `: ${member.finding ?? member.detail}`}</span>}
                  {member.dsr.filter((one) => one.dsr_capable === "no").map((one) => (
                    <span class="why">
                      not DSR-capable for {one.service}: {one.reasons[0]}
                    </span>
                  ))}
                </td>
                <td>{member.order ? member.order.state : "–"}</td>
                <td class="number">{member.ratio}</td>
                <td class="number">{percent(member.share)}</td>
                <td class="number">{short(member.traffic.packets_per_s)}</td>
                <td class="number">{short(member.traffic.new_flows_per_s)}</td>
                <td>
                  {member.checks.map((check) => (
                    <span class="line" title={check.last?.detail ?? ""}>
                      <span class={`dot ${check.verdict === "up" ? "green" : check.verdict === "down" ? "red" : "none"}`} /> {check.monitor} <span class="quiet">{check.vantage === "path" ? `path ${check.path ?? ""}` : "own address"}{check.last && `, ${check.last.code === "ok" ? `${(check.last.duration_s * 1000).toFixed(1)} ms` : check.last.code}`}</span>
                    </span>
                  ))}
                  {member.checks.length === 0 && <span class="quiet">not asked</span>}
                </td>
                <td class="number">
                  {member.segments.map((one) => (
                    <span class={`line ${one.note && !one.near ? "orange" : ""}`} title={one.note ?? ""}>{one.mss} of {one.limit}</span>
                  ))}
                  {member.segments.length === 0 && (member.largest_packet ? <span class="quiet">packets to {member.largest_packet}</span> : "–")}
                </td>
                <td class="number">{member.handshake_s === null ? "–" : `${(member.handshake_s * 1000).toFixed(1)} ms`}</td>
                {orders && (
                  <td class="actions">
                    {(["drain", "maint", "ready", "weight"] as const).map((order) => (
                      <button type="button" aria-label={`${order} ${member.id}`} onClick={() => ask_({ member, order })}>
                        {order}
                      </button>
                    ))}
                  </td>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {asked && <Confirm {...asked} onClose={() => ask_(undefined)} />}
    </>
  );
}

const MEANS: Record<Order, string> = {
  drain: "It gets no new flows; those that it has stay until they end, or until the time is up.",
  maint: "It gets nothing at all from now on: flows that it has break.",
  ready: "Orders are taken back: its monitors say whether it serves.",
  weight: "Its part of the slots becomes another; flows that are there stay where they are.",
};

function Confirm({ member, order, onClose }: { member: ServiceMember; order: Order; onClose: () => void }) {
  const [ratio, setRatio] = useState(String(member.ratio));
  const [timeout, setTimeout_] = useState("");
  const [reason, setReason] = useState("");
  const [error, setError] = useState("");
  const body = {
    ...(order === "weight" ? { ratio: ratio === "" ? null : Number(ratio) } : { state: order }),
    ...(order === "drain" && timeout !== "" ? { timeout_s: Number(timeout) } : {}),
  };
  const [pool, own] = member.id.split("/");
  const path = `/members/${encodeURIComponent(pool ?? "")}/${encodeURIComponent(own ?? "")}`;
  const [would, setWould] = useState<Ordered>();
  const asked = JSON.stringify(body);
  useEffect(() => {
    let over = false;
    const look = async () => {
      try {
        const { data } = await ask<Ordered>("PATCH", path, { ...body, dry_run: true });
        if (over) return;
        setWould(data);
        setError("");
      } catch (wrong) {
        if (over) return;
        setWould(undefined);
        setError(why(wrong));
      }
    };
    void look();
    return () => {
      over = true;
    };
  }, [asked]);
  const give = async () => {
    try {
      await ask("PATCH", path, { ...body, ...(reason ? { reason } : {}) });
      onClose();
    } catch (wrong) {
      setError(why(wrong));
    }
  };
  return (
    <Dialog title={`${order} ${member.id}`} onClose={onClose}>
      <p>{MEANS[order]}</p>
      {order === "weight" && (
        <label>
          Weight
          <input type="number" min={0} max={1000} placeholder="as configured" value={ratio} onInput={(event) => setRatio(event.currentTarget.value)} />
        </label>
      )}
      {order === "drain" && (
        <label>
          Seconds until what is left is cut (empty: the pool's own)
          <input type="number" min={0} value={timeout} onInput={(event) => setTimeout_(event.currentTarget.value)} />
        </label>
      )}
      <ul class="predicted" aria-live="polite">
        {would ? (would.moves ?? []).map((one) => <li>{one.name}: {predicted(member, one)}</li>) : <li>{error ? "Not known." : "Asking the director what this would do …"}</li>}
      </ul>
      {would && [...(would.withdraws ?? []).map((one) => `VIP ${one.name} will be withdrawn: ${one.why}`), ...(would.stops ?? []).map((one) => `Virtual service ${one.name} will stop: ${one.why}`)].map((text) => <p class="problems down">{text}</p>)}
      <label>
        Note (optional)
        <input value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
      </label>
      {error && <p class="wrong" role="alert">{error}</p>}
      <p class="buttons">
        <button type="button" class="main" onClick={() => void give()}>Give the order</button>
        <button type="button" onClick={onClose}>Cancel</button>
      </p>
    </Dialog>
  );
}

type Moves = NonNullable<Ordered["moves"]>[number];

/** What the director says that an order would do in one virtual service. */
function predicted(member: ServiceMember, { moved, shares }: Moves): string {
  if (moved < 0.00005) return "no slot changes hands.";
  return `about ${percent(moved)} of new flows move; ${member.name} gets ${percent(shares[member.id] ?? 0)}.`;
}
