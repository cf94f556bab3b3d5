/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Frames towards a member: packets.md, section 1. The readable form is packet/encap.py.
 */
#pragma once
#include "checksum.h"
#include "count.h"

/* What is needed of the inner packet when its header may not be where it was. */
struct inner {
	u32 l2;	    /* bytes before its IP header */
	u32 length; /* of the IP packet */
	u32 hash;   /* of the flow */
	u16 type;   /* EtherType, network byte order */
	u8 tclass;  /* DSCP and ECN */
	u8 whole;   /* IPv4 DF, or IPv6 */
};

INLINE void write_link(struct ethhdr *eth, const struct way *way)
{
	const u32 *from = (const u32 *)way->macs;
	u32 *to = (u32 *)eth;

	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

/* Link header and, with a VLAN tag, what follows it. */
INLINE void *write_head(u8 *data, const struct way *way, u16 type)
{
	struct ethhdr *eth = (struct ethhdr *)data;
	struct vlanhdr *tag = (struct vlanhdr *)(eth + 1);

	write_link(eth, way);
	if (way->tag[0]) {
		eth->proto = way->tag[0];
		tag->tci = way->tag[1];
		tag->proto = type;
		return tag + 1;
	}
	eth->proto = type;
	return eth + 1;
}

INLINE u16 next_ident(const struct run *run)
{
	struct cpu *cpu = AT(cpus, run->row);

	return cpu ? cpu->ident += run->control->ident_step : 0;
}

INLINE u8 ip_in_ip(const struct inner *inner)
{
	return inner->type == BE16(ETH_P_IP) ? IPPROTO_IPIP : IPPROTO_IPV6;
}

/* What is added to the way's source, in network byte order: by its mask, no byte of the sum overflows. */
INLINE u32 source_bits(const struct way *way, u32 mask, const struct inner *inner)
{
	return way->kind & WAY_SPREAD ? __builtin_bswap32(inner->hash) & mask : 0;
}

/* Between: bytes of what stands between this header and the inner packet. Whole: with DF. More: see source_bits. */
INLINE void write_outer4(struct iphdr *ip, const struct run *run, const struct way *way, const struct inner *inner,
			 u8 protocol, u32 between, u8 whole, u32 more)
{
	u16 length = __builtin_bswap16(inner->length + between + sizeof(*ip));
	u16 id = 0, frag = BE16(0x4000);

	if (!whole) {
		id = __builtin_bswap16(next_ident(run));
		frag = 0;
	}
	ip->version_ihl = 0x45;
	ip->tos = inner->tclass;
	ip->tot_len = length;
	ip->id = id;
	ip->frag_off = frag;
	ip->ttl = way->ttl;
	ip->protocol = protocol;
	ip->saddr = way->source[0] + more;
	ip->daddr = way->destination[0];
	ip->check = ~folded(way->sum + (0x45 | inner->tclass << 8) + length + id + frag + (protocol << 8) +
			    (more & 0xffff) + (more >> 16));
}

INLINE void write_outer6(struct ip6hdr *ip, const struct way *way, const struct inner *inner, u8 protocol, u32 between)
{
	u32 label = inner->hash & 0xfffff;

	*(u32 *)ip = __builtin_bswap32(6u << 28 | (u32)inner->tclass << 20 | (label ? label : 1));
	ip->payload_len = __builtin_bswap16(inner->length + between);
	ip->nexthdr = protocol;
	ip->hop_limit = way->ttl;
	__builtin_memcpy(ip->saddr, way->source, 16);
	__builtin_memcpy(ip->daddr, way->destination, 16);
}

/* No checksums: packet/encap.py says why. */
INLINE int write_between(void *at, u8 *end, u32 between, const struct inner *inner)
{
	struct grehdr *gre = at;
	struct udphdr *udp = at;
	struct guehdr *gue = (struct guehdr *)(udp + 1);

	if (between == sizeof(*gre)) {
		if ((u8 *)(gre + 1) > end)
			return -1;
		gre->flags_version = 0;
		gre->protocol = inner->type;
	} else if (between) {
		if ((u8 *)(gue + 1) > end)
			return -1;
		udp->source = __builtin_bswap16(0xc000 | inner->hash);
		udp->dest = BE16(GUE_PORT);
		udp->len = __builtin_bswap16(inner->length + sizeof(*udp) + sizeof(*gue));
		udp->check = 0;
		gue->first = 0;
		gue->protocol = ip_in_ip(inner);
		gue->flags = 0;
	}
	return 0;
}

enum { LONGEST_LINK = sizeof(struct ethhdr) + sizeof(struct vlanhdr) };

/* All ways whose kind says more than a family. */
INLINE int write_rare(u8 *data, u8 *end, const struct run *run, const struct way *way, const struct inner *inner)
{
	u32 between = way->kind >> 4 & 12;
	u8 protocol = !between ? ip_in_ip(inner) : between == sizeof(struct grehdr) ? IPPROTO_GRE : IPPROTO_UDP;

	if ((way->kind & WAY_FAMILY) == WAY_OUTER4) {
		struct iphdr *ip;

		if (data + LONGEST_LINK + sizeof(*ip) > end)
			return -1;
		ip = write_head(data, way, BE16(ETH_P_IP));
		write_outer4(ip, run, way, inner, protocol, between, inner->whole && !(way->kind & WAY_CLEAR),
			     source_bits(way, way->source[1], inner));
		return write_between(ip + 1, end, between, inner);
	} else {
		struct ip6hdr *ip;

		if (data + LONGEST_LINK + sizeof(*ip) > end)
			return -1;
		ip = write_head(data, way, BE16(ETH_P_IPV6));
		write_outer6(ip, way, inner, protocol, between);
		ip->saddr[3] += source_bits(way, way->sum, inner);
		return write_between(ip + 1, end, between, inner);
	}
}

/* Makes the frame what goes out. Negative when the driver leaves no room in front. */
INLINE int rewrite(const struct run *run, const struct way *way, const struct inner *inner)
{
	int more = (int)way->front - (int)inner->l2;
	u8 *data, *end;
	void *ip;

	if (more && bpf_xdp_adjust_head(run->ctx, -more))
		return -1;
	data = (u8 *)(u64)run->ctx->data;
	end = (u8 *)(u64)run->ctx->data_end;
	if (way->kind == WAY_OUTER4) {
		if (data + LONGEST_LINK + sizeof(struct iphdr) > end)
			return -1;
		ip = write_head(data, way, BE16(ETH_P_IP));
		write_outer4(ip, run, way, inner, ip_in_ip(inner), 0, inner->whole, 0);
	} else if (way->kind == WAY_OUTER6) {
		if (data + LONGEST_LINK + sizeof(struct ip6hdr) > end)
			return -1;
		ip = write_head(data, way, BE16(ETH_P_IPV6));
		write_outer6(ip, way, inner, ip_in_ip(inner), 0);
	} else if (way->kind == WAY_L2) {
		if (data + LONGEST_LINK > end)
			return -1;
		write_head(data, way, inner->type);
	} else {
		return write_rare(data, end, run, way, inner);
	}
	return 0;
}

/* Sends what rewrite has made. */
INLINE int send(const struct run *run, const struct way *way)
{
	if (run->flags & PORT_QUIET || (way->ifindex == run->port->ifindex && !(run->flags & PORT_NO_TRANSMIT)))
		return XDP_TX;
	return bpf_redirect_map(&egress, way->ifindex, XDP_DROP);
}
