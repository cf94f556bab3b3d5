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

INLINE u8 outer_protocol(const struct way *way, const struct inner *inner)
{
	if (likely(way->tunnel == TUNNEL_IPIP))
		return ip_in_ip(inner);
	return way->tunnel == TUNNEL_GRE ? IPPROTO_GRE : IPPROTO_UDP;
}

INLINE void write_outer4(struct iphdr *ip, const struct run *run, const struct way *way, const struct inner *inner)
{
	u16 length = __builtin_bswap16(inner->length + way->tunnel + sizeof(*ip));
	u8 protocol = outer_protocol(way, inner);
	u16 id = 0, frag = BE16(0x4000);

	if (!inner->whole || way->flags & WAY_CLEAR) {
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
	ip->saddr = way->source[0];
	ip->daddr = way->destination[0];
	ip->check = ~folded(way->sum + (0x45 | inner->tclass << 8) + length + id + frag + (way->ttl | protocol << 8));
}

INLINE void write_outer6(struct ip6hdr *ip, const struct way *way, const struct inner *inner)
{
	u32 label = inner->hash & 0xfffff;

	*(u32 *)ip = __builtin_bswap32(6u << 28 | (u32)inner->tclass << 20 | (label ? label : 1));
	ip->payload_len = __builtin_bswap16(inner->length + way->tunnel);
	ip->nexthdr = outer_protocol(way, inner);
	ip->hop_limit = way->ttl;
	__builtin_memcpy(ip->saddr, way->source, 16);
	__builtin_memcpy(ip->daddr, way->destination, 16);
}

/* What GRE and GUE have between the two IP headers. No checksums: packet/encap.py says why. */
INLINE int write_tunnel(u8 *at, u8 *end, const struct way *way, const struct inner *inner)
{
	struct grehdr *gre = (struct grehdr *)at;
	struct udphdr *udp = (struct udphdr *)at;
	struct guehdr *gue = (struct guehdr *)(udp + 1);

	if (way->tunnel == TUNNEL_GRE) {
		if ((u8 *)(gre + 1) > end)
			return -1;
		gre->flags_version = 0;
		gre->protocol = inner->type;
		return 0;
	}
	if ((u8 *)(gue + 1) > end)
		return -1;
	udp->source = __builtin_bswap16(0xc000 | inner->hash);
	udp->dest = BE16(GUE_PORT);
	udp->len = __builtin_bswap16(inner->length + TUNNEL_GUE);
	udp->check = 0;
	gue->first = 0;
	gue->protocol = ip_in_ip(inner);
	gue->flags = 0;
	return 0;
}

/* Makes the frame what goes out. Negative when the driver leaves no room in front. */
INLINE int rewrite(const struct run *run, const struct way *way, const struct inner *inner)
{
	u32 l2 = sizeof(struct ethhdr) + (way->tag[0] ? sizeof(struct vlanhdr) : 0);
	u32 outer = way->kind == WAY_L2 ? 0 : way->kind == WAY_OUTER4 ? sizeof(struct iphdr) : sizeof(struct ip6hdr);
	int more = (int)(l2 + outer + way->tunnel) - (int)inner->l2;
	u8 *data, *end;
	void *ip;

	if (more && bpf_xdp_adjust_head(run->ctx, -more))
		return -1;
	data = (u8 *)(u64)run->ctx->data;
	end = (u8 *)(u64)run->ctx->data_end;
	if (outer == sizeof(struct iphdr)) {
		if (data + sizeof(struct ethhdr) + sizeof(struct vlanhdr) + sizeof(struct iphdr) > end)
			return -1;
		ip = write_head(data, way, BE16(ETH_P_IP));
		write_outer4(ip, run, way, inner);
		if (unlikely(way->tunnel))
			return write_tunnel((u8 *)ip + sizeof(struct iphdr), end, way, inner);
	} else if (outer) {
		if (data + sizeof(struct ethhdr) + sizeof(struct vlanhdr) + sizeof(struct ip6hdr) > end)
			return -1;
		ip = write_head(data, way, BE16(ETH_P_IPV6));
		write_outer6(ip, way, inner);
		if (unlikely(way->tunnel))
			return write_tunnel((u8 *)ip + sizeof(struct ip6hdr), end, way, inner);
	} else {
		if (data + sizeof(struct ethhdr) + sizeof(struct vlanhdr) > end)
			return -1;
		write_head(data, way, inner->type);
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
