// Made by `python -m appliance.api.typescript`; a test compares. Not to be edited.

export type Traffic = {
  packets: number | null;
  bytes: number | null;
  new_flows: number | null;
  packets_per_s: number | null;
  bytes_per_s: number | null;
  new_flows_per_s: number | null;
};

export type VipStatus = {
  vip: string;
  wanted: boolean;
  announced: boolean;
  reason: string | null;
  detail: string;
  sent_to: string[];
  arp: {
    phase: string;
    why: string;
    since: number | null;
    answers: number;
    conflicts: number;
  } | null;
  traffic: Traffic;
};

export type ServiceStatus = {
  name: string;
  state: "up" | "down" | "disabled";
  reason: string | null;
  detail: string;
  protocol: string;
  ports: string[];
  delivery: string;
  network_profile: string;
  hash_mode: string;
  algorithm: string;
  ha: string;
  pool: string;
  pool_key: string;
  min_members: number;
  in_rotation: number;
  transition: {
    window: number;
    tail: number;
    window_ends: number | null;
  };
  panic: string | null;
  vips: VipStatus[];
};

export type CheckStatus = {
  monitor: string;
  vantage: "direct" | "path";
  path: string | null;
  port: number | null;
  verdict: string;
  since: number | null;
  last: {
    code: string;
    detail: string;
    duration_s: number;
  } | null;
  good: number;
  bad: number;
  maintenance: number;
  turns: {
    verdict: string;
    at: number;
    code: string;
    detail: string;
  }[];
};

export type PoolMemberStatus = {
  name: string;
  id: string;
  address: string;
  ratio: number;
  state: string;
  reason: string | null;
  detail: string;
  health: string;
  share: number;
  ramp: number | null;
  remark: string | null;
  order: Order | null;
  until: number | null;
  drained: boolean;
  flows_remembered: number | null;
  fleet: {
    health: string;
    basis: string;
    mine: string;
    overruled: boolean;
    up: string[];
    down: string[];
    maintenance: string[];
  } | null;
  index: number;
  next_hop: NextHop | null;
  flap: {
    penalty: number;
    downs: number;
    until: number | null;
  } | null;
  dsr: {
    service: string;
    member: string;
    dsr_capable: string;
    reasons: string[];
  }[];
  checks: CheckStatus[];
  finding: string | null;
  segments: {
    vip: string;
    port: number;
    delivery: string;
    mss: number | null;
    limit: number | null;
    near: boolean;
    note: string | null;
  }[];
  replies: string;
  traffic: Traffic;
};

export type PoolStatus = {
  name: string;
  delivery: string;
  ttl: string;
  services: string[];
  traffic_of: string[];
  in_rotation: number;
  members: PoolMemberStatus[];
};

export type Sample = {
  at: number;
  clock: number;
  what: string;
  reason: string | null;
  interface: string;
  source: string | null;
  destination: string | null;
  protocol: string | null;
  length: number;
};

export type Status = {
  apiVersion: "v1";
  time: number;
  director: {
    name: string;
    version: string;
    started_at: number;
    uptime_s: number;
    interfaces: string[];
    hash_key: string;
    service: {
      state: "in_service" | "draining" | "drained";
      since: number | null;
      until: number | null;
      moved: boolean;
      detail: string;
    };
  };
  ready: {
    ready: boolean;
    parts: {
      name: string;
      ok: boolean;
      detail: string;
    }[];
  };
  plane: {
    error: string | null;
    name: string;
    notes: string[];
    facts: Record<string, string>;
  };
  config: {
    source: string;
    digest: string;
    last_reload: {
      ok: boolean;
      at: number;
      problems: string[];
      step: string;
      warnings: string[];
    };
    revision: number | null;
    staged: Staged | null;
  };
  services: ServiceStatus[];
  pools: Record<string, PoolStatus>;
  pins: {
    capacity: number;
    live: number;
  };
  fleet: {
    peers: (Record<string, unknown>)[];
    store: Record<string, unknown> | null;
  } | null;
  routes: {
    prefix: string;
    next_hop: string;
    attributes: string;
    peers: string[] | null;
    wanted: boolean;
    acknowledged: boolean;
    sent_to: string[];
  }[];
  bgp: {
    running: boolean;
    detail: string;
    local_as: number;
    router_id: string;
    peers: {
      address: string;
      remote_as: number | null;
      labels: string[];
      session: string;
      since: number | null;
      detail: string;
      routes_sent: string[];
      bfd: Record<string, unknown> | null;
    }[];
  } | null;
  counters: {
    drops: Record<string, number>;
    passes: Record<string, number>;
    replies_sent: Record<string, number>;
    details: Record<string, number>;
  } | null;
  samples: Sample[];
  replies: string;
  loop_lag: {
    p50_s: number;
    p99_s: number;
    max_s: number;
  };
  health: {
    state: "healthy" | "degraded" | "down";
    problems: string[];
  };
};

