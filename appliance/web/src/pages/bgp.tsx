import { useAsked } from "../api";
import type { Status } from "../api.gen";
import { clock, span } from "../format";
import { href } from "../router";

interface Told {
  peer: string;
  told: boolean;
  reason: string | null;
  detail: string;
  next_hop: string | null;
  attributes: { med: number | null; local_preference: number | null; as_path: number[]; communities: string[]; large_communities: string[] } | null;
}

interface Vip {
  vip: string;
  services: string[];
  wanted: boolean;
  reason: string | null;
  detail: string;
  held_until: number | null;
  ha: string;
  ranked: string[];
  standing: number | null;
  away: string[];
  absent: string[];
  peers: Told[];
}

interface Announced {
  time?: number;
  vips: Vip[];
  bgp: Status["bgp"];
}

export function Bgp() {
  const { data, error } = useAsked<Announced>("/bgp", 1000);
  if (!data) return <><h1>BGP</h1><p class="quiet">{error || "Waiting for the director …"}</p></>;
  const now = Date.now() / 1000;
  return (
    <>
      <h1>BGP</h1>
      {data.bgp === null ? (
        <p>BGP is not configured: nothing is announced, and the network has to be told the way to the VIPs by hand.</p>
      ) : (
        <>
          <p class="quiet">AS {data.bgp.local_as}, identifier {data.bgp.router_id}. {data.bgp.running ? "" : `The speaker does not run: ${data.bgp.detail}`}</p>
          <h2>Routers</h2>
          <div class="wide" tabIndex={0} role="region" aria-label="Routers">
            <table>
              <thead>
                <tr><th scope="col">Router</th><th scope="col">AS</th><th scope="col">Session</th><th scope="col">Since</th><th scope="col">BFD</th><th scope="col">Routes sent</th></tr>
              </thead>
              <tbody>
                {data.bgp.peers.map((peer) => (
                  <tr key={peer.address} class={peer.session === "up" ? "up" : "down"}>
                    <th scope="row">{peer.address} <span class="quiet">{peer.labels.join(" ")}</span></th>
                    <td>{peer.remote_as ?? "–"}</td>
                    <td><span class={`dot ${peer.session === "up" ? "green" : "red"}`} /> {peer.session}{peer.detail && <span class="why">{peer.detail}</span>}</td>
                    <td>{peer.since ? <span title={clock(peer.since)}>{span(now - peer.since)}</span> : "–"}</td>
                    <td>{peer.bfd ? String(peer.bfd["state"]) : "–"}{peer.bfd?.["detail"] ? <span class="why">{String(peer.bfd["detail"])}</span> : null}</td>
                    <td>{peer.routes_sent.map((one) => <span class="line">{one}</span>)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
      <h2>VIPs, and why they are announced or not</h2>
      <div class="wide" tabIndex={0} role="region" aria-label="VIPs">
        <table>
          <thead>
            <tr><th scope="col">VIP</th><th scope="col">Virtual services</th><th scope="col">Announced</th><th scope="col">Directors</th><th scope="col">Routers, and what they are told</th></tr>
          </thead>
          <tbody>
            {data.vips.map((one) => (
              <tr key={one.vip} class={one.wanted ? "up" : "down"}>
                <th scope="row">{one.vip}</th>
                <td>{one.services.map((name) => <a class="line" href={href("virtual-services", name)}>{name}</a>)}</td>
                <td>
                  <span class={`dot ${one.wanted ? "green" : "none"}`} /> {one.wanted ? "yes" : "no"}
                  {!one.wanted && <span class="why">{because(one)}{one.held_until !== null && `, until ${clock(one.held_until)}`}</span>}
                </td>
                <td>
                  {one.ha.replaceAll("_", " ")}
                  {one.ranked.length > 0 && <span class="line quiet">{one.ranked.join(", then ")}</span>}
                  {one.away.length > 0 && <span class="why">nothing is heard of {one.away.join(", ")}</span>}
                  {one.absent.length > 0 && <span class="why">routers do not have it from {one.absent.join(", ")}</span>}
                </td>
                <td>
                  {one.peers.map((peer) => (
                    <span class="line">
                      <span class={`dot ${peer.told ? "green" : "none"}`} /> {peer.peer} {peer.told ? "told" : "not told"} <span class="quiet">{peer.told ? route(peer) : because(peer)}</span>
                    </span>
                  ))}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

function because({ reason, detail }: { reason: string | null; detail: string }): string {
  return `${(reason ?? "").replaceAll("_", " ")}${detail ? `: ${detail}` : ""}`;
}

function route({ next_hop, attributes }: Told): string {
  if (!attributes) return "";
  const parts: [string, string | number | null][] = [
    ["next hop", next_hop],
    ["MED", attributes.med],
    ["local preference", attributes.local_preference],
    ["AS path", attributes.as_path.join(" ")],
    ["communities", [...attributes.communities, ...attributes.large_communities].join(" ")],
  ];
  return parts.filter(([, value]) => value !== null && value !== "").map(([name, value]) => `${name} ${value}`).join(", ");
}
