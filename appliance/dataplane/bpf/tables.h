/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The tables that the program follows. User space writes them through shared memory; xdp/layout.py says the same in Python,
 * and a test compares the two by the object's type information.
 *
 * There are two generations of everything that says where packets go. One number, control.active, says which one counts: a
 * packet reads it once, so it is never treated by half of each. Slots and choices, of which there are many, are shared by
 * both: a table that changes is written to another place. What is remembered of flows belongs to none of them, and to the
 * slow path as well: dataplane/pins.py describes it.
 */
#pragma once
#include "bpf.h"

/* One number for everything. */
struct control {
	u32 active;	/* generation: 0 or 1 */
	u32 rows;	/* possible CPUs; the counters' row behind them is that of test runs */
	u32 services;	/* of a row of service_traffic */
	u32 ways;	/* of a row of way_traffic */
	u32 ident_step; /* between identifications of outer packets on one CPU: a power of two, at least rows + 1 */
	u32 slow_limit; /* packets that one CPU may pass to the slow path in a tick */
	u32 tick_shift; /* a tick is 2^tick_shift nanoseconds */
	u32 pin_sets;	/* sets of pins */
	u32 opening_limit; /* connections that one CPU may leave to the slow path in a tick, which tells others of them */
	u32 source_sets;
	u64 clock;	/* what the clock of pins is ahead of the monotonic one, nanoseconds; 0 but in tests */
};

struct generation {
	u64 keys[12];	  /* of the flow hash; the last is not used */
	u64 pin_keys[12]; /* of the hash that pins are found by; the same */
	u64 seeds[4];	  /* of the index */
	u32 ports_first;  /* index of VIP, protocol and port: its first bucket */
	u32 ports_mask;	  /* its buckets less one */
	u32 vips_first;	  /* index of VIPs, the same */
	u32 vips_mask;
	u32 entries_first;
	u32 ranges_first;
	u32 ways_first;
	u32 stations_first;
	u32 stations;
	u32 policies_first;
	u32 member_ways_first;
	u32 guards_first;
	u64 loops[1024]; /* a bit for each value of the last two bytes of a MAC address that no client has */
};

/* What the index finds: a virtual service on one port of one VIP, or on a range of them. */
struct entry {
	u64 address[2]; /* IPv4 addresses are mapped (RFC 4291, 2.5.5.2) */
	u32 what;	/* see WHAT */
	u32 service;	/* its counters */
	u64 base;	/* of the flow hash: what does not depend on the client */
	u64 source_factor;
	u64 ports_factor;
	u32 ports_mask;
	u32 slots; /* the first one */
	u32 size;  /* how many; 0 for an entry without a service */
	u32 previous; /* the first one of the slots' previous owners, 0 when all slots are steady; and GUARDED */
};
enum entry_flags { GUARDED = 1u << 31 };

/* What protects a virtual service: packet/protection.py. By the number of its counters. */
enum scope { SCOPE_SERVICE, SCOPE_VIP, SCOPE_SOURCE, SCOPES };
struct guard {
	u64 interval[SCOPES]; /* nanoseconds from one new connection to the next; 0: no limit */
	u64 tolerance[SCOPES]; /* how much too early one may come */
	u32 boundaries_first;
	u32 boundaries;
	u32 meter[2]; /* of service and VIP */
};

/* An address at which the answer to "may it come?" turns; IPv4 in the lower half. Host byte order. */
struct boundary {
	u64 upper, lower;
};

enum meter { SOURCE_PLACES = 4, METER_SLACK_NS = 1000000000 };

/* dataplane/meters.py. */
struct source {
	u64 key, due;
};
struct source_set {
	struct source place[SOURCE_PLACES];
};