export type Staged = {
  revision: number;
  at: number;
  who: string;
  via: string;
  why: string;
  takes_restart: string[];
};

export type Error = {
  path: string;
  pointer: string | null;
  file: string;
  line: number | null;
  value: string | number | boolean | null;
  message: string;
  hint: string;
};

export type Problem = {
  type: string;
  title: string;
  status: number;
  detail: string;
  errors?: Error[];
};

export type Consequences = {
  changes: (Record<string, unknown>)[];
  services: {
    added: string[];
    changed: string[];
    removed: string[];
  };
  moves: (Record<string, unknown>)[];
  routes: {
    announce: string[];
    withdraw: string[];
    announce_later: string[];
  };
  deliveries: string[];
  members: {
    asked: string[];
    not_asked: string[];
  };
  refused: string[];
  summary: string;
};

export type Outcome = {
  ok: boolean;
  step: string;
  dry_run: boolean;
  at_restart: boolean;
  unchanged: boolean;
  written: boolean;
  problems: (Record<string, unknown>)[];
  consequences: Consequences;
  revision: number | null;
  staged: Staged | null;
  digest: string;
  seconds: number;
};

export type Changed = {
  apiVersion: "v1";
  ok: boolean;
  step: string;
  dry_run: boolean;
  at_restart: boolean;
  unchanged: boolean;
  written: boolean;
  problems: (Record<string, unknown>)[];
  consequences: Consequences;
  revision: number | null;
  staged: Staged | null;
  digest: string;
  seconds: number;
  kind: string;
  name: string;
  etag: string | null;
  object: Record<string, unknown> | null;
  diff: string;
};

export type ChangeStep = {
  kind: "virtual-services" | "members" | "pools" | "network-profiles" | "health-monitors" | "bgp-peers" | "fleet-directors" | "director" | "api" | "connection-log" | "doctor" | "tier2" | "fleet" | "bgp";
  op?: "put" | "create" | "patch" | "delete";
  name?: string;
  object?: Record<string, unknown>;
  if_match?: string;
};

export type Changes = {
  apiVersion: "v1";
  ok: boolean;
  step: string;
  dry_run: boolean;
  at_restart: boolean;
  unchanged: boolean;
  written: boolean;
  problems: (Record<string, unknown>)[];
  consequences: Consequences;
  revision: number | null;
  staged: Staged | null;
  digest: string;
  seconds: number;
  etag: string;
  changes: {
    op: "put" | "create" | "patch" | "delete";
    kind: string;
    name: string;
    result: "made" | "changed" | "unchanged" | "removed";
    etag: string | null;
  }[];
  diff: string;
};

export type Slots = {
  apiVersion: "v1";
  service: string;
  hash_mode: string;
  placement: string;
  count: number;
  offset: number;
  members: (string | null)[];
  primary: number[];
  previous: number[];
};

export type Pins = {
  apiVersion: "v1";
  capacity: number;
  live: number;
  matching: number;
  items: {
    client: string;
    client_port: number;
    vip: string;
    port: number;
    protocol: string;
    member: string | null;
    service: string | null;
    state: string;
    idle_s: number;
    age_s: number;
  }[];
};

export type Neighbours = {
  apiVersion: "v1";
  items: {
    address: string;
    members: string[];
    next_hop: NextHop | null;
    reason: string | null;
    detail: string;
  }[];
};

export type Counters = {
  apiVersion: "v1";
  services: Record<string, Record<string, {
    packets: number;
    bytes: number;
    new_flows: number;
  }>>;
  members: Record<string, {
    packets: number;
    bytes: number;
    new_flows: number;
  }>;
  reasons: Record<string, number>;
  replies: Record<string, number>;
  details: Record<string, number>;
};

export type Maps = {
  apiVersion: "v1";
  program: string | null;
  items: {
    name: string;
    key_bytes: number;
    value_bytes: number;
    entries: number;
    bytes: number;
  }[];
};

