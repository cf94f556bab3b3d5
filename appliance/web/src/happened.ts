// The latest events, asked for every second by all who look, once.

import { useEffect, useState } from "preact/hooks";
import { ask, why } from "./api";
import type { Events } from "./api.gen";

export type Happening = Events["items"][number];

const KEPT = 1000;
let items: Happening[] = [];
let trouble = "";
let after = -1;
let users = 0;
let timer: ReturnType<typeof setTimeout> | undefined;
const tell = new Set<() => void>();

async function look(): Promise<void> {
  try {
    const query = after < 0 ? `limit=${KEPT}` : `limit=${KEPT}&after=${after}`;
    const { data } = await ask<Events>("GET", `/events?${query}`);
    if (data.items.length > 0) items = [...items, ...data.items].slice(-KEPT);
    after = Math.max(0, data.last_id);
    trouble = "";
  } catch (error) {
    trouble = why(error);
  }
  tell.forEach((one) => one());
  if (users > 0) timer = setTimeout(() => void look(), document.hidden ? 5000 : 1000);
}

/** The latest last. */
export function useHappened(): { items: Happening[]; trouble: string } {
  const [, again] = useState(0);
  useEffect(() => {
    const one = () => again((count) => count + 1);
    tell.add(one);
    users += 1;
    if (users === 1) void look();
    return () => {
      tell.delete(one);
      users -= 1;
      if (users === 0) clearTimeout(timer);
    };
  }, []);
  return { items, trouble };
}

/** An event's fields as one line. */
export function told(one: Happening): string {
  return Object.entries(one.fields)
    .filter(([, value]) => value !== null && value !== "")
    .map(([key, value]) => `${key}=${typeof value === "object" ? JSON.stringify(value) : String(value)}`)
    .join("  ");
}

/** Whether an event is about one of these things: members (POOL/MEMBER), services, VIPs, peers. */
export function isAbout(one: Happening, things: ReadonlySet<string>): boolean {
  return ["member", "service", "vip", "prefix", "peer"].some((key) => things.has(String(one.fields[key] ?? "")));
}
