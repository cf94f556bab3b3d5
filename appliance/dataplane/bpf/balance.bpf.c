/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The fast path: what a director does with a plain TCP or UDP packet for a VIP, before the kernel sees it. It follows
 * packet/forward.py, line by line in the same order; numbers in comments are those of that list. Whatever it takes more to
 * judge (ICMP errors, fragments, options, extension headers, answers to be sent) goes up to the slow path, which is the raw
 * data plane.
 */
#include "bpf.h"
#include "checksum.h"
#include "count.h"
#include "guard.h"
#include "log.h"
#include "lookup.h"
#include "place.h"
#include "quic.h"
#include "send.h"
#include "tables.h"
#include "watch.h"

/* A TCP or UDP header. */
struct l4 {
	const u8 *at;
	u32 available; /* bytes of the IP packet from there on */
	u8 protocol;
	u8 flags; /* of TCP; 0 for UDP */
	u16 check;
};

/* The hash that the packet's flow is remembered by: of its whole five-tuple. */
INLINE u64 flow_hash(const u64 *k, const struct inner *inner, const void *l3, const struct l4 *l4)
{
	if (inner->type == BE16(ETH_P_IP)) {
		const struct iphdr *ip = l3;

		return pin_hash(k[0] + (k[1] + ip->saddr) * (k[2] + ip->daddr) +
				(k[3] + *(const u32 *)(ip + 1)) * (k[4] + l4->protocol));
	} else {
		const struct ip6hdr *ip = l3;
		const u32 *s = ip->saddr, *d = ip->daddr;

		return pin_hash(k[0] + (k[1] + s[0]) * (k[2] + s[1]) + (k[3] + s[2]) * (k[4] + s[3]) +
				(k[5] + d[0]) * (k[6] + d[1]) + (k[7] + d[2]) * (k[8] + d[3]) +
				(k[9] + *(const u32 *)(ip + 1)) * (k[10] + l4->protocol));
	}
}

/* The hash that a client's meter is found by: of an IPv4 address, or of the upper half of an IPv6 one. */
INLINE u64 source_hash(const u64 *k, const struct guard *guard, const struct inner *inner, const void *l3)
{
	u64 number = guard->meter[SCOPE_SERVICE];

	if (inner->type == BE16(ETH_P_IP))
		return pin_hash(k[0] + (k[1] + ((const struct iphdr *)l3)->saddr) * (k[2] + number));
	return pin_hash(k[0] + (k[1] + ((const struct ip6hdr *)l3)->saddr[0]) * (k[2] + ((const struct ip6hdr *)l3)->saddr[1]) +
			(k[3] + number) * k[4]);
}

/* Why a packet for a guarded service goes no further; EXIT_TRANSMIT when it does. A new connection's hash is returned. */
INLINE enum exit judge_source(const struct run *run, const struct entry *entry, const struct inner *inner, const void *l3,
			      int opens, u64 *hash64)
{
	u32 guard_at = run->generation->guards_first + entry->service;
	const struct guard *guard = AT(guards, guard_at);
	u64 upper = 0, lower;

	if (!guard)
		return EXIT_TRANSMIT;
	if (inner->type == BE16(ETH_P_IP)) {
		lower = __builtin_bswap32(((const struct iphdr *)l3)->saddr);
	} else {
		const u32 *s = ((const struct ip6hdr *)l3)->saddr;

		upper = (u64)__builtin_bswap32(s[0]) << 32 | __builtin_bswap32(s[1]);
		lower = (u64)__builtin_bswap32(s[2]) << 32 | __builtin_bswap32(s[3]);
	}
	if (guard->boundaries && is_denied(guard->boundaries_first, guard->boundaries, upper, lower))
		return EXIT_DROP_DENIED;
	if (!opens)
		return EXIT_TRANSMIT;
	*hash64 = source_hash(run->generation->pin_keys, guard, inner, l3);
	return admit(guard_at, *hash64, run->row, ADMIT_LOOK);
}