export type Events = {
  apiVersion: "v1";
  first_id: number;
  last_id: number;
  items: {
    id: number;
    at: number;
    level: string;
    event: string;
    fields: Record<string, unknown>;
  }[];
};

export type Figures = {
  apiVersion: "v1";
  time: number;
  health: "healthy" | "degraded" | "down";
  services: Record<string, {
    state: string;
    in_rotation: number;
    vips: Record<string, {
      announced: boolean;
      packets: number | null;
      bytes: number | null;
      new_flows: number | null;
      packets_per_s: number | null;
      bytes_per_s: number | null;
      new_flows_per_s: number | null;
    }>;
  }>;
  members: Record<string, {
    state: string;
    share: number;
    flows_remembered: number | null;
    packets: number | null;
    bytes: number | null;
    new_flows: number | null;
    packets_per_s: number | null;
    bytes_per_s: number | null;
    new_flows_per_s: number | null;
  }>;
  drops: Record<string, number> | null;
  pins: {
    capacity: number;
    live: number;
  };
  loop_lag: {
    p50_s: number;
    p99_s: number;
    max_s: number;
  };
};

export type Summary = {
  apiVersion: "v1";
  time: number;
  director: {
    name: string;
    version: string;
    uptime_s: number;
    state: string;
    detail: string;
  };
  health: {
    state: "healthy" | "degraded" | "down";
    problems: string[];
    more: number;
  };
  plane: {
    name: string;
    error: string | null;
  };
  loop_lag: {
    p50_s: number;
    p99_s: number;
    max_s: number;
  };
  pins: {
    capacity: number;
    live: number;
  };
  drops: Record<string, number> | null;
  revision: number | null;
  packets_per_s: number | null;
  bytes_per_s: number | null;
  new_flows_per_s: number | null;
  bgp: {
    running: boolean;
    detail: string;
    peers: PeerRow[];
  } | null;
  fleet: {
    name: string;
    state: string;
    trouble: string;
  }[] | null;
  services: ServiceRow[];
};

export type SummaryChange = {
  head: {
    apiVersion: "v1";
    time: number;
    director: {
      name: string;
      version: string;
      uptime_s: number;
      state: string;
      detail: string;
    };
    health: {
      state: "healthy" | "degraded" | "down";
      problems: string[];
      more: number;
    };
    plane: {
      name: string;
      error: string | null;
    };
    loop_lag: {
      p50_s: number;
      p99_s: number;
      max_s: number;
    };
    pins: {
      capacity: number;
      live: number;
    };
    drops: Record<string, number> | null;
    revision: number | null;
    packets_per_s: number | null;
    bytes_per_s: number | null;
    new_flows_per_s: number | null;
    bgp: {
      running: boolean;
      detail: string;
      peers: PeerRow[];
    } | null;
    fleet: {
      name: string;
      state: string;
      trouble: string;
    }[] | null;
  };
  rows: Record<string, ServiceRow>;
  rates: {
    packets_per_s: (number | null)[];
    bytes_per_s: (number | null)[];
    new_flows_per_s: (number | null)[];
  };
};

export type ServiceRow = {
  name: string;
  state: "up" | "down" | "disabled";
  score: number | null;
  score_reason: string;
  protocol: string;
  ports: string[];
  pool: string;
  delivery: string;
  in_rotation: number;
  members: number;
  moving_slots: number;
  vips: {
    vip: string;
    announced: boolean;
    reason: string | null;
    detail: string;
    arp: string | null;
    elsewhere?: string[];
    standing?: number;
  }[];
  packets_per_s: number | null;
  bytes_per_s: number | null;
  new_flows_per_s: number | null;
};

export type PeerRow = {
  address: string;
  session: string;
  since: number | null;
  detail: string;
  routes_sent: number;
  bfd: string | null;
};

export type ServiceNow = {
  apiVersion: "v1";
  time: number;
  director: {
    name: string;
    interfaces: string[];
    plane: string;
    error: string | null;
  };
  service: ServiceStatus;
  row: ServiceRow;
  members: ServiceMember[];
  overhead: {
    v4: number;
    v6: number;
  };
  ring: Ring | null;
  routers: {
    address: string;
    session: string;
    detail: string;
    told: boolean;
  }[];
  drops: Record<string, number> | null;
  pins: {
    capacity: number;
    live: number;
  };
};

