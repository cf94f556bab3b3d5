import { useAsked } from "../api";
import type { Status } from "../api.gen";
import { clock, span } from "../format";

interface Vip {
  vip: string;
  [key: string]: unknown;
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
          <tbody>
            {data.vips.map((one) => (
              <tr key={one.vip}>
                <th scope="row">{one.vip}</th>
                <td>
                  {Object.entries(one).filter(([key, value]) => key !== "vip" && value !== null && value !== "" && !(Array.isArray(value) && value.length === 0)).map(([key, value]) => (
                    <span class="line"><span class="quiet">{key.replaceAll("_", " ")}</span> {plain(value)}</span>
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

function plain(value: unknown): string {
  if (Array.isArray(value)) return value.map(plain).join("; ");
  if (value !== null && typeof value === "object")
    return Object.entries(value).filter(([, one]) => one !== null && one !== "").map(([key, one]) => `${key.replaceAll("_", " ")} ${plain(one)}`).join(", ");
  return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
}
