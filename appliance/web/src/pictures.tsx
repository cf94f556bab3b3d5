// Pictures of a virtual service, drawn from its state.

import type { ServiceMember, ServiceNow } from "./api.gen";
import { percent } from "./format";

const SHADES = 8;

/** Whether a member is out although somebody wants it in. */
export function isBroken(member: ServiceMember): boolean {
  const meant = ["disabled", "ratio_zero", "removed", "drain", "drain_over", "maint", "maintenance"];
  return member.state === "out" && !meant.includes(member.reason ?? "");
}

/** Why its part of the path is red; empty: it is not. */
function breakOf(member: ServiceMember): string {
  if (isBroken(member)) return member.finding || member.detail || (member.reason ?? "").replaceAll("_", " ");
  return member.doctor.join("; ");
}

// --------------------------------------------------------------------------------------------------------------------
// The ring

/** Share of the slots by member; the outer band is what changes hands. */
export function Ring({ now }: { now: ServiceNow }) {
  const ring = now.ring;
  if (!ring) return <p class="quiet">The tables do not have this service.</p>;
  const moving = ring.members.reduce((sum, one) => sum + one.gets, 0);
  const ending = ring.members.reduce((sum, one) => sum + one.ends, 0);
  let from = 0;
  const arcs = ring.members.map((one, i) => {
    const begin = from;
    from += one.has / ring.slots;
    return { ...one, i, begin, end: from };
  });
  const words = arcs.filter((one) => one.has > 0).map((one) => `${one.id ?? "nobody"} ${percent(one.has / ring.slots)}`).join(", ");
  return (
    <figure class="ring" aria-label="The ring">
      <svg viewBox="-100 -100 200 200" role="img" aria-label={`Share of ${ring.slots} slots: ${words}; ${moving} change hands`}>
        {arcs.map((one) => (
          <path class={one.id ? `shade-${one.i % SHADES}` : "nobody"} d={arc(one.begin, one.end, 50, 84)}>
            <title>{`${one.id ?? "nobody"}: ${one.has} of ${ring.slots} slots`}</title>
          </path>
        ))}
        {arcs.filter((one) => one.gets > 0).map((one) => (
          <path class="window" d={arc(one.begin, one.begin + one.gets / ring.slots, 87, 97)}>
            <title>{`${one.id ?? "nobody"} is getting ${one.gets} slots`}</title>
          </path>
        ))}
        {arcs.filter((one) => one.ends > 0).map((one) => (
          <path class="tail" d={arc(one.begin + one.gets / ring.slots, one.begin + (one.gets + one.ends) / ring.slots, 87, 97)}>
            <title>{`${one.id ?? "nobody"} has had ${one.ends} slots for a moment; flows from before are remembered`}</title>
          </path>
        ))}
        <text y="-2" class="big">{ring.slots.toLocaleString("en").replaceAll(",", " ")}</text>
        <text y="14">slots</text>
        {moving > 0 && <text y="28" class="moving">{percent(moving / ring.slots)} moving</text>}
      </svg>
      <figcaption>
        {arcs.map((one) => (
          <span class="line">
            <span class={`swatch shade-${one.i % SHADES}`} /> {one.id ?? "nobody"} {percent(one.has / ring.slots)}
            {one.gets > 0 && <span class="quiet"> getting {percent(one.gets / ring.slots)}</span>}
            {one.gives > 0 && <span class="quiet"> giving away {percent(one.gives / ring.slots)}</span>}
          </span>
        ))}
        <span class="quiet">
          {moving > 0 ? "Light band: slots in their window, where flows from before stay where they are." : ending > 0 ? "Thin band: slots in their tail, where flows from before are remembered." : "No slot is on its way."}
        </span>
      </figcaption>
    </figure>
  );
}

function arc(begin: number, end: number, inner: number, outer: number): string {
  const whole = end - begin >= 0.9999;
  const stop = whole ? begin + 0.9999 : end;
  const at = (part: number, radius: number) => {
    const angle = part * 2 * Math.PI - Math.PI / 2;
    return `${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`;
  };
  const large = stop - begin > 0.5 ? 1 : 0;
  return `M${at(begin, outer)} A${outer} ${outer} 0 ${large} 1 ${at(stop, outer)} L${at(stop, inner)} A${inner} ${inner} 0 ${large} 0 ${at(begin, inner)}Z`;
}

// --------------------------------------------------------------------------------------------------------------------
// The path

const MOST = 8;
const ROW = 34;