export type ServiceMember = {
  name: string;
  id: string;
  address: string;
  ratio: number;
  state: string;
  reason: string | null;
  detail: string;
  health: string;
  share: number;
  ramp: number | null;
  remark: string | null;
  order: Order | null;
  until: number | null;
  drained: boolean;
  flows_remembered: number | null;
  fleet: {
    health: string;
    basis: string;
    mine: string;
    overruled: boolean;
    up: string[];
    down: string[];
    maintenance: string[];
  } | null;
  index: number;
  next_hop: NextHop | null;
  flap: {
    penalty: number;
    downs: number;
    until: number | null;
  } | null;
  dsr: {
    service: string;
    member: string;
    dsr_capable: string;
    reasons: string[];
  }[];
  checks: CheckStatus[];
  finding: string | null;
  segments: {
    vip: string;
    port: number;
    delivery: string;
    mss: number | null;
    limit: number | null;
    near: boolean;
    note: string | null;
  }[];
  replies: string;
  traffic: Traffic;
  largest_packet: number | null;
  handshake_s: number | null;
  doctor: string[];
};

export type TrafficPast = {
  apiVersion: "v1";
  times: number[];
  packets_per_s: (number | null)[];
  bytes_per_s: (number | null)[];
  new_flows_per_s: (number | null)[];
  pins: number[];
  drops: Record<string, (number | null)[]>;
};

export type Ring = {
  slots: number;
  members: {
    id: string | null;
    has: number;
    gets: number;
    gives: number;
    ends: number;
  }[];
};

export type Me = {
  name: string;
  role: "nobody" | "viewer" | "operator" | "admin";
  via: "session" | "token" | "certificate" | "socket" | null;
  csrf: string | null;
  expires_at: number | null;
};

export type Flow = {
  client: string;
  client_port: number;
  vip: string;
  port: number;
  protocol: string;
  state: string;
  idle_s: number;
  age_s: number;
};

export type Order = {
  state: string;
  since: number;
  until: number | null;
  ratio: number | null;
};

export type NextHop = {
  interface: string;
  mac: string;
  mtu: number;
  source: string;
  direct: boolean;
};

export type MemberState = {
  id: string;
  address: string;
  state: string;
  health: string;
  reason: string | null;
  ratio: number;
  share: number;
  order: Order | null;
  until: number | null;
  drained: boolean;
  window_ends: number | null;
  now: number;
  flows: {
    open: number;
    closing: number;
    longest_idle_s: number;
    top_clients: {
      client: string;
      flows: number;
    }[];
    known: Flow[];
  };
};

export type Ordered = {
  members: string[];
  withdraws?: {
    name: string;
    why: string;
  }[];
  stops?: {
    name: string;
    why: string;
  }[];
  moves?: {
    name: string;
    moved: number;
    shares: Record<string, number>;
  }[];
};

export type DirectorState = {
  name: string;
  now: number;
  state: "in_service" | "draining" | "drained";
  since: number | null;
  until: number | null;
  moved: boolean;
  detail: string;
  alone?: string;
};

export type Kinds = {
  apiVersion: "v1";
  digest: string;
  kinds: {
    kind: string;
    single: boolean;
    key: string | null;
    count: number;
  }[];
};

export type Announcing = {
  peer_labels?: string[];
  med?: number | null;
  local_preference?: number | null;
  prepend?: number;
  communities?: string[];
  standby_communities?: string[];
  step?: Step;
  large_communities?: string[];
};

export type AnnouncingShown = {
  peer_labels: string[];
  med: number | null;
  local_preference: number | null;
  prepend: number;
  communities: string[];
  standby_communities: string[];
  step: StepShown;
  large_communities: string[];
};

export type Api = {
  address?: unknown;
  port?: number;
  tls_cert_file?: string | null;
  tls_key_file?: string | null;
  client_ca_file?: string | null;
  user?: ApiUser[];
  token?: ApiToken[];
};

export type ApiShown = {
  address: unknown;
  port: number;
  tls_cert_file: string | null;
  tls_key_file: string | null;
  client_ca_file: string | null;
  user: ApiUserShown[];
  token: ApiTokenShown[];
};

export type ApiToken = {
  name: string;
  role: "viewer" | "operator" | "admin";
  token_hash?: string | null;
  token_file?: string | null;
};