/* How a virtual service's flows find their members; by the number of its counters. */
struct policy {
	u8 placement;
	u8 order;
	u16 idle;     /* ticks after which a flow is over; 0 is never */
	u32 choices;  /* the first one */
	u32 length;   /* of choices */
	u32 stamp;    /* another one whenever the choices are others */
	u32 quic;     /* the first of its eight quic_configs; 0 when it carries no QUIC */
	u32 spare[3];
};
enum placement { PLACEMENT_HASH, PLACEMENT_PER_FLOW, PLACEMENT_PER_PACKET };
enum choice_order { ORDER_SEQUENCE, ORDER_RANDOM };

/* What connection IDs mean that begin with three bits: one of eight. */
struct quic_config {
	u8 kind;
	u8 length; /* of server ID and nonce */
	u8 server_id_length;
	u8 encode_length; /* whether it stands in the ID's first byte */
	u32 first;	  /* of its servers, in ascending order of their keys */
	u32 count;
	u32 spare;
};
enum quic_kind { QUIC_NONE, QUIC_PLAIN, QUIC_KEY };
enum quic { QUIC_SERVER_ID = 15 }; /* bytes, at most */

struct server {
	u64 key;	/* both of these, spread: one number is compared in few branches */
	u64 head, tail; /* of its ID: the first eight bytes, and the others, as big-endian numbers */
	u32 way;
	u32 spare;
};

/* Whose turn it is on one CPU. */
struct turn {
	u32 stamp; /* of the choices that it is about */
	u32 next;
};

/* In the place of an entry, found by an index of its own: a VIP, whatever the port. */
struct vip {
	u64 address[2];
	u32 what;
	u32 rejects;  /* whether ports that no entry has are answered, by the slow path */
	u32 first[2]; /* ranges of ports, for TCP and for UDP */
	u32 count[2];
	u32 spares[6];
};

/* The index's keys: port as in the packet, protocol and IP version. VIPs have port and protocol 0. */
#define WHAT(version, protocol, port) ((u32)(version) << 24 | (u32)(protocol) << 16 | (port))

struct bucket {
	u32 slot[4]; /* 0: free; else the number of the entry, 24 bits, under 8 bits of the key's hash */
};

/* How many buckets an entry may stand in: its own and those behind it. */
enum index { PROBES = 4 };

/* Ports first..last of one VIP and protocol belong to an entry; sorted, none overlap. */
struct range {
	u16 first, last; /* host byte order */
	u32 entry;
};

/* The family of the outer header, and with it what makes more work than IP in IP. */
enum way_kind {
	WAY_L2 = 0,
	WAY_OUTER4 = 4,
	WAY_OUTER6 = 6,
	WAY_FAMILY = 0x0f,
	WAY_CLEAR = 0x10, /* an outer IPv4 header never has DF */
	WAY_SPREAD = 0x20, /* the outer source is the first of a prefix, and more by bits of the flow's hash */
	WAY_GRE = 0x40,	  /* 4 << 4, and 12 << 4: the size of what is between outer and inner IP header */
	WAY_GUE = 0xc0,
};
enum { LEAST_IPV6 = 1280 };
enum way_flags {
	WAY_ROUTED = 1, /* TTL or hop limit goes down by one */
	WAY_SLOW = 2,	/* the program cannot send there */
	WAY_LINEAR = 4, /* nor frames in several buffers */
	WAY_UNBOUND = 8, /* IPv6 of up to LEAST_IPV6 bytes goes there, too; over IPv4, beyond the limit, without DF */
};

/* What it takes to reach a member. */
struct way {
	u8 macs[12]; /* destination, source */
	u8 kind;
	u8 flags;
	u16 limit; /* largest inner packet */
	u32 ifindex;
	u16 tag[2]; /* VLAN tag as on the wire; 0 when there is none */
	u32 sum;    /* of the addresses and the TTL of an outer IPv4 header; of IPv6 with WAY_SPREAD, the mask */
	u16 member; /* its index, which is what pins and choices say */
	u8 ttl;	    /* of the outer header */
	u8 front;   /* bytes in front of the inner packet, link header included */
	u32 source[4], destination[4]; /* outer addresses; IPv4 in the first word, and in the second of sources the mask */
};

