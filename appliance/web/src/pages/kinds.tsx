// What the forms of each kind of object ask for. Keys are those of the configuration; what a form does not show stays.

import type { MonitorShown, ProfileShown } from "../api.gen";

export type Values = Record<string, unknown>;

export interface Field {
  /** Keys, with a dot for tables within. */
  path: string;
  label: string;
  kind: "text" | "number" | "flag" | "choice" | "words" | "one" | "some";
  choices?: readonly string[];
  names?: Record<string, string>;
  /** Of which objects: for "one" and "some". */
  of?: string;
  hint?: string;
  when?: (values: Values) => boolean;
  /** What else becomes of the object when this is chosen. */
  then?: (values: Values) => Values;
}

export interface Kind {
  title: string;
  one: string;
  fresh: Values;
  fields: readonly Field[];
}

const typeIs = (...types: string[]) => (values: Values) => types.includes(String((values as unknown as MonitorShown).type));
const dsr = (values: Values) => (values as unknown as ProfileShown).dsr;
const HTTP = typeIs("http", "https");
const COMMON = ["name", "type", "send_interval", "successful_checks", "failed_checks", "quick_start"];

export const KINDS: Record<string, Kind> = {
  "virtual-services": {
    title: "Virtual services",
    one: "virtual service",
    fresh: { name: "", enabled: true, vips: [], ports: [], network_profile: "", pool: "", min_members: 1 },
    fields: [
      { path: "name", label: "Name", kind: "text" },
      { path: "enabled", label: "Traffic enabled", kind: "flag", hint: "Off: nobody answers for the VIPs, and nothing is announced." },
      { path: "vips", label: "VIPs", kind: "words", hint: "Addresses that clients use, separated by commas." },
      { path: "ports", label: "Ports", kind: "words", hint: "80, 8000-8080, or * for all." },
      { path: "network_profile", label: "TCP/UDP profile", kind: "one", of: "network-profiles" },
      { path: "pool", label: "Pool", kind: "one", of: "pools" },
      { path: "min_members", label: "Members that it needs", kind: "number", hint: "With fewer in rotation it is down, and its VIPs are withdrawn." },
    ],
  },
  pools: {
    title: "Pools",
    one: "pool",
    fresh: { name: "", algorithm: "consistent_hash", health_monitors: [], member: [{ address: "", ratio: 1, enabled: true }] },
    fields: [
      { path: "name", label: "Name", kind: "text" },
      {
        path: "algorithm",
        label: "Algorithm",
        kind: "choice",
        choices: ["consistent_hash", "round_robin", "random", "least_connections", "least_load", "fastest_response", "fewest_servers"],
      },
      { path: "health_monitors", label: "Health monitors", kind: "some", of: "health-monitors" },
      { path: "drain_timeout", label: "Drain for at most (seconds)", kind: "number", when: (values) => "drain_timeout" in values },
      { path: "slow_start", label: "Slow start (seconds)", kind: "number", when: (values) => "slow_start" in values },
    ],
  },
  "network-profiles": {
    title: "TCP/UDP profiles",
    one: "profile",
    fresh: { name: "", type: "tcp_fast_path", dsr: { type: "l3", encapsulation: "ipip" } },
    fields: [
      { path: "name", label: "Name", kind: "text" },
      { path: "type", label: "Type", kind: "choice", choices: ["tcp_fast_path", "udp_fast_path"], names: { tcp_fast_path: "TCP fast path", udp_fast_path: "UDP fast path" }, then: (values) => without(values, "session_idle_timeout", "per_packet") },
      {
        path: "dsr.type",
        label: "DSR type",
        kind: "choice",
        choices: ["l2", "l3"],
        names: { l2: "L2", l3: "L3" },
        when: (values) => Boolean(values["dsr"]),
        then: (values) => ({ ...without(values, "ttl"), dsr: dsr(values).type === "l3" ? { type: "l3", encapsulation: "ipip" } : { type: "l2" } }),
      },
      {
        path: "dsr.encapsulation",
        label: "DSR encapsulation",
        kind: "choice",
        choices: ["ipip", "gre", "gue"],
        names: { ipip: "IP in IP", gre: "GRE", gue: "GUE" },
        when: (values) => dsr(values)?.type === "l3",
      },
      {
        path: "dsr.outer_source",
        label: "Outer source",
        kind: "choice",
        choices: ["interface", "prefix"],
        names: { interface: "the interface's address", prefix: "an address of the director's prefix, by flow" },
        when: (values) => dsr(values)?.type === "l3",
      },
    ],
  },
  "health-monitors": {
    title: "Health monitors",
    one: "health monitor",
    fresh: { name: "", type: "tcp", send_interval: 10, successful_checks: 2, failed_checks: 2 },
    fields: [
      { path: "name", label: "Name", kind: "text" },
      { path: "type", label: "Type", kind: "choice", choices: ["tcp", "udp", "ping", "http", "https", "dns", "tls", "grpc", "external"], then: (values) => only(values, COMMON) },
      { path: "send_interval", label: "Ask every (seconds)", kind: "number" },
      { path: "receive_timeout", label: "Wait for an answer (seconds)", kind: "number", when: (values) => "receive_timeout" in values },
      { path: "successful_checks", label: "Up after good checks", kind: "number" },
      { path: "failed_checks", label: "Down after bad checks", kind: "number" },
      { path: "vantage", label: "Ask", kind: "choice", choices: ["", "path", "direct", "both"], names: { "": "as usual", path: "the VIP, by the member's DSR path", direct: "the member's own address", both: "both" }, when: (values) => values["type"] !== "external" },
      { path: "monitor_port", label: "Port (empty: the service's)", kind: "number", when: (values) => values["type"] !== "ping" },
      { path: "path", label: "Path", kind: "text", when: HTTP },
      { path: "host", label: "Host", kind: "text", when: HTTP },
      { path: "response_codes", label: "Good status codes", kind: "words", when: HTTP },
      { path: "request", label: "Request", kind: "text", when: typeIs("tcp", "udp") },
      { path: "response", label: "What the answer must have in it", kind: "text", when: typeIs("tcp", "udp", "http", "https", "external") },
      { path: "query_name", label: "Name to ask for", kind: "text", when: typeIs("dns") },
      { path: "service", label: "gRPC service", kind: "text", when: typeIs("grpc") },
      { path: "command", label: "Command", kind: "words", hint: "Program and arguments, separated by commas.", when: typeIs("external") },
    ],
  },
};

export function without(values: Values, ...keys: string[]): Values {
  return Object.fromEntries(Object.entries(values).filter(([key]) => !keys.includes(key)));
}

function only(values: Values, keys: string[]): Values {
  return Object.fromEntries(Object.entries(values).filter(([key]) => keys.includes(key)));
}

export function get(values: Values, path: string): unknown {
  return path.split(".").reduce<unknown>((inner, key) => (inner as Values | undefined)?.[key], values);
}

export function put(values: Values, path: string, value: unknown): Values {
  const [key = "", ...rest] = path.split(".");
  return { ...values, [key]: rest.length === 0 ? value : put((values[key] as Values | undefined) ?? {}, rest.join("."), value) };
}