export type ApiTokenShown = {
  name: string;
  role: "viewer" | "operator" | "admin";
  token_hash: string | null;
  token_file: string | null;
};

export type ApiUser = {
  name: string;
  role: "viewer" | "operator" | "admin";
  password_hash?: string | null;
};

export type ApiUserShown = {
  name: string;
  role: "viewer" | "operator" | "admin";
  password_hash: string | null;
};

export type Bfd = {
  interval?: number;
  multiplier?: number;
  multihop?: boolean;
  passive?: boolean;
};

export type BfdShown = {
  interval: number;
  multiplier: number;
  multihop: boolean;
  passive: boolean;
};

export type Bgp = {
  local_as: number;
  router_id: string;
  next_hop_v4?: string | null;
  next_hop_v6?: string | null;
  hold_down?: number;
  peer: Peer[];
};

export type BgpShown = {
  local_as: number;
  router_id: string;
  next_hop_v4: string | null;
  next_hop_v6: string | null;
  hold_down: number;
  peer: PeerShown[];
};

export type ConnectionLog = {
  one_of?: number;
  file?: string | null;
};

export type ConnectionLogShown = {
  one_of: number;
  file: string | null;
};

export type Director = {
  name: string;
  interfaces: string[];
  role?: "director" | "tier2";
  plane?: "auto" | "xdp" | "raw";
  pins?: number;
  drain_on_stop?: number;
  least_path_mtu?: number;
  outer_source_prefixes?: string[];
  restart_grace?: number;
  runtime_dir?: string;
  state_dir?: string | null;
};

export type DirectorShown = {
  name: string;
  interfaces: string[];
  role: "director" | "tier2";
  plane: "auto" | "xdp" | "raw";
  pins: number;
  drain_on_stop: number;
  least_path_mtu: number;
  outer_source_prefixes: string[];
  restart_grace: number;
  runtime_dir: string;
  state_dir: string | null;
};

export type Doctor = {
  interval?: number;
  on_change?: boolean;
  agent_port?: number;
  agent_secret_file?: string | null;
};

export type DoctorShown = {
  interval: number;
  on_change: boolean;
  agent_port: number;
  agent_secret_file: string | null;
};

export type Dsr = {
  type?: "l3" | "l2";
  encapsulation?: "ipip" | "gre" | "gue" | null;
  outer_df?: "copy_inner" | "clear" | null;
  outer_ttl?: number | null;
  outer_source?: "interface" | "prefix" | null;
};

export type DsrShown = {
  type: "l3" | "l2";
  encapsulation: "ipip" | "gre" | "gue" | null;
  outer_df: "copy_inner" | "clear" | null;
  outer_ttl: number | null;
  outer_source: "interface" | "prefix" | null;
};

export type Etcd = {
  endpoints: string[];
  prefix?: string;
  user?: string | null;
  password_file?: string | null;
  ca_file?: string | null;
  cert_file?: string | null;
  key_file?: string | null;
};

export type EtcdShown = {
  endpoints: string[];
  prefix: string;
  user: string | null;
  password_file: string | null;
  ca_file: string | null;
  cert_file: string | null;
  key_file: string | null;
};

export type FleetDirector = {
  name: string;
  address: unknown;
  port?: number;
};

export type FleetDirectorShown = {
  name: string;
  address: unknown;
  port: number;
};

export type Fleet = {
  director?: FleetDirector[];
  store?: "none" | "etcd";
  etcd?: Etcd | null;
  secret_file: string;
};

export type FleetShown = {
  director: FleetDirectorShown[];
  store: "none" | "etcd";
  etcd: EtcdShown | null;
  secret_file: string;
};

export type Follow = {
  folder?: string | null;
  dns?: string | null;
  store?: boolean;
  version?: 4 | 6;
  interval?: number;
};

export type FollowShown = {
  folder: string | null;
  dns: string | null;
  store: boolean;
  version: 4 | 6;
  interval: number;
};

export type Member = {
  name?: string | null;
  address: unknown;
  ratio?: number;
  enabled?: boolean;
  max_connections?: number;
  load_port?: number | null;
  server_id?: string | null;
};

export type MemberShown = {
  name: string | null;
  address: unknown;
  ratio: number;
  enabled: boolean;
  max_connections: number;
  load_port: number | null;
  server_id: string | null;
};