/* Whose packet it is. */
INLINE void write_flow(struct flow *flow, const struct inner *inner, const void *l3, const struct l4 *l4, u64 hash64)
{
	if (inner->type == BE16(ETH_P_IP)) {
		const struct iphdr *ip = l3;

		flow->source[1] = (u64)ip->saddr << 32 | 0xffff0000;
		flow->destination[1] = (u64)ip->daddr << 32 | 0xffff0000;
		flow->ports = *(const u32 *)(ip + 1);
	} else {
		const struct ip6hdr *ip = l3;

		flow->source[0] = ip->saddr[0] | (u64)ip->saddr[1] << 32;
		flow->source[1] = ip->saddr[2] | (u64)ip->saddr[3] << 32;
		flow->destination[0] = ip->daddr[0] | (u64)ip->daddr[1] << 32;
		flow->destination[1] = ip->daddr[2] | (u64)ip->daddr[3] << 32;
		flow->ports = *(const u32 *)(ip + 1);
	}
	flow->hash64 = hash64;
	flow->hash32 = inner->hash;
	flow->protocol = l4->protocol;
}

/* Who takes a packet whose slot has LOOK_CLOSER: a way, NOBODY or more. What is to be kept of it stands in the question. */
INLINE u32 look_closer(struct question *q, const struct run *run, const struct entry *entry, const struct inner *inner,
		       const void *l3, const struct l4 *l4, u64 hash64, u32 chosen, u32 slot)
{
	const struct generation *g = run->generation;
	const struct policy *policy = AT(policies, g->policies_first + entry->service);
	u32 way = NOBODY, quic = policy ? policy->quic : 0;

	if (unlikely(quic)) {
		way = way_by_connection_id(run->ctx, inner->l2 + (inner->type == BE16(ETH_P_IP) ? 20 : 40), quic);
		if (way != NOBODY) {
			q->by = BY_CONNECTION_ID;
			return way;
		}
	}
	/* Slots of QUIC's services may be steady, and then nothing is remembered. */
	if (likely(!quic || policy->placement != PLACEMENT_HASH))
		way = recall(hash64, g->policies_first + entry->service, g->member_ways_first, chosen,
			     run->row << 8 | l4->flags);
	if (likely(way != NOBODY)) {
		q->by = BY_PIN;
		return way;
	}
	*q = (struct question){
		.generation = run->number,
		.service = entry->service,
		.row = run->row,
		.chosen = chosen,
		.slot = slot,
		.previous = entry->previous & ~GUARDED,
		.flags = l4->flags,
		.way = NOBODY,
	};
	write_flow(&q->flow, inner, l3, l4, hash64);
	place(q);
	return q->way;
}

/* Whether a packet is larger than the way takes. Of IPv6, so much has to go all the same, if need be without DF. */
INLINE int too_big(const struct way *way, struct inner *inner)
{
	if (likely(inner->length <= way->limit))
		return 0;
	if (!(way->flags & WAY_UNBOUND) || inner->type != BE16(ETH_P_IPV6) || inner->length > LEAST_IPV6)
		return 1;
	inner->whole = 0;
	return 0;
}