/* A slot's 16 bits: the number of a way; with LOOK_CLOSER, it is not for the slot alone to say. NOBODY has that bit. */
enum slot { LOOK_CLOSER = 0x8000, NOBODY = 0xffff };

/* An interface that packets arrive on. */
struct port {
	u32 ifindex;
	u32 mtu;
	u8 mac[6];
	u8 flags;
	u8 spare;
};
enum port_flags {
	PORT_QUIET = 1,	      /* test runs: count in the spare row, leave an outcome */
	PORT_NO_TRANSMIT = 2, /* XDP_TX does not do here: redirect to the same interface instead */
	PORT_PARTIAL = 4,     /* checksums may be for a device to complete, and nobody tells the program */
	PORT_REMEMBER = 8,    /* test runs: remember flows and take turns as with any packet */
};
/* Two places for each, by the lower and by the next eight bits of its number; and one for test runs, which arrive on the
 * loopback interface (number 1 in every namespace). */
enum { PORTS = 256, TEST_PORT = 2 * PORTS, LOOPBACK = 1 };

struct traffic {
	u64 packets, bytes;
};

/* A named counter for every way out. User space takes names and order from this type. */
enum exit {
	EXIT_TRANSMIT,
	EXIT_PASS_NOT_IP,
	EXIT_PASS_NOT_VIP,
	EXIT_PASS_UNKNOWN_INTERFACE,
	EXIT_DROP_OVERSIZED_FRAME,
	EXIT_DROP_MALFORMED,
	EXIT_DROP_PROTOCOL,
	EXIT_DROP_NO_SERVICE,
	EXIT_DROP_LOOP,
	EXIT_DROP_MARTIAN,
	EXIT_DROP_DENIED,
	EXIT_DROP_SERVICE_RATE,
	EXIT_DROP_VIP_RATE,
	EXIT_DROP_SOURCE_RATE,
	EXIT_DROP_NO_MEMBER,
	EXIT_DROP_TX_FAILED,
	EXIT_DROP_SLOW_PATH_FULL,
	EXIT_SLOW_OPTIONS,
	EXIT_SLOW_EXTENSION_HEADER,
	EXIT_SLOW_FRAGMENT,
	EXIT_SLOW_ICMP,
	EXIT_SLOW_TTL_EXPIRED,
	EXIT_SLOW_TOO_BIG,
	EXIT_SLOW_TRAILER,
	EXIT_SLOW_PARTIAL_CHECKSUM,
	EXIT_SLOW_EGRESS,
	EXIT_SLOW_SPLIT_HEADER,
	EXIT_SLOW_NEW_FLOW,
	EXIT_SLOW_QUIC,
	EXIT_SLOW_REFUSED,
	EXITS
};

struct exit_count {
	u64 packets;
	u64 tick; /* when the last sample was taken */
};

struct cpu {
	u64 tick;
	u32 slow; /* packets passed to the slow path in this tick */
	u32 ident;
	u64 pins_made;	     /* flows that have got a place */
	u64 pins_evicted[4]; /* flows whose place they have got while it counted, by state */
	u32 jiffies;	     /* when the clock was read last */
	u32 pin_tick;	     /* and what it said, in ticks of pins */
	u64 opening_tick;
	u64 opening; /* connections left to the slow path in this tick */
	u64 sources_forgotten; /* that had to make room for others while they counted */
};

/* What has decided on the member. */
enum by { BY_SLOT, BY_PREVIOUS, BY_PIN, BY_CHOICE, BY_CONNECTION_ID };

/* What became of the last packet of a test run. */
struct outcome {
	enum exit exit;
	u32 entry; /* its number, 0 for none */
	u32 way;   /* NOBODY for none */
	u32 slot;  /* of the service; valid when there is an entry and exit is behind its choice */
	u32 service;
	u32 hash;
	enum by by;
	u32 spare;
};

