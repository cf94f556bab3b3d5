/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * A small director of the form that many have: a hash map of VIPs, an array of real servers, IP in IP. Written for
 * tests/conformance, to have a program that shares neither maps nor code with the product's; see Simple in foreign.py.
 */
#include "bpf.h"
#include "checksum.h"

struct vip_key {
	u32 address[4];
	u16 port, protocol; /* the port as in the packet; both 0: whatever they are */
	u32 version;
};
struct real {
	u8 macs[12]; /* destination, source */
	u8 version, ttl;
	u16 limit;
	u32 source[4], destination[4];
};
struct here {
	u8 mac[6], spare[2];
	u32 mtu;
	u8 loops[4][6]; /* MAC addresses that no client has */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct vip_key);
	__type(value, u32);
} vips SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct real);
} reals SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct here);
} here SEC(".maps");

INLINE int same_mac(const u8 *a, const u8 *b)
{
	return *(u32 *)a == *(u32 *)b && *(u16 *)(a + 4) == *(u16 *)(b + 4);
}

/* Whether a TCP or UDP header is whole. */
INLINE int whole(const u8 *l4, const u8 *end, u32 available, u8 protocol)
{
	u32 length;

	if (protocol == IPPROTO_TCP) {
		if (available < 20 || l4 + 20 > end)
			return 0;
		length = (l4[12] >> 4) * 4;
		return length >= 20 && length <= available;
	}
	if (available < 8 || l4 + 8 > end)
		return 0;
	length = __builtin_bswap16(*(u16 *)(l4 + 4));
	return length >= 8 && length <= available;
}

/* The frame again, with an outer header. */
INLINE int send(struct xdp_md *ctx, const struct real *real, u32 inner_version, u32 length, u8 tclass, int whole_only)
{
	u32 size = real->version == 4 ? sizeof(struct iphdr) : sizeof(struct ip6hdr);
	u8 carried = inner_version == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	struct ethhdr *eth;
	u8 *data, *end;

	if (bpf_xdp_adjust_head(ctx, -(int)size))
		return XDP_DROP;
	data = (u8 *)(u64)ctx->data;
	end = (u8 *)(u64)ctx->data_end;
	if (data + sizeof(*eth) + sizeof(struct ip6hdr) > end)
		return XDP_DROP;
	eth = (struct ethhdr *)data;
	*(u64 *)eth->dst = *(u64 *)real->macs;
	*(u32 *)(eth->src + 2) = *(u32 *)(real->macs + 8);
	if (real->version == 4) {
		struct iphdr *ip = (struct iphdr *)(eth + 1);
		u32 sum;

		eth->proto = BE16(ETH_P_IP);
		*ip = (struct iphdr){
			.version_ihl = 0x45,
			.tos = tclass,
			.tot_len = __builtin_bswap16(length + size),
			.id = whole_only ? 0 : (u16)bpf_get_prandom_u32(),
			.frag_off = whole_only ? BE16(0x4000) : 0,
			.ttl = real->ttl,
			.protocol = carried,
			.saddr = real->source[0],
			.daddr = real->destination[0],
		};
		sum = (0x45 | tclass << 8) + ip->tot_len + ip->id + ip->frag_off + (real->ttl | carried << 8);
		sum += (ip->saddr & 0xffff) + (ip->saddr >> 16) + (ip->daddr & 0xffff) + (ip->daddr >> 16);
		ip->check = ~folded(sum);
	} else {
		struct ip6hdr *ip = (struct ip6hdr *)(eth + 1);

		eth->proto = BE16(ETH_P_IPV6);
		ip->version_class = 0x60 | tclass >> 4;
		ip->class_flow = tclass << 4;
		ip->flow = BE16(1);
		ip->payload_len = __builtin_bswap16(length);
		ip->nexthdr = carried;
		ip->hop_limit = real->ttl;
#pragma unroll
		for (int i = 0; i < 4; i++) {
			ip->saddr[i] = real->source[i];
			ip->daddr[i] = real->destination[i];
		}
	}
	return XDP_TX;
}

