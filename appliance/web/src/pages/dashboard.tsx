import { memo } from "preact/compat";
import { useMemo, useState } from "preact/hooks";
import { bits, clock, short, span } from "../format";
import { href } from "../router";
import type { PeerRow, ServiceRow, Summary, VipRow } from "../summary";

export function Dashboard({ summary }: { summary: Summary }) {
  const [wanted, want] = useState("");
  const rows = useMemo(() => chosen(summary.services, wanted), [summary, wanted]);
  const up = summary.services.filter((service) => service.state === "up").length;
  return (
    <>
      <h1>Dashboard</h1>
      <section class="tiles" aria-label="In short">
        <Tile name="Virtual services" value={`${up} / ${summary.services.length}`} note="up / all" />
        <Tile name="Throughput" value={bits(summary.bytes_per_s)} note={`${short(summary.packets_per_s)} packets/s`} />
        <Tile name="New flows" value={`${short(summary.new_flows_per_s)}/s`} note="where packets show them" />
        <Tile name="Flows remembered" value={short(summary.pins.live)} note={`of ${short(summary.pins.capacity)}`} />
        <Tile name="Director" value={summary.director.state.replace("_", " ")} note={`${summary.plane.name}, up ${span(summary.director.uptime_s)}`} />
      </section>
      {summary.health.problems.length > 0 && (
        <section class={`problems ${summary.health.state}`} aria-label="What is wrong">
          <ul>
            {summary.health.problems.slice(0, 20).map((problem) => (
              <li>{problem}</li>
            ))}
          </ul>
          {summary.health.problems.length > 20 && <p>and {summary.health.problems.length - 20} more</p>}
        </section>
      )}
      <section aria-label="Virtual services">
        <div class="bar">
          <h2>Virtual services</h2>
          <input type="search" aria-label="Find virtual services" placeholder="name, VIP, pool, down" value={wanted}
            onInput={(event) => want(event.currentTarget.value)} />
        </div>
        <div class="wide">
          <table>
            <thead>
              <tr>
                <th scope="col">Health</th>
                <th scope="col">Name</th>
                <th scope="col">VIP</th>
                <th scope="col">Announced</th>
                <th scope="col">Pool</th>
                <th scope="col" class="number">Members</th>
                <th scope="col" class="number">Packets/s</th>
                <th scope="col" class="number">Throughput</th>
                <th scope="col" class="number">New flows/s</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((service) => (
                <Row key={service.name} service={service} />
              ))}
            </tbody>
          </table>
        </div>
        {rows.length === 0 && <p class="quiet">No virtual service is like that.</p>}
      </section>
      <Peers peers={summary.peers} now={summary.time} />
    </>
  );
}

function chosen(services: ServiceRow[], wanted: string): ServiceRow[] {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return services;
  const text = ({ name, state, pool, vips }: ServiceRow) =>
    [name, state, pool, ...vips.map(({ vip }) => vip)].join(" ").toLowerCase();
  return services.filter((service) => words.every((word) => text(service).includes(word)));
}

function Tile({ name, value, note }: { name: string; value: string; note: string }) {
  return (
    <div class="tile">
      <span class="name">{name}</span>
      <strong>{value}</strong>
      <span class="note">{note}</span>
    </div>
  );
}

/** Drawn anew only when what it shows has changed: of a thousand rows most stay as they are. */
const Row = memo(
  ({ service }: { service: ServiceRow }) => (
    <tr class={service.state}>
      <td>
        <Score service={service} />
      </td>
      <th scope="row">
        <a href={href("virtual-services", service.name)}>{service.name}</a>
        {service.reason && <span class="why">{service.reason}</span>}
      </th>
      <td>
        {service.vips.map(({ vip }) => (
          <span class="line">
            {vip} <span class="quiet">{service.protocol}/{service.ports.join(",")}</span>
          </span>
        ))}
      </td>
      <td>
        {service.vips.map((vip) => (
          <Announced vip={vip} />
        ))}
      </td>
      <td>
        {service.pool} <span class="quiet">{service.delivery}</span>
      </td>
      <td class="number">
        {service.in_rotation}/{service.members}
      </td>
      <td class="number">{short(service.packets_per_s)}</td>
      <td class="number">{bits(service.bytes_per_s)}</td>
      <td class="number">{short(service.new_flows_per_s)}</td>
    </tr>
  ),
  (before, after) => JSON.stringify(before.service) === JSON.stringify(after.service),
);

function Score({ service }: { service: ServiceRow }) {
  if (service.score === null) return <span class="score none" title="disabled">off</span>;
  return (
    <span class={`score ${service.state === "down" ? "red" : colour(service.score)}`} title={service.score_reason}>
      {service.state === "down" ? "down" : service.score}
    </span>
  );
}

/** As operators know them: green from 85, yellow from 65, orange above 0. */
function colour(score: number): string {
  return score >= 85 ? "green" : score >= 65 ? "yellow" : score > 0 ? "orange" : "red";
}

function Announced({ vip }: { vip: VipRow }) {
  if (vip.announced) return <span class="line">here</span>;
  const where = vip.elsewhere?.length ? `by ${vip.elsewhere.join(", ")}` : "no";
  return (
    <span class="line">
      {where} {vip.reason && <span class="quiet" title={vip.detail}>({vip.reason})</span>}
    </span>
  );
}

function Peers({ peers, now }: { peers: PeerRow[] | null; now: number }) {
  if (peers === null) return <p class="quiet">BGP is not configured: nothing is announced.</p>;
  return (
    <section aria-label="Routers">
      <h2>Routers</h2>
      <div class="wide">
        <table>
          <thead>
            <tr>
              <th scope="col">Router</th>
              <th scope="col">BGP</th>
              <th scope="col">BFD</th>
              <th scope="col" class="number">Routes sent</th>
              <th scope="col">Since</th>
            </tr>
          </thead>
          <tbody>
            {peers.map((peer) => (
              <tr key={peer.address} class={peer.session === "up" ? "up" : "down"}>
                <th scope="row">{peer.address}</th>
                <td>
                  <span class={`dot ${peer.session === "up" ? "green" : "red"}`} /> {peer.session}
                  {peer.detail && <span class="why">{peer.detail}</span>}
                </td>
                <td>{peer.bfd ?? "–"}</td>
                <td class="number">{peer.routes_sent}</td>
                <td>{peer.since === null ? "–" : <time title={clock(peer.since)}>{span(now - peer.since)}</time>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