/* What is remembered of flows: dataplane/pins.py describes it. */
struct pin_set {
	u64 word[8]; /* from the lowest bit on: when 14, state 2, member 16, tag 32; 0 is empty */
};
enum pin_state { PIN_NEW, PIN_OPEN, PIN_FIN, PIN_RST, PIN_STATES };
enum pin {
	WHEN_BITS = 14,
	STATE_SHIFT = 14,
	MEMBER_SHIFT = 16,
	TAG_SHIFT = 32,
	PIN_TICK_SHIFT = 30,
	RETRANSMISSION_TICKS = 3,
	FIN_TICKS = 56,
	RST_TICKS = 2,
	JOURNAL = 1 << 14, /* positions in each CPU's ring */
};

struct flow {
	u64 source[2], destination[2]; /* IPv4 mapped */
	u64 hash64;
	u64 born_ns;
	u32 ports; /* as in the packet */
	u32 hash32;
	u16 idle;
	u8 protocol;
	u8 origin; /* 0: seen here */
	u8 opened; /* by a SYN */
	u8 spare[3];
};

struct delay {
	u64 count, ns;
};

/* A flow of the connection log: dataplane/logged.py. */
struct logged {
	u64 key; /* its pin hash, 1 for 0; 0 is empty */
	u64 first_ns, last_ns;
	u64 source[2], destination[2]; /* IPv4 mapped */
	u64 packets, bytes;
	u64 answered_ns; /* when the client's first ACK came after its SYN */
	u32 ports;	 /* as in the packet */
	u16 member;	 /* its index */
	u8 protocol;
	u8 flags; /* all that were seen */
	u16 syns;
	u16 moves; /* how often the member was another one than before */
	u32 share; /* of all hashes, those up to this one were in the sample when it began */
};
enum log { LOG_PLACES = 4, LOG_SETS = 1024 };
enum log_gate { LOG_BELOW, LOG_MISSED, LOG_GATES };

/* A sample for user space. */
enum { EVENT_HEAD = 96 };
struct event {
	u64 ns; /* CLOCK_MONOTONIC */
	u32 exit;
	u32 ifindex;
	u32 length;
	u32 captured;
	u8 head[EVENT_HEAD]; /* the frame's beginning: as it arrived, unless it could not be sent */
};

/* What somebody who captures wants to see: by address, IPv4 mapped. Masks of 0 take all. */
enum capture { SNAPLEN = 4096 };
struct wanted {
	u64 client[2], client_mask[2];
	u64 vip[2], vip_mask[2];
	u32 snaplen; /* at most SNAPLEN */
	u32 spare;
};

/* A frame, and what became of it. */
struct record {
	u64 ns; /* CLOCK_MONOTONIC */
	u32 exit;
	u32 ifindex; /* where it arrived */
	u32 entry, way, slot, service, by; /* as in an outcome */
	u32 length, captured;		   /* of the frame as it arrived */
	u32 out_length, out_captured;	   /* as it leaves; 0 when it does not */
	u8 bytes[2 * SNAPLEN];		   /* both, the second directly behind the first */
	u32 spare;
};

/* What one CPU has in hand while somebody captures. */
struct desk {
	struct outcome outcome;
	u64 lost; /* records that found no room */
	u32 busy;
	u32 spare;
	struct record record;
};

struct types {
	struct vip vip;
	struct event event;
	enum way_kind kind;
	enum way_flags flags;
	enum port_flags port_flags;
	enum index index;
	enum slot slot;
	enum placement placement;
	enum choice_order order;
	enum pin_state pin_state;
	enum pin pin;
	enum entry_flags entry_flags;
	enum scope scope;
	enum meter meter;
	enum quic_kind quic_kind;
	enum quic quic;
	enum capture capture;
	enum log log;
	enum log_gate log_gate;
};

