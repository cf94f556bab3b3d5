/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The tables that the program follows. User space writes them through shared memory; xdp/layout.py says the same in Python,
 * and a test compares the two by the object's type information.
 *
 * There are two generations of everything that says where packets go. One number, control.active, says which one counts: a
 * packet reads it once, so it is never treated by half of each. Slots, of which there are many, are shared by both: a
 * table that changes is written to another place.
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
	u32 spare;
};

struct generation {
	u64 keys[12];	  /* of the flow hash; the last is not used */
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
	u32 spare;
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
	u32 spare;
};

/* In the place of an entry, found by an index of its own: a VIP, whatever the port. */
struct vip {
	u64 address[2];
	u32 what;
	u32 spare;
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

enum way_kind { WAY_L2 = 0, WAY_OUTER4 = 4, WAY_OUTER6 = 6 };
enum way_flags {
	WAY_ROUTED = 1, /* TTL or hop limit goes down by one */
	WAY_SLOW = 2,	/* the program cannot send there */
	WAY_LINEAR = 4, /* nor frames in several buffers */
};

/* What it takes to reach a member. */
struct way {
	u8 macs[12]; /* destination, source */
	u8 kind;
	u8 flags;
	u16 limit; /* largest inner packet */
	u32 ifindex;
	u16 tag[2]; /* VLAN tag as on the wire; 0 when there is none */
	u32 sum;    /* of the two addresses of an outer IPv4 header */
	u32 spare;
	u32 source[4], destination[4]; /* outer addresses; IPv4 in the first word */
};

/* A slot's 16 bits: the number of a way. */
enum { NOBODY = 0xffff };

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
};

/* What became of the last packet of a test run. */
struct outcome {
	enum exit exit;
	u32 entry; /* its number, 0 for none */
	u32 way;   /* NOBODY for none */
	u32 slot;  /* of the service; valid when there is an entry and exit is behind its choice */
	u32 service;
	u32 hash;
};

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

struct types {
	struct vip vip;
	struct event event;
	enum way_kind kind;
	enum way_flags flags;
	enum port_flags port_flags;
	enum index index;
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
SHARED_ARRAY(ways, struct way, 2);
SHARED_ARRAY(stations, u64, 2); /* MAC addresses that no client has, in ascending order */
SHARED_ARRAY(slots, u64, 1); /* four slots each */
SHARED_ARRAY(ports, struct port, TEST_PORT + 1);
SHARED_ARRAY(service_traffic, struct traffic, 1);
SHARED_ARRAY(way_traffic, struct traffic, 1);
SHARED_ARRAY(service_flows, u64, 1); /* new TCP connections; apart, since most packets open none */
SHARED_ARRAY(way_flows, u64, 1);
SHARED_ARRAY(exits, struct exit_count, EXITS);
SHARED_ARRAY(cpus, struct cpu, 1);
SHARED_ARRAY(outcomes, struct outcome, 1);
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

/* An element of an array, or NULL. The kernel makes a few instructions of it, no call. */
#define AT(map, position)                                                                                              \
	({                                                                                                             \
		u32 _position = (position);                                                                            \
		bpf_map_lookup_elem(&(map), &_position);                                                               \
	})
