import { useState } from "preact/hooks";
import { ask, why } from "../api";

type Header = Record<string, unknown>;

interface Explained {
  packet: Header[];
  forwarded: boolean;
  verdict: string;
  reason: string | null;
  why: string | null;
  by: string | null;
  virtual_service: string | null;
  vip?: string;
  pool?: string;
  slot?: number;
  slots?: number;
  primary?: string | null;
  previous?: string | null;
  phase?: string;
  pin?: { member: string | null; state: string; idle_s: number; counts: boolean } | null;
  member: { id: string; address: string; interface: string } | null;
  others: { member: string; state: string; why: string }[];
  out: Header[][];
  mtu?: { length: number; largest: number; room: number; verdict: string };
  announced: boolean;
  not_announced: string | null;
  differences: string[];
}

export function Explain({ query }: { query: URLSearchParams }) {
  const [protocol, setProtocol] = useState(query.get("protocol") ?? "tcp");
  const [client, setClient] = useState(query.get("client") ?? "");
  const [vip, setVip] = useState(query.get("vip") ?? "");
  const [kind, setKind] = useState("syn");
  const [size, setSize] = useState("0");
  const [found, setFound] = useState<Explained[]>();
  const [error, setError] = useState("");
  const [over, setOver] = useState(false);
  async function look(asked: Promise<{ data: { packets: Explained[] } }>) {
    try {
      setFound((await asked).data.packets);
      setError("");
    } catch (wrong) {
      setFound(undefined);
      setError(why(wrong));
    }
  }
  function flow(event: Event) {
    event.preventDefault();
    const words = new URLSearchParams({ protocol, client, vip, size, ...(protocol === "tcp" ? { kind } : {}) });
    void look(ask("GET", `/explain?${words}`));
  }
  async function file(given: File | undefined) {
    if (!given) return;
    const bytes = await given.arrayBuffer();
    const next = new DataView(bytes).byteLength >= 4 && new DataView(bytes).getUint32(0) === 0x0a0d0d0a;
    await look(ask("POST", "/explain", bytes, { "Content-Type": next ? "application/x-pcapng" : "application/vnd.tcpdump.pcap" }));
  }
  return (
    <>
      <h1>Explain</h1>
      <form class="card row" onSubmit={flow}>
        <label>
          Protocol
          <select value={protocol} onChange={(event) => setProtocol(event.currentTarget.value)}><option>tcp</option><option>udp</option></select>
        </label>
        <label>
          Client
          <input required placeholder="192.0.2.7:40000" value={client} onInput={(event) => setClient(event.currentTarget.value)} />
        </label>
        <label>
          VIP and port
          <input required placeholder="198.51.100.7:80" value={vip} onInput={(event) => setVip(event.currentTarget.value)} />
        </label>
        {protocol === "tcp" && (
          <label>
            Packet
            <select value={kind} onChange={(event) => setKind(event.currentTarget.value)}>{["syn", "data", "fin", "rst"].map((one) => <option>{one}</option>)}</select>
          </label>
        )}
        <label>
          Bytes of IP (0: the least)
          <input type="number" min={0} max={65535} value={size} onInput={(event) => setSize(event.currentTarget.value)} />
        </label>
        <button type="submit" class="main">Explain</button>
        <label class={`drop ${over ? "over" : ""}`} onDragOver={(event) => { event.preventDefault(); setOver(true); }} onDragLeave={() => setOver(false)}
          onDrop={(event) => { event.preventDefault(); setOver(false); void file(event.dataTransfer?.files[0]); }}>
          Or drop a pcap here
          <input type="file" onChange={(event) => void file(event.currentTarget.files?.[0])} />
        </label>
      </form>
      {error && <p class="wrong" role="alert">{error}</p>}
      {found?.map((one, i) => <Packet one={one} number={found.length > 1 ? i + 1 : 0} />)}
    </>
  );
}

function Packet({ one, number }: { one: Explained; number: number }) {
  const rows: [string, string][] = [
    ["Virtual service", one.virtual_service ?? "none"],
    ["VIP", one.vip ? `${one.vip}, ${one.announced ? "announced" : `not announced: ${one.not_announced ?? ""}`}` : "–"],
    ["Slot", one.slot === undefined ? "–" : `${one.slot} of ${one.slots}, ${one.phase}`],
    ["Primary", one.primary ?? "–"],
    ["Previous", one.previous ?? "–"],
    ["Pin", one.pin ? `${one.pin.member ?? "nobody"}, ${one.pin.state}, idle ${one.pin.idle_s} s${one.pin.counts ? "" : ", does not count"}` : "none"],
    ["Decided by", one.by?.replaceAll("_", " ") ?? "–"],
    ["MTU", one.mtu ? `${one.mtu.length} of ${one.mtu.largest} bytes: ${one.mtu.verdict}` : "–"],
  ];
  return (
    <section class="card" aria-label={number ? `Packet ${number}` : "The answer"}>
      <h2>
        {number > 0 && `${number}. `}
        <span class={`dot ${one.forwarded ? "green" : "orange"}`} /> {one.forwarded ? <>goes to <strong data-answer="member">{one.member?.id}</strong> <span class="quiet">{one.member?.address} by {one.member?.interface}</span></> : `${one.verdict}: ${(one.reason ?? "").replaceAll("_", " ")}`}
      </h2>
      {one.why && <p>{one.why}</p>}
      {one.differences.length > 0 && <p class="problems down">Plane and model differ: {one.differences.join("; ")}</p>}
      <div class="halves">
        <dl class="rows">{rows.map(([name, text]) => <><dt>{name}</dt><dd>{text}</dd></>)}</dl>
        <div>
          <h3>In</h3>
          <Headers headers={one.packet} />
          {one.out.map((headers) => <><h3>Out</h3><Headers headers={headers} /></>)}
        </div>
      </div>
      {one.others.length > 0 && (
        <>
          <h3>Why no other member</h3>
          <ul>{one.others.map((other) => <li><strong>{other.member}</strong> <span class="quiet">{other.state.replace("_", " ")}</span>: {other.why}</li>)}</ul>
        </>
      )}
    </section>
  );
}

function Headers({ headers }: { headers: Header[] }) {
  return (
    <ol class="headers">
      {headers.map(({ header, ...rest }) => (
        <li>
          <strong>{String(header)}</strong>{" "}
          {Object.entries(rest).filter(([, value]) => value !== null && !(Array.isArray(value) && value.length === 0)).map(([key, value]) => <span><span class="quiet">{key.replaceAll("_", " ")}</span> {Array.isArray(value) ? value.join(" ") : String(value)} </span>)}
        </li>
      ))}
    </ol>
  );
}