/* Lines 8 to 11 have been passed when this is called. */
INLINE int deliver(const struct run *run, const struct entry *entry, u32 number, struct inner *inner, void *l3,
		   const struct l4 *l4)
{
	u8 *hop_limit = inner->type == BE16(ETH_P_IP) ? &((struct iphdr *)l3)->ttl : &((struct ip6hdr *)l3)->hop_limit;
	u32 slot = (u64)inner->hash * entry->size >> 32, at = entry->slots + slot;
	int opens = (l4->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN, action;
	u64 *four = AT(slots, at >> 2), source = 0, *logged_below;
	u32 service = entry->service, counted = 0;
	enum by by = BY_SLOT;
	const struct way *way;
	struct question q;
	u64 hash64 = 0;
	u32 chosen;

	if (!four)
		return drop(run, EXIT_DROP_NO_MEMBER);
	if (unlikely(entry->previous & GUARDED)) {
		/* Test runs that leave nothing behind are not to depend on what others have left, either. */
		enum exit exit;

		counted = opens && (run->flags & (PORT_QUIET | PORT_REMEMBER)) != PORT_QUIET;
		exit = judge_source(run, entry, inner, l3, counted, &source);
		if (exit != EXIT_TRANSMIT) {
			count_exit(run, exit);
			note(run, exit, number, NOBODY, BY_SLOT, 0, service, 0);
			return XDP_DROP;
		}
	}
	if (unlikely(entry->previous & ~GUARDED)) {
		hash64 = flow_hash(run->generation->pin_keys, inner, l3, l4);
		fetch(run->control, hash64);
	}
	chosen = *four >> ((at & 3) * 16) & 0xffff;
	q.keep = 0;
	if (unlikely(chosen & LOOK_CLOSER)) {
		q.tell = 0;
		chosen = look_closer(&q, run, entry, inner, l3, l4, hash64, chosen, slot);
		by = q.by;
		if (unlikely(chosen > NOBODY)) {
			/* What is at its end is odd to the slow path, too. */
			if (chosen == NAMED_BEYOND || *hop_limit <= 1)
				return slow(run, chosen == NAMED_BEYOND ? EXIT_SLOW_SPLIT_HEADER : EXIT_SLOW_QUIC);
			return pass(run, EXIT_SLOW_QUIC);
		}
		if (unlikely(q.tell)) {
			count_exit(run, EXIT_SLOW_NEW_FLOW);
			note(run, EXIT_SLOW_NEW_FLOW, number, chosen, by, slot, service, inner->hash);
			return XDP_PASS;
		}
	}
	way = AT(ways, run->generation->ways_first + chosen);
	if (unlikely(chosen == NOBODY || !way)) { /* 12 */
		if (counted)
			admit(run->generation->guards_first + service, source, run->row, ADMIT_TAKE);
		count_exit(run, EXIT_DROP_NO_MEMBER);
		note(run, EXIT_DROP_NO_MEMBER, number, NOBODY, by, slot, service, inner->hash);
		return XDP_DROP;
	}
	if (unlikely(way->flags & WAY_SLOW || (way->flags & WAY_LINEAR && run->length > run->linear))) {
		count_exit(run, EXIT_SLOW_EGRESS);
		note(run, EXIT_SLOW_EGRESS, number, chosen, by, slot, service, inner->hash);
		return XDP_PASS;
	}
	if (way->flags & WAY_ROUTED) {
		if (unlikely(*hop_limit <= 1)) /* 13 */
			return slow(run, EXIT_SLOW_TTL_EXPIRED);
		if (unlikely(too_big(way, inner))) /* 14 */
			return slow(run, EXIT_SLOW_TOO_BIG);
		*hop_limit -= 1;
		if (inner->type == BE16(ETH_P_IP)) {
			struct iphdr *ip = l3;

			/* RFC 1624: the word of TTL and protocol is less by 0x0100, and ~m + m' is 0xfeff in network order. */
			ip->check = ~folded((u16)~ip->check + 0xfffe);
		}
	} else if (unlikely(too_big(way, inner))) {
		return slow(run, EXIT_SLOW_TOO_BIG);
	}
	if (unlikely(counted)) /* what was left to the slow path so far, that counts */
		admit(run->generation->guards_first + service, source, run->row, ADMIT_TAKE);
	if (unlikely(q.keep) && (run->flags & (PORT_QUIET | PORT_REMEMBER)) != PORT_QUIET)
		keep(&q);
	logged_below = AT(log_gate, LOG_BELOW);
	if (unlikely(logged_below && *logged_below) && !(run->flags & PORT_QUIET)) {
		if (!hash64)
			hash64 = flow_hash(run->generation->pin_keys, inner, l3, l4);
		if ((u32)hash64 < *logged_below) {
			q = (struct question){.flags = l4->flags};
			write_flow(&q.flow, inner, l3, l4, hash64);
			log_packet(&q, inner->length, way->member);
		}
	}
	if (opens)
		sample_flow(run);
	note(run, EXIT_TRANSMIT, number, chosen, by, slot, service, inner->hash);
	if (unlikely(rewrite(run, way, inner))) {
		count_exit(run, EXIT_DROP_TX_FAILED);
		return XDP_DROP;
	}
	action = send(run, way);
	if (unlikely(action == XDP_DROP))
		count_exit(run, EXIT_DROP_TX_FAILED);
	else
		count_traffic(run, service, chosen, inner->length, opens);
	return action;
}

/* Whether the sender's MAC address is one that no client has (L5). A bitmap answers for almost everybody. */
INLINE int loops(const struct run *run, const struct ethhdr *eth)
{
	u32 head = *(u32 *)eth->src, tail = *(u16 *)(eth->src + 4);
	const struct generation *g = run->generation;

	if (unlikely(head == *(u32 *)run->port->mac && tail == *(u16 *)(run->port->mac + 4)))
		return 1;
	if (likely(!(g->loops[tail >> 6] >> (tail & 63) & 1)))
		return 0;
	return is_station(g->stations_first, g->stations, head | (u64)tail << 32);
}

/* The service of a port that has no entry of its own. */
INLINE u32 find_range(const struct run *run, const struct vip *vip, u8 protocol, u16 port, struct entry **entry)
{
	u32 udp = protocol == IPPROTO_UDP, number;

	number = entry_of_port(run->generation->ranges_first + vip->first[udp], vip->count[udp], __builtin_bswap16(port));
	*entry = number ? AT(entries, run->generation->entries_first + number) : NULL;
	return *entry ? number : 0;
}

/* 8: whether it is whole and does not contradict itself. */
INLINE enum exit judge_l4(struct l4 *l4, u8 *end)
{
	l4->flags = 0;
	if (l4->protocol == IPPROTO_TCP) {
		u32 header;

		if (l4->available < 20)
			return EXIT_DROP_MALFORMED;
		if (l4->at + 20 > end)
			return EXIT_SLOW_SPLIT_HEADER;
		header = (l4->at[12] >> 4) * 4;
		if (header < 20 || header > l4->available)
			return EXIT_DROP_MALFORMED;
		l4->flags = l4->at[13];
		l4->check = *(u16 *)(l4->at + 16);
	} else {
		u32 length;

		if (l4->available < 8)
			return EXIT_DROP_MALFORMED;
		if (l4->at + 8 > end)
			return EXIT_SLOW_SPLIT_HEADER;
		length = __builtin_bswap16(*(u16 *)(l4->at + 4));
		if (length < 8 || length > l4->available)
			return EXIT_DROP_MALFORMED;
		l4->check = *(u16 *)(l4->at + 6);
	}
	return EXIT_TRANSMIT;
}

enum { GO_ON = -1 };

/* 8, 9 and 11: what does not depend on the IP version. An action, or GO_ON. */
INLINE int judge(const struct run *run, struct ethhdr *eth, struct l4 *l4, u8 *end, u32 number, const struct entry *entry,
		 u32 rejects)
{
	enum exit exit = judge_l4(l4, end);

	if (unlikely(exit == EXIT_DROP_MALFORMED))
		return drop(run, exit);
	if (unlikely(exit != EXIT_TRANSMIT))
		return slow(run, exit);
	if (unlikely(!number || !entry)) /* 9 */
		return rejects ? slow_or_drop(run, EXIT_SLOW_REFUSED, EXIT_DROP_NO_SERVICE) : drop(run, EXIT_DROP_NO_SERVICE);
	if (unlikely(loops(run, eth))) { /* 11 */
		count_exit(run, EXIT_DROP_LOOP);
		note(run, EXIT_DROP_LOOP, number, NOBODY, BY_SLOT, 0, entry->service, 0);
		return XDP_DROP;
	}
	return GO_ON;
}

/* Bytes behind the IP packet that are more than Ethernet's padding: they must not go into a tunnel, and in the way of a
 * larger frame they might not fit. */
INLINE int trailer(const struct run *run, u32 l2, u32 length)
{
	return run->length > 68 && run->length != l2 + length;
}

/* The sum of a pseudo header stands where the checksum should be when a device was to complete it (veth, virtio). Of whole
 * checksums one in 65536 looks like that; the slow path knows better. */
INLINE int partial(const struct l4 *l4, u64 sum)
{
	sum += __builtin_bswap16(l4->available) + (l4->protocol << 8);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	return folded(sum) == l4->check;
}

INLINE int balance_ip4(const struct run *run, struct ethhdr *eth, u32 l2, u8 *l3, u8 *end)
{
	struct iphdr *ip = (struct iphdr *)l3;
	struct inner inner = {.l2 = l2, .type = BE16(ETH_P_IP)};
	const struct generation *g = run->generation;
	struct entry *entry = NULL;
	struct key key;
	u32 number = 0, length, ports = 0, rejects = 0;
	int plain, action;
	struct l4 l4;
	u64 h;

	if (l3 + sizeof(*ip) > end)
		return pass(run, EXIT_PASS_NOT_VIP);
	key.address[0] = 0;
	key.address[1] = (u64)ip->daddr << 32 | 0xffff0000;
	plain = ip->version_ihl == 0x45 && !(ip->frag_off & BE16(0x3fff)) &&
		(ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) && l3 + sizeof(*ip) + 4 <= end;
	if (likely(plain)) {
		ports = *(u32 *)(l3 + sizeof(*ip));
		key.what = WHAT(4, ip->protocol, ports >> 16);
		number = find(g, g->ports_first, g->ports_mask, &key, &entry);
	}
	if (!number) {
		key.what = WHAT(4, 0, 0);
		if (likely(!find(g, g->vips_first, g->vips_mask, &key, &entry))) /* 3 */
			return pass(run, EXIT_PASS_NOT_VIP);
		rejects = ((struct vip *)entry)->rejects;
		if (plain)
			number = find_range(run, (struct vip *)entry, ip->protocol, ports >> 16, &entry);
	}

	if (unlikely(run->length - l2 > run->port->mtu)) /* 4 */
		return drop(run, EXIT_DROP_OVERSIZED_FRAME);
	if (unlikely(ip->version_ihl != 0x45)) /* 5 */
		return ip->version_ihl >> 4 == 4 && (ip->version_ihl & 15) > 5 ? slow(run, EXIT_SLOW_OPTIONS)
									       : drop(run, EXIT_DROP_MALFORMED);
	length = __builtin_bswap16(ip->tot_len);
	if (unlikely(length < sizeof(*ip) || length > run->length - l2 || !sound(ip)))
		return drop(run, EXIT_DROP_MALFORMED);
	if (unlikely((u8)((u8)ip->saddr - 1) >= 223 || (u8)ip->saddr == 127 || ip->saddr == ip->daddr)) /* 0, 127, 224.. */
		return drop(run, EXIT_DROP_MARTIAN);
	if (unlikely(ip->protocol == IPPROTO_ICMP)) /* 7 */
		return slow(run, EXIT_SLOW_ICMP);
	if (unlikely(ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP))
		return drop(run, EXIT_DROP_PROTOCOL);
	if (unlikely(ip->frag_off & BE16(0x3fff)))
		return slow(run, EXIT_SLOW_FRAGMENT);
	l4.at = l3 + sizeof(*ip);
	l4.available = length - sizeof(*ip);
	l4.protocol = ip->protocol;
	action = judge(run, eth, &l4, end, number, entry, rejects);
	if (unlikely(action != GO_ON))
		return action;
	if (unlikely(trailer(run, l2, length)))
		return pass(run, EXIT_SLOW_TRAILER);
	if (unlikely(run->flags & PORT_PARTIAL) &&
	    partial(&l4, (u64)ip->saddr + ip->daddr))
		return pass(run, EXIT_SLOW_PARTIAL_CHECKSUM);

	h = entry->base + (ip->saddr + g->keys[1]) * entry->source_factor +
	    ((ports & entry->ports_mask) + g->keys[3]) * entry->ports_factor;
	inner.hash = finished(h);
	inner.length = length;
	inner.tclass = ip->tos;
	inner.whole = (ip->frag_off & BE16(0x4000)) != 0;
	return deliver(run, entry, number, &inner, l3, &l4);
}

/* 6: what is no L4 protocol, but leads to one or hides it. Shared with packet/headers.py, which walks them. */
INLINE int is_extension(u8 header)
{
	return header == 0 || header == 43 || header == 44 || header == 51 || header == 60 || header == 135 || header == 139 ||
	       header == 140 || header == 253 || header == 254;
}

/* Multicast, ten zero bytes, or the destination itself. */
INLINE int is_martian6(const u32 *s, const u32 *d)
{
	if (likely((u8)s[0] != 0xff && s[0] && s[3] != d[3]))
		return 0;
	return (u8)s[0] == 0xff || !(s[0] | s[1] | (u16)s[2]) ||
	       !((s[0] ^ d[0]) | (s[1] ^ d[1]) | (s[2] ^ d[2]) | (s[3] ^ d[3]));
}

INLINE int balance_ip6(const struct run *run, struct ethhdr *eth, u32 l2, u8 *l3, u8 *end)
{
	struct ip6hdr *ip = (struct ip6hdr *)l3;
	struct inner inner = {.l2 = l2, .type = BE16(ETH_P_IPV6), .whole = 1};
	const struct generation *g = run->generation;
	struct entry *entry = NULL;
	struct key key;
	u32 number = 0, length, ports = 0, rejects = 0;
	int plain, action;
	struct l4 l4;
	u64 h;

	if (l3 + sizeof(*ip) > end)
		return pass(run, EXIT_PASS_NOT_VIP);
	key.address[0] = ip->daddr[0] | (u64)ip->daddr[1] << 32;
	key.address[1] = ip->daddr[2] | (u64)ip->daddr[3] << 32;
	plain = (ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_UDP) && l3 + sizeof(*ip) + 4 <= end;
	if (likely(plain)) {
		ports = *(u32 *)(l3 + sizeof(*ip));
		key.what = WHAT(6, ip->nexthdr, ports >> 16);
		number = find(g, g->ports_first, g->ports_mask, &key, &entry);
	}
	if (!number) {
		key.what = WHAT(6, 0, 0);
		if (likely(!find(g, g->vips_first, g->vips_mask, &key, &entry))) /* 3 */
			return pass(run, EXIT_PASS_NOT_VIP);
		rejects = ((struct vip *)entry)->rejects;
		if (plain)
			number = find_range(run, (struct vip *)entry, ip->nexthdr, ports >> 16, &entry);
	}

	if (unlikely(run->length - l2 > run->port->mtu)) /* 4 */
		return drop(run, EXIT_DROP_OVERSIZED_FRAME);
	length = __builtin_bswap16(ip->payload_len) + sizeof(*ip);
	if (unlikely(ip->version_class >> 4 != 6 || length > run->length - l2)) /* 5 */
		return drop(run, EXIT_DROP_MALFORMED);
	if (unlikely(is_extension(ip->nexthdr))) /* 6 */
		return slow(run, EXIT_SLOW_EXTENSION_HEADER);
	if (unlikely(is_martian6(ip->saddr, ip->daddr)))
		return drop(run, EXIT_DROP_MARTIAN);
	if (unlikely(ip->nexthdr == IPPROTO_ICMPV6)) /* 7 */
		return slow(run, EXIT_SLOW_ICMP);
	if (unlikely(ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP))
		return drop(run, EXIT_DROP_PROTOCOL);
	l4.at = l3 + sizeof(*ip);
	l4.available = length - sizeof(*ip);
	l4.protocol = ip->nexthdr;
	action = judge(run, eth, &l4, end, number, entry, rejects);
	if (unlikely(action != GO_ON))
		return action;
	if (unlikely(trailer(run, l2, length)))
		return pass(run, EXIT_SLOW_TRAILER);
	if (unlikely(run->flags & PORT_PARTIAL) &&
	    partial(&l4, (u64)ip->saddr[0] + ip->saddr[1] + ip->saddr[2] + ip->saddr[3] + ip->daddr[0] + ip->daddr[1] +
				 ip->daddr[2] + ip->daddr[3]))
		return pass(run, EXIT_SLOW_PARTIAL_CHECKSUM);

	h = entry->base + (ip->saddr[0] + g->keys[1]) * (ip->saddr[1] + g->keys[2]) +
	    (ip->saddr[2] + g->keys[3]) * (ip->saddr[3] + g->keys[4]) +
	    ((ports & entry->ports_mask) + g->keys[9]) * entry->ports_factor;
	inner.hash = finished(h);
	inner.length = length;
	inner.tclass = __builtin_bswap32(*(u32 *)ip) >> 20;
	return deliver(run, entry, number, &inner, l3, &l4);
}

INLINE int balance(struct xdp_md *ctx, u32 length, int watched)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	struct cursor c = {data, end};
	struct run run = {.ctx = ctx, .length = length, .linear = end - data, .watched = watched};
	const struct control *control = AT(controls, 0);
	struct vlanhdr *tag;
	struct ethhdr *eth;
	u32 ifindex;
	u16 type;

	if (!control)
		return XDP_PASS;
	run.control = control;
	run.number = *(volatile u32 *)&control->active;
	run.generation = AT(generations, run.number);
	ifindex = ctx->ingress_ifindex;
	run.port = AT(ports, unlikely(ifindex == LOOPBACK) ? TEST_PORT : ifindex & (PORTS - 1));
	if (run.port && unlikely(run.port->ifindex != ifindex))
		run.port = AT(ports, PORTS + (ifindex >> 8 & (PORTS - 1)));
	if (!run.generation || !run.port)
		return XDP_PASS;
	run.flags = run.port->flags;
	run.row = run.flags & PORT_QUIET ? control->rows : bpf_get_smp_processor_id();
	if (unlikely(run.port->ifindex != ifindex))
		return pass(&run, EXIT_PASS_UNKNOWN_INTERFACE);

	eth = take(&c, sizeof(*eth));
	if (!eth)
		return pass(&run, EXIT_PASS_NOT_IP);
	if (*(u32 *)eth->dst != *(u32 *)run.port->mac || *(u16 *)(eth->dst + 4) != *(u16 *)(run.port->mac + 4)) /* 1 */
		return pass(&run, EXIT_PASS_NOT_VIP);
	type = eth->proto;
#pragma unroll
	for (int i = 0; i < 2; i++) { /* 2 */
		if (likely(type != BE16(ETH_P_8021Q) && type != BE16(ETH_P_8021AD)))
			break;
		tag = take(&c, sizeof(*tag));
		if (!tag)
			return pass(&run, EXIT_PASS_NOT_IP);
		type = tag->proto;
	}
	if (type == BE16(ETH_P_IP))
		return balance_ip4(&run, eth, c.at - data, c.at, end);
	if (type == BE16(ETH_P_IPV6))
		return balance_ip6(&run, eth, c.at - data, c.at, end);
	return pass(&run, EXIT_PASS_NOT_IP);
}