/* Numbers of elements are for opening the object; user space sizes the maps before it loads them. */
#define SHARED_ARRAY(name, element, elements)                                                                          \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(map_flags, BPF_F_MMAPABLE);                                                                     \
		__uint(max_entries, elements);                                                                         \
		__type(key, u32);                                                                                      \
		__type(value, element);                                                                                \
	} name SEC(".maps")

SHARED_ARRAY(controls, struct control, 1);
SHARED_ARRAY(generations, struct generation, 2);
SHARED_ARRAY(buckets, struct bucket, 2);
SHARED_ARRAY(entries, struct entry, 2);
SHARED_ARRAY(ranges, struct range, 2);
SHARED_ARRAY(guards, struct guard, 2);
SHARED_ARRAY(boundaries, struct boundary, 2);
SHARED_ARRAY(dues, u64, 1);
SHARED_ARRAY(sources, struct source_set, 1);
SHARED_ARRAY(ways, struct way, 2);
SHARED_ARRAY(stations, u64, 2); /* MAC addresses that no client has, in ascending order */
SHARED_ARRAY(slots, u64, 1); /* four slots each */
SHARED_ARRAY(policies, struct policy, 2);
SHARED_ARRAY(choices, u64, 1);	   /* four indices of members each */
SHARED_ARRAY(member_ways, u64, 2); /* by index of a member: its way, or NOBODY; four each */
SHARED_ARRAY(quic_configs, struct quic_config, 2);
SHARED_ARRAY(servers, struct server, 2);
SHARED_ARRAY(turns, struct turn, 1);
SHARED_ARRAY(ports, struct port, TEST_PORT + 1);
SHARED_ARRAY(service_traffic, struct traffic, 1);
SHARED_ARRAY(way_traffic, struct traffic, 1);
SHARED_ARRAY(service_flows, u64, 1); /* new TCP connections; apart, since most packets open none */
SHARED_ARRAY(way_flows, u64, 1);
SHARED_ARRAY(exits, struct exit_count, EXITS);
SHARED_ARRAY(cpus, struct cpu, 1);
SHARED_ARRAY(outcomes, struct outcome, 1);
SHARED_ARRAY(pin_words, struct pin_set, 1);
SHARED_ARRAY(pin_flows, struct flow, 1);
SHARED_ARRAY(pin_journal, u64, 1); /* two positions each */
SHARED_ARRAY(pin_heads, u64, 1);
SHARED_ARRAY(pin_delays, struct delay, 1);
SHARED_ARRAY(pin_gate, u64, 1); /* see dataplane/pins.py */
SHARED_ARRAY(logged_flows, struct logged, LOG_SETS * LOG_PLACES);
SHARED_ARRAY(log_gate, u64, LOG_GATES); /* flows whose hash is lower in its lower half are logged; packets that found no room */
/* These are of use, and of size, only while somebody captures. */
SHARED_ARRAY(wanteds, struct wanted, 1);
SHARED_ARRAY(desks, struct desk, 1);
/* Nobody uses this one: it brings types into the object's type information that no other map has. */
SHARED_ARRAY(types, struct types, 1);

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, PORTS);
	__type(key, u32);
	__type(value, u32);
} egress SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 12);
} captured SEC(".maps");

/* An element of an array, or NULL. The kernel makes a few instructions of it, no call. */
#define AT(map, position)                                                                                              \
	({                                                                                                             \
		u32 _position = (position);                                                                            \
		bpf_map_lookup_elem(&(map), &_position);                                                               \
	})

/* One of several 16-bit numbers, four to an element of a map; NOBODY when there is none. */
#define AT16(map, position)                                                                                            \
	({                                                                                                             \
		u32 _at = (position);                                                                                  \
		u64 *_four = AT(map, _at >> 2);                                                                        \
		_four ? (u32)(*_four >> ((_at & 3) * 16)) & 0xffff : NOBODY;                                           \
	})