export type Monitor = {
  name: string;
  type: "tcp" | "udp" | "ping" | "http" | "https" | "dns" | "tls" | "grpc" | "external";
  send_interval?: number;
  receive_timeout?: number | null;
  successful_checks?: number;
  failed_checks?: number;
  monitor_port?: number | null;
  vantage?: "direct" | "path" | "both" | null;
  quick_start?: boolean;
  request?: string | null;
  response?: string | null;
  maintenance_response?: string | null;
  half_open?: boolean;
  method?: "GET" | "HEAD" | "OPTIONS" | null;
  path?: string | null;
  host?: string | null;
  response_codes?: (number | string)[] | null;
  response_size?: number | null;
  maintenance_codes?: (number | string)[] | null;
  tls?: boolean;
  tls_verify?: boolean;
  ca_file?: string | null;
  server_name?: string | null;
  cert_file?: string | null;
  key_file?: string | null;
  expiry_warning_days?: number | null;
  service?: string | null;
  query_name?: string | null;
  record_type?: "A" | "AAAA" | "CAA" | "CNAME" | "DNSKEY" | "DS" | "HTTPS" | "MX" | "NAPTR" | "NS" | "PTR" | "SOA" | "SRV" | "SVCB" | "TLSA" | "TXT" | null;
  transport?: "udp" | "tcp" | null;
  rcode?: "NOERROR" | "FORMERR" | "SERVFAIL" | "NXDOMAIN" | "NOTIMP" | "REFUSED" | "NOTAUTH" | "ANY" | null;
  qtype?: "query_type" | "any_type" | "any_thing" | null;
  command?: string[] | null;
  environment?: Record<string, string> | null;
  exit_status?: number | null;
};

export type MonitorShown = {
  name: string;
  type: "tcp" | "udp" | "ping" | "http" | "https" | "dns" | "tls" | "grpc" | "external";
  send_interval: number;
  receive_timeout: number | null;
  successful_checks: number;
  failed_checks: number;
  monitor_port?: number | null;
  vantage?: "direct" | "path" | "both" | null;
  quick_start: boolean;
  request?: string | null;
  response?: string | null;
  maintenance_response?: string | null;
  half_open?: boolean;
  method?: "GET" | "HEAD" | "OPTIONS" | null;
  path?: string | null;
  host?: string | null;
  response_codes?: (number | string)[] | null;
  response_size?: number | null;
  maintenance_codes?: (number | string)[] | null;
  tls?: boolean;
  tls_verify?: boolean;
  ca_file?: string | null;
  server_name?: string | null;
  cert_file?: string | null;
  key_file?: string | null;
  expiry_warning_days?: number | null;
  service?: string | null;
  query_name?: string | null;
  record_type?: "A" | "AAAA" | "CAA" | "CNAME" | "DNSKEY" | "DS" | "HTTPS" | "MX" | "NAPTR" | "NS" | "PTR" | "SOA" | "SRV" | "SVCB" | "TLSA" | "TXT" | null;
  transport?: "udp" | "tcp" | null;
  rcode?: "NOERROR" | "FORMERR" | "SERVFAIL" | "NXDOMAIN" | "NOTIMP" | "REFUSED" | "NOTAUTH" | "ANY" | null;
  qtype?: "query_type" | "any_type" | "any_thing" | null;
  command?: string[] | null;
  environment?: Record<string, string> | null;
  exit_status?: number | null;
};

export type Peer = {
  address: unknown;
  remote_as: number;
  hold_time?: 0 | number;
  local_address?: unknown | null;
  password?: string | null;
  password_file?: string | null;
  labels?: string[];
  port?: number;
  passive?: boolean;
  multihop?: number | null;
  ttl_security?: number | null;
  next_hop_v4?: string | null;
  next_hop_v6?: string | null;
  next_hop_self?: boolean;
  bfd?: Bfd | null;
};

export type PeerShown = {
  address: unknown;
  remote_as: number;
  hold_time: 0 | number;
  local_address: unknown | null;
  password: string | null;
  password_file: string | null;
  labels: string[];
  port: number;
  passive: boolean;
  multihop: number | null;
  ttl_security: number | null;
  next_hop_v4: string | null;
  next_hop_v6: string | null;
  next_hop_self: boolean;
  bfd: BfdShown | null;
};