SEC("xdp") int balance_linear(struct xdp_md *ctx)
{
	return balance(ctx, ctx->data_end - ctx->data, 0);
}

enum { SHORTEST_SPLIT = 192 };

/* Asking for it takes a call. Who splits frames has more than this in the first buffer (mlx5, the least: 256 bytes). */
INLINE u32 whole_length(struct xdp_md *ctx)
{
	u32 linear = ctx->data_end - ctx->data;

	return linear < SHORTEST_SPLIT ? linear : bpf_xdp_get_buff_len(ctx);
}

/* The same for drivers that spread large frames over several buffers, of which only the first is in sight (Linux 5.18). */
SEC("xdp.frags") int balance_frags(struct xdp_md *ctx)
{
	return balance(ctx, whole_length(ctx), 0);
}

/* The same two, for the time of a capture. */
SEC("xdp") int watch_linear(struct xdp_md *ctx)
{
	int action;

	arrive_linear(ctx, ctx->data_end - ctx->data);
	action = balance(ctx, ctx->data_end - ctx->data, 1);
	depart_linear(ctx, ctx->data_end - ctx->data, action);
	return action;
}

SEC("xdp.frags") int watch_frags(struct xdp_md *ctx)
{
	int action;

	arrive_frags(ctx, whole_length(ctx));
	action = balance(ctx, whole_length(ctx), 1);
	depart_frags(ctx, whole_length(ctx), action);
	return action;
}

/* Of the two licences offered, the one under which the program runs inside the kernel. */
char licence[] SEC("license") = "GPL";