/** Client to member and back: what a packet passes, red where it is broken. */
export function Path({ now }: { now: ServiceNow }) {
  // Who is broken is drawn, however many there are.
  const members = [...now.members].sort((a, b) => Number(breakOf(b) !== "") - Number(breakOf(a) !== "")).slice(0, MOST);
  const routers = now.routers.slice(0, MOST);
  const height = Math.max(members.length, routers.length, 3) * ROW + 70;
  const middle = height / 2 - 15;
  const spread = (count: number, i: number) => middle + (i - (count - 1) / 2) * ROW;
  const up = now.service.state === "up" && !now.director.error;
  const announced = now.service.vips.some((vip) => vip.announced);
  const breaks = [
    ...(now.director.error ? [`data plane: ${now.director.error}`] : []),
    ...routers.filter((one) => one.session !== "up").map((one) => `router ${one.address}: ${one.session}`),
    ...now.members.filter((one) => breakOf(one) !== "").map((one) => `${one.id}: ${breakOf(one)}`),
  ];
  const overheads = new Set(now.members.map((one) => (one.address.includes(":") ? now.overhead.v6 : now.overhead.v4)));
  return (
    <figure class="path" aria-label="The path" tabIndex={0}>
      <svg viewBox={`0 0 900 ${height}`} role="img" aria-label={`Path of a packet. ${breaks.length ? `Broken: ${breaks.join("; ")}` : "Nothing is known to be broken."}`}>
        <defs>
          <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto-start-reverse">
            <path d="M0 0L8 4L0 8Z" class="tip" />
          </marker>
        </defs>
        <Box x={10} y={middle} width={90} text="clients" note="" tone="" />
        {routers.length === 0 ? (
          <g>
            <Wire from={[100, middle]} to={[390, middle]} tone={up ? "good" : "bad"} />
            <text x={245} y={middle - 8} class="note">no BGP: routes by hand</text>
          </g>
        ) : (
          routers.map((one, i) => {
            const y = spread(routers.length, i);
            const tone = one.session !== "up" ? "bad" : one.told && announced ? "good" : "idle";
            return (
              <g key={one.address}>
                <Wire from={[100, middle]} to={[160, y]} tone={tone} />
                <Box x={160} y={y} width={150} text={one.address} note={one.session === "up" ? (one.told ? "told of the VIP" : "not told") : one.session} tone={tone} />
                <Wire from={[310, y]} to={[390, middle]} tone={tone} />
              </g>
            );
          })
        )}
        <Box x={390} y={middle} width={120} text={now.director.name} note={now.director.plane} tone={up ? "good" : "bad"} />
        <text x={450} y={middle + 30} class="note">{[now.service.delivery, ...[...overheads].filter((bytes) => bytes > 0).map((bytes) => `+${bytes} bytes`)].join(", ")}</text>
        {members.map((one, i) => {
          const y = spread(members.length, i);
          const tone = breakOf(one) !== "" ? "bad" : one.state === "in_rotation" ? "good" : "idle";
          return (
            <g key={one.id}>
              <Wire from={[510, middle]} to={[620, y]} tone={tone} />
              <Box x={620} y={y} width={190} text={`${one.name} ${one.address}`} note={one.state === "in_rotation" ? percent(one.share) : `${one.state.replace("_", " ")}: ${(one.reason ?? "").replaceAll("_", " ")}`} tone={tone} />
              <title>{breakOf(one)}</title>
            </g>
          );
        })}
        {now.members.length > MOST && <text x={715} y={height - 42} class="note">and {now.members.length - MOST} more</text>}
        <path class="wire back" d={`M810 ${middle} C880 ${middle} 880 ${height - 14} 810 ${height - 14} L90 ${height - 14} C40 ${height - 14} 55 ${height - 30} 55 ${middle + 18}`} marker-end="url(#tip)" />
        <text x={450} y={height - 20} class="note">replies go straight to the client (DSR): no director sees them</text>
      </svg>
      {breaks.length > 0 && (
        <ul class="breaks">
          {breaks.slice(0, 6).map((text) => (
            <li>{text}</li>
          ))}
        </ul>
      )}
    </figure>
  );
}

function Box({ x, y, width, text, note, tone }: { x: number; y: number; width: number; text: string; note: string; tone: string }) {
  const letters = Math.floor(width / 6.6);
  return (
    <g class={`box ${tone}`}>
      <rect x={x} y={y - 15} width={width} height={30} rx={5} />
      <text x={x + width / 2} y={note ? y - 2 : y + 4}>{text.slice(0, letters)}</text>
      {note && <text x={x + width / 2} y={y + 10} class="note">{note.slice(0, letters + 4)}</text>}
    </g>
  );
}

function Wire({ from, to, tone }: { from: [number, number]; to: [number, number]; tone: string }) {
  return <path class={`wire ${tone}`} d={`M${from[0]} ${from[1]} L${to[0]} ${to[1]}`} marker-end="url(#tip)" />;
}