export type Pool = {
  name: string;
  algorithm?: "consistent_hash" | "round_robin" | "random" | "least_connections" | "least_load" | "fastest_response" | "fewest_servers";
  hash?: "source_ip" | "source_ip_port" | "five_tuple" | null;
  health_monitors?: string[];
  transition_window?: number;
  transition_quiet?: number;
  drain_timeout?: number;
  slow_start?: number;
  panic_percent?: number;
  passive?: boolean;
  passive_share?: number;
  passive_weight?: number;
  min_monitors_up?: number;
  flap_half_life?: number;
  flap_suppress?: number;
  flap_reuse?: number;
  quic?: Quic[];
  follow?: Follow | null;
  member: Member[];
};

export type PoolShown = {
  name: string;
  algorithm: "consistent_hash" | "round_robin" | "random" | "least_connections" | "least_load" | "fastest_response" | "fewest_servers";
  hash: "source_ip" | "source_ip_port" | "five_tuple" | null;
  health_monitors: string[];
  transition_window: number;
  transition_quiet: number;
  drain_timeout: number;
  slow_start: number;
  panic_percent: number;
  passive: boolean;
  passive_share: number;
  passive_weight: number;
  min_monitors_up: number;
  flap_half_life: number;
  flap_suppress: number;
  flap_reuse: number;
  quic: QuicShown[];
  follow: FollowShown | null;
  member: MemberShown[];
};

export type Profile = {
  name: string;
  type: "tcp_fast_path" | "udp_fast_path" | "tcp_proxy";
  session_idle_timeout?: number | null;
  per_packet?: boolean;
  ttl?: "router" | "transparent" | null;
  http?: boolean;
  dsr?: Dsr;
};

export type ProfileShown = {
  name: string;
  type: "tcp_fast_path" | "udp_fast_path" | "tcp_proxy";
  session_idle_timeout: number | null;
  per_packet: boolean;
  ttl: "router" | "transparent" | null;
  http: boolean;
  dsr: DsrShown;
};

export type Protection = {
  deny?: string[];
  allow?: string[];
  per_source?: Rate | null;
  per_vip?: Rate | null;
  per_service?: Rate | null;
};

export type ProtectionShown = {
  deny: string[];
  allow: string[];
  per_source: RateShown | null;
  per_vip: RateShown | null;
  per_service: RateShown | null;
};

export type Quic = {
  config_id: number;
  server_id_length?: number;
  nonce_length?: number;
  key_file?: string | null;
  encode_length?: boolean;
};

export type QuicShown = {
  config_id: number;
  server_id_length: number;
  nonce_length: number;
  key_file: string | null;
  encode_length: boolean;
};

export type Rate = {
  rate: number;
  burst?: number | null;
};

export type RateShown = {
  rate: number;
  burst: number | null;
};

export type Service = {
  name: string;
  vips: unknown[];
  ports: (number | string)[];
  network_profile: string;
  pool: string;
  enabled?: boolean;
  traffic?: boolean;
  server_port?: number | null;
  certificate?: string | null;
  ha?: "active_active" | "active_standby" | "n_plus_m";
  prefer?: string[];
  primaries?: number | null;
  min_members?: number;
  advertise_down?: boolean;
  needs_all?: boolean;
  bgp?: Announcing;
  reject_other_ports?: boolean;
  arp?: boolean;
  protection?: Protection | null;
};

export type ServiceShown = {
  name: string;
  vips: unknown[];
  ports: (number | string)[];
  network_profile: string;
  pool: string;
  enabled: boolean;
  traffic: boolean;
  server_port: number | null;
  certificate: string | null;
  ha: "active_active" | "active_standby" | "n_plus_m";
  prefer: string[];
  primaries: number | null;
  min_members: number;
  advertise_down: boolean;
  needs_all: boolean;
  bgp: AnnouncingShown;
  reject_other_ports: boolean;
  arp: boolean;
  protection: ProtectionShown | null;
};

export type Step = {
  med?: number;
  local_preference?: number;
  prepend?: number;
};

export type StepShown = {
  med: number;
  local_preference: number;
  prepend: number;
};

export type Tier2 = {
  addresses: unknown[];
  sources?: string[];
  decapsulator?: "kernel" | "onward";
  mtu?: number;
  drain_timeout?: number;
  haproxy?: string;
};

export type Tier2Shown = {
  addresses: unknown[];
  sources: string[];
  decapsulator: "kernel" | "onward";
  mtu: number;
  drain_timeout: number;
  haproxy: string;
};
