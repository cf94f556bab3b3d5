// The director's API. Errors are problem details (RFC 9457), and come as `Refused`.

import { useEffect, useState } from "preact/hooks";
import type { Error as Mistake, Me } from "./api.gen";

export interface Problem {
  title: string;
  status: number;
  detail: string;
  errors?: Mistake[];
  used_by?: string[];
  etag?: string | null;
  changed?: { revision: number; at: number; who: string; via: string; why: string } | null;
}

export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

export interface Answer<T> {
  data: T;
  etag: string | null;
}

const BASE = "/api/v1";
const JSON_TYPE = "application/json";

let me: Me | undefined;
const tell = new Set<() => void>();

/** Ask for something.
 *
 * @param body An object, sent as JSON; or bytes, of the type that the headers say.
 * @throws Refused, also when the director cannot be reached.
 */
export async function ask<T>(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answer<T>> {
  const sent: Record<string, string> = { Accept: JSON_TYPE, ...headers };
  if (me?.csrf && method !== "GET") sent["X-CSRF-Token"] = me.csrf;
  const request: RequestInit = { method, headers: sent, credentials: "same-origin", cache: "no-store" };
  if (body instanceof ArrayBuffer) request.body = body;
  else if (body !== undefined) {
    request.body = JSON.stringify(body);
    sent["Content-Type"] ??= JSON_TYPE;
  }
  let response: Response;
  try {
    response = await fetch(BASE + path, request);
  } catch {
    throw new Refused({ title: "No answer", status: 0, detail: "the director cannot be reached" });
  }
  const text = await response.text();
  const data: unknown = text && response.headers.get("Content-Type")?.includes("json") ? JSON.parse(text) : undefined;
  if (response.ok) return { data: data as T, etag: response.headers.get("ETag") };
  if (response.status === 401 && !path.startsWith("/login")) void whoAmI();
  const bare: Problem = { title: response.statusText, status: response.status, detail: text || response.statusText };
  throw new Refused((data as Problem | undefined) ?? bare);
}

/** The words of a problem. */
export function why(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

// --------------------------------------------------------------------------------------------------------------------
// Who am I

const ROLES = ["nobody", "viewer", "operator", "admin"] as const;
export type Role = (typeof ROLES)[number];

export function may(who: Me | undefined, role: Role): boolean {
  return who !== undefined && ROLES.indexOf(who.role) >= ROLES.indexOf(role);
}

export async function whoAmI(): Promise<void> {
  try {
    me = (await ask<Me>("GET", "/me")).data;
  } catch {
    return; // asked again with the next request
  }
  tell.forEach((one) => one());
}

export async function logIn(name: string, password: string): Promise<void> {
  me = (await ask<Me>("POST", "/login", { name, password })).data;
  tell.forEach((one) => one());
}

export async function logOut(): Promise<void> {
  await ask("POST", "/logout");
  await whoAmI();
}

/** Undefined: not known yet. */
export function useMe(): Me | undefined {
  const [, again] = useState(0);
  useEffect(() => {
    const one = () => again((count) => count + 1);
    tell.add(one);
    if (me === undefined) void whoAmI();
    return () => void tell.delete(one);
  }, []);
  return me;
}

// --------------------------------------------------------------------------------------------------------------------
// Looking

export interface Loaded<T> {
  data: T | undefined;
  etag: string | null;
  error: string;
  again: () => void;
}

/** What is there now, and again when asked, or every so many milliseconds. */
export function useAsked<T>(path: string, every = 0): Loaded<T> {
  const [state, set] = useState<{ path: string; data?: T; etag: string | null; error: string }>({ path, etag: null, error: "" });
  const [turn, again] = useState(0);
  useEffect(() => {
    let over = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async () => {
      try {
        const { data, etag } = await ask<T>("GET", path);
        if (!over) set({ path, data, etag, error: "" });
      } catch (error) {
        if (!over) set((before) => ({ ...before, path, error: why(error) }));
      }
      if (!over && every > 0) timer = setTimeout(() => void look(), every);
    };
    void look();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [path, every, turn]);
  const mine = state.path === path;
  return { data: mine ? state.data : undefined, etag: mine ? state.etag : null, error: mine ? state.error : "", again: () => again(turn + 1) };
}
