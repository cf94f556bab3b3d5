// The last five minutes of a virtual service and of the director: what the director remembers, and what has come since.

import { useEffect, useRef, useState } from "preact/hooks";
import { ask } from "./api";
import type { Summary, TrafficPast } from "./api.gen";

const KEPT = 300;
const RATES = ["bytes_per_s", "packets_per_s", "new_flows_per_s"] as const;

/** Whoever has heard nothing for longer asks for the past again. */
const GAP_S = 3;

type Values = (number | null)[];

export interface Track {
  /** Seconds since 1970. */
  at: number[];
  /** As many values each: rates of the virtual service, `pins`, and of the director `drop REASON`. */
  lines: Record<string, Values>;
}

/** The track of a virtual service, with the latest summary at its end. */
export function useTrack(name: string, summary: Summary): Track {
  const track = useRef<Track>({ at: [], lines: {} });
  const last = useRef<Summary>();
  const turn = useRef(0);
  const [, again] = useState(0);
  const before = last.current;
  if (before !== summary) {
    if (before && summary.time - before.time > GAP_S) {
      track.current = { at: [], lines: {} };
      turn.current += 1;
    }
    if (!before || summary.time > before.time) note(track.current, name, summary, before);
    last.current = summary;
  }
  useEffect(() => {
    let over = false;
    const look = async () => {
      try {
        const { data } = await ask<TrafficPast>("GET", `/services/${encodeURIComponent(name)}/traffic`);
        if (over) return;
        track.current = joined(data, track.current);
        again((count) => count + 1);
      } catch {
        // charts begin now
      }
    };
    void look();
    return () => {
      over = true;
    };
  }, [name, turn.current]);
  return track.current;
}

function note(track: Track, name: string, summary: Summary, before: Summary | undefined): void {
  const row = summary.services.find((one) => one.name === name);
  const seconds = before ? summary.time - before.time : 0;
  const values: Record<string, number | null> = { pins: summary.pins.live };
  for (const key of RATES) values[key] = row?.[key] ?? null;
  for (const [reason, count] of Object.entries(summary.drops ?? {}))
    values[`drop ${reason}`] = before?.drops && seconds > 0 ? Math.max(0, count - (before.drops[reason] ?? 0)) / seconds : null;
  const length = track.at.push(summary.time);
  for (const [key, value] of Object.entries(values)) {
    const line = (track.lines[key] ??= new Array<number | null>(length - 1).fill(null));
    while (line.length < length - 1) line.push(null);
    line.push(value);
  }
  if (length > KEPT + 60) {
    track.at.splice(0, length - KEPT); // now and then, not every second
    for (const line of Object.values(track.lines)) line.splice(0, Math.max(0, line.length - KEPT));
  }
}

/** What the director remembers of before, and what this page has seen since. */
function joined(past: TrafficPast, { at, lines }: Track): Track {
  const first = at[0] ?? Infinity;
  const count = past.times.filter((time) => time < first - 0.5).length;
  const older: Record<string, Values> = { pins: past.pins };
  for (const key of RATES) older[key] = past[key];
  for (const [reason, values] of Object.entries(past.drops)) older[`drop ${reason}`] = values;
  const keys = new Set([...Object.keys(older), ...Object.keys(lines)]);
  const unknown = (length: number): Values => new Array<number | null>(length).fill(null);
  const whole = (key: string): Values => [...(older[key]?.slice(0, count) ?? unknown(count)), ...(lines[key] ?? unknown(at.length))];
  return { at: [...past.times.slice(0, count), ...at], lines: Object.fromEntries([...keys].map((key) => [key, whole(key)])) };
}
