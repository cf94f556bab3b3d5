// What `/api/v1/summary` tells once a second: everything the dashboard shows, small however many members there are.

export interface VipRow {
  vip: string;
  announced: boolean;
  reason: string | null;
  detail: string;
  /** Of the other directors, those that announce it; null where that is not known. */
  elsewhere: string[] | null;
}

export interface Rates {
  packets_per_s: number | null;
  bytes_per_s: number | null;
  new_flows_per_s: number | null;
}

export interface ServiceRow extends Rates {
  name: string;
  state: "up" | "down" | "disabled";
  /** Why not, in words; empty when all is well. */
  reason: string;
  /** 0 to 100; null for what is disabled. */
  score: number | null;
  score_reason: string;
  protocol: string;
  ports: string[];
  pool: string;
  delivery: string;
  in_rotation: number;
  members: number;
  in_transition: boolean;
  vips: VipRow[];
}

export interface PeerRow {
  address: string;
  session: string;
  since: number | null;
  detail: string;
  routes_sent: number;
  bfd: string | null;
}

export interface Summary extends Rates {
  time: number;
  director: { name: string; version: string; uptime_s: number; state: string; detail: string };
  health: { state: "healthy" | "degraded" | "down"; problems: string[] };
  plane: { name: string; error: string | null };
  loop_lag_p99_s: number | null;
  pins: { live: number; capacity: number };
  services: ServiceRow[];
  /** Null without BGP. */
  peers: PeerRow[] | null;
}
