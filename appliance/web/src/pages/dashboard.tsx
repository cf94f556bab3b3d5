import { Component } from "preact";
import { memo } from "preact/compat";
import { useEffect, useMemo, useState } from "preact/hooks";
import { EventRows } from "../event_rows";
import { bits, clock, short, span } from "../format";
import { may } from "../api";
import type { Me, PeerRow, ServiceRow, Summary } from "../api.gen";
import { useHappened } from "../happened";
import { go, href } from "../router";
import { areAlike } from "../summary";

/** So many rows are drawn at first: nobody reads more, and a thousand cost a browser's breath. */
const ROWS = 100;

/** So many at once, and the next ones with the next frame. */
const AT_ONCE = 20;

/** So many problems stand above the table: all are in its rows as well. */
const PROBLEMS = 5;

type VipRow = ServiceRow["vips"][number];

export function Dashboard({ summary, me }: { summary: Summary; me: Me }) {
  const [wanted, want] = useState("");
  const [most, show] = useState(ROWS);
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
            {summary.health.problems.slice(0, PROBLEMS).map((problem) => (
              <li>{problem}</li>
            ))}
          </ul>
          {summary.health.problems.length + summary.health.more > PROBLEMS && <p>and {summary.health.problems.length + summary.health.more - PROBLEMS} more</p>}
        </section>
      )}
      <section aria-label="Virtual services">
        <div class="bar">
          <h2>Virtual services</h2>
          {may(me, "admin") && (
            <button type="button" onClick={() => go("new", "virtual-services")}>New virtual service</button>
          )}
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
            <Rows rows={rows.slice(0, most)} />
          </table>
        </div>
        {rows.length > most && (
          <p>
            <button type="button" onClick={() => show(most + ROWS)}>Show {Math.min(ROWS, rows.length - most)} more of {rows.length}</button>
          </p>
        )}
        {rows.length === 0 && <p class="quiet">No virtual service is like that.</p>}
      </section>
      <div class="halves">
        <Peers peers={summary.bgp?.peers ?? null} now={summary.time} />
        <Latest />
      </div>
    </>
  );
}

function chosen(services: ServiceRow[], wanted: string): ServiceRow[] {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const sorted = [...services].sort((a, b) => urgency(a) - urgency(b)); // stable: the file's order otherwise
  if (words.length === 0) return sorted;
  const text = ({ name, state, pool, vips }: ServiceRow) =>
    [name, state, pool, ...vips.map(({ vip }) => vip)].join(" ").toLowerCase();
  return sorted.filter((service) => words.every((word) => text(service).includes(word)));
}

/** What is broken stands first. */
function urgency({ state, score }: ServiceRow): number {
  return state === "down" ? 0 : state === "disabled" ? 3 : (score ?? 0) < 100 ? 1 : 2;
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

function Rows({ rows }: { rows: ServiceRow[] }) {
  const pieces = Math.ceil(rows.length / AT_ONCE);
  const [ready, more] = useState(1);
  useEffect(() => {
    if (ready >= pieces) return undefined;
    const frame = requestAnimationFrame(() => more(ready + 1));
    return () => cancelAnimationFrame(frame);
  }, [ready, pieces]);
  return (
    <>
      {Array.from({ length: Math.min(ready, pieces) }, (_, piece) => (
        <Piece key={piece} rows={rows.slice(piece * AT_ONCE, (piece + 1) * AT_ONCE)} />
      ))}
    </>
  );
}

const pieces = new Map<Element, Piece>();
const watcher = new IntersectionObserver((seen) => seen.forEach((one) => pieces.get(one.target)?.show(one.isIntersecting)), { rootMargin: "200px" });

/** Some rows. While nobody can see them, rates are not drawn, and all else is. */
class Piece extends Component<{ rows: ServiceRow[] }> {
  private seen = true;

  show(seen: boolean): void {
    if (seen && !this.seen) this.forceUpdate();
    this.seen = seen;
  }

  override componentDidMount(): void {
    pieces.set(this.base as Element, this);
    watcher.observe(this.base as Element);
  }

  override componentWillUnmount(): void {
    pieces.delete(this.base as Element);
    watcher.unobserve(this.base as Element);
  }

  override shouldComponentUpdate({ rows }: { rows: ServiceRow[] }): boolean {
    const before = this.props.rows;
    return this.seen || rows.length !== before.length || rows.some((row, place) => !areAlike(row, before[place] as ServiceRow));
  }

  render() {
    return (
      <tbody>
        {this.props.rows.map((service) => (
          <Row key={service.name} service={service} />
        ))}
      </tbody>
    );
  }
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
        {service.state !== "disabled" && service.score_reason && <span class="why">{service.score_reason}</span>}
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
        {service.moving_slots > 0 && <span class="quiet" title="slots are on their way to other members"> ⇄</span>}
      </td>
      <td class="number">{short(service.packets_per_s)}</td>
      <td class="number">{bits(service.bytes_per_s)}</td>
      <td class="number">{short(service.new_flows_per_s)}</td>
    </tr>
  ),
  (before, after) => before.service === after.service,
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
  return (
    <span class="line" title={vip.detail}>
      {vip.announced ? (vip.standing ? "here, as standby" : "here") : "not here"}
      {vip.reason && <span class="quiet"> ({vip.reason.replaceAll("_", " ")})</span>}
      {vip.elsewhere && <span class="quiet">{vip.elsewhere.length > 0 ? `, elsewhere: ${vip.elsewhere.join(", ")}` : ", nowhere else"}</span>}
      {vip.arp && <span class="quiet"> ARP {vip.arp}</span>}
    </span>
  );
}

function Latest() {
  const { items, trouble } = useHappened();
  return (
    <section aria-label="Latest events">
      <h2>Latest events</h2>
      <div class="wide" tabIndex={0} role="group" aria-label="The latest eight">
        <table>
          <tbody>
            <EventRows items={items.slice(-8)} />
          </tbody>
        </table>
      </div>
      {items.length === 0 && <p class="quiet">{trouble || "Nothing yet."}</p>}
    </section>
  );
}

function Peers({ peers, now }: { peers: PeerRow[] | null; now: number }) {
  if (peers === null) return <p class="quiet">BGP is not configured: nothing is announced.</p>;
  return (
    <section aria-label="Routers">
      <h2>Routers</h2>
      <div class="wide" tabIndex={0} role="group" aria-label="Sessions">
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
