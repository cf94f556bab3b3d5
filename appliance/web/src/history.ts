// The last ten minutes of figures, by virtual service, as far as this page was open.

import type { ServiceRow, Summary } from "./api.gen";

export const KEPT = 600;
const KEYS = ["bytes_per_s", "packets_per_s", "new_flows_per_s"] as const;

export interface Track {
  at: number[];
  lines: Record<string, (number | null)[]>;
}

const tracks = new Map<string, Track>();
let before: { time: number; drops: Record<string, number> | null } | undefined;

/** Of the director as a whole: pins, and drops a second by reason. */
export const WHOLE = "";

export function note(summary: Summary): void {
  if (before && summary.time <= before.time) return;
  for (const row of summary.services) add(row.name, summary.time, ofService(row));
  const seconds = before ? summary.time - before.time : 0;
  const drops: Record<string, number | null> = {};
  for (const [reason, count] of Object.entries(summary.drops ?? {}))
    drops[`drop ${reason}`] = before?.drops && seconds > 0 ? Math.max(0, count - (before.drops[reason] ?? 0)) / seconds : null;
  add(WHOLE, summary.time, { pins: summary.pins.live, ...drops });
  before = { time: summary.time, drops: summary.drops };
}

export function track(name: string): Track {
  return tracks.get(name) ?? { at: [], lines: {} };
}

function ofService(row: ServiceRow): Record<string, number | null> {
  return Object.fromEntries(KEYS.map((key) => [key, row[key]]));
}

function add(name: string, at: number, values: Record<string, number | null>): void {
  let mine = tracks.get(name);
  if (!mine) tracks.set(name, (mine = { at: [], lines: {} }));
  const length = mine.at.push(at);
  for (const [key, value] of Object.entries(values)) {
    const line = (mine.lines[key] ??= new Array<number | null>(length - 1).fill(null));
    while (line.length < length - 1) line.push(null);
    line.push(value);
  }
  if (length > KEPT + 60) {
    mine.at.splice(0, length - KEPT); // now and then, not every second
    for (const line of Object.values(mine.lines)) line.splice(0, Math.max(0, line.length - KEPT));
  }
}