SEC("xdp") int director(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end, *l4, *hop_limit;
	u32 zero = 0, version, length, behind = end - data - sizeof(struct ethhdr), header;
	struct ethhdr *eth = (struct ethhdr *)data;
	struct iphdr *ip4 = (struct iphdr *)(eth + 1);
	struct ip6hdr *ip6 = (struct ip6hdr *)(eth + 1);
	struct here *us = bpf_map_lookup_elem(&here, &zero);
	struct real *real = bpf_map_lookup_elem(&reals, &zero);
	struct vip_key key = {};
	int whole_only = 1;
	u8 tclass;

	if (!us || !real || (u8 *)(eth + 1) > end || !same_mac(eth->dst, us->mac))
		return XDP_PASS;
	if (eth->proto == BE16(ETH_P_IP)) {
		if ((u8 *)(ip4 + 1) > end)
			return XDP_PASS;
		version = 4;
		key.address[0] = ip4->daddr;
	} else if (eth->proto == BE16(ETH_P_IPV6)) {
		if ((u8 *)(ip6 + 1) > end)
			return XDP_PASS;
		version = 6;
#pragma unroll
		for (int i = 0; i < 4; i++)
			key.address[i] = ip6->daddr[i];
	} else {
		return XDP_PASS;
	}
	key.version = version;
	if (!bpf_map_lookup_elem(&vips, &key))
		return XDP_PASS;
	if (behind > us->mtu)
		return XDP_DROP;
	if (version == 4) {
		length = __builtin_bswap16(ip4->tot_len);
		header = sizeof(*ip4);
		if (ip4->version_ihl != 0x45 || length < header || length > behind || !sound(ip4))
			return XDP_DROP;
		if (!(u8)ip4->saddr || (u8)ip4->saddr == 127 || (u8)ip4->saddr >= 224 || ip4->saddr == ip4->daddr)
			return XDP_DROP; /* nobody has such an address */
		key.protocol = ip4->protocol;
		l4 = (u8 *)(ip4 + 1);
		tclass = ip4->tos;
		whole_only = (ip4->frag_off & BE16(0x4000)) != 0;
		hop_limit = &ip4->ttl;
	} else {
		header = sizeof(*ip6);
		length = __builtin_bswap16(ip6->payload_len) + header;
		if (ip6->version_class >> 4 != 6 || length > behind)
			return XDP_DROP;
		if ((u8)ip6->saddr[0] == 0xff || !(ip6->saddr[0] | ip6->saddr[1] | (u16)ip6->saddr[2]))
			return XDP_DROP;
		if (ip6->saddr[0] == ip6->daddr[0] && ip6->saddr[1] == ip6->daddr[1] && ip6->saddr[2] == ip6->daddr[2] &&
		    ip6->saddr[3] == ip6->daddr[3])
			return XDP_DROP;
		key.protocol = ip6->nexthdr;
		l4 = (u8 *)(ip6 + 1);
		tclass = ip6->version_class << 4 | ip6->class_flow >> 4;
		hop_limit = &ip6->hop_limit;
	}
	if (!whole(l4, end, length - header, key.protocol))
		return XDP_DROP;
	key.port = *(u16 *)(l4 + 2);
	if (!bpf_map_lookup_elem(&vips, &key))
		return XDP_DROP;
#pragma unroll
	for (int i = 0; i < 4; i++)
		if (same_mac(eth->src, us->loops[i]))
			return XDP_DROP;
	if (*hop_limit <= 1 || length > real->limit)
		return XDP_DROP;
	*hop_limit -= 1;
	if (version == 4)
		ip4->check = ~folded((u16)~ip4->check + 0xfffe);
	return send(ctx, real, version, length, tclass, whole_only);
}

char licence[] SEC("license") = "GPL";
