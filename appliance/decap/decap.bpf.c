/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The member's side of L3 DSR: takes packets out of their encapsulation where they arrive. The inner packet goes on as if
 * it had come on the same interface, so that a strict reverse-path filter accepts it and the VIP on the loopback
 * interface gets it. IPIP, 6-in-4, 4-in-6 and 6-in-6 (RFC 2003, RFC 4213, RFC 2473), and the same with GRE (RFC 2784,
 * RFC 7676) or GUE (draft-ietf-intarea-gue) between.
 *
 * Anybody can send encapsulated packets, and what comes out of them has passed no filter. So three things must fit: the
 * outer source is a director's, the outer destination is our own address, the inner destination is a VIP. What is not
 * meant for us goes on to the kernel, which may have tunnels of its own; what is meant for us and wrong is dropped. GRE
 * and GUE with options, and GUE with a checksum, which only the kernel could verify, are nothing that directors send.
 *
 * One judgement, two hooks: xdp (as early as possible) and tcx (behind GRO, keeps checksum state).
 */
#include "bpf.h"
#include "checksum.h"

/* A named counter for every way out. User space takes names and order from this type (BTF). */
enum count {
	COUNT_DECAPSULATED_IPV4,
	COUNT_DECAPSULATED_IPV6,
	COUNT_PASSED_NOT_ENCAPSULATED,
	COUNT_PASSED_NOT_OUR_ADDRESS,
	COUNT_PASSED_FOREIGN_SOURCE,
	COUNT_PASSED_FRAGMENT,
	COUNT_PASSED_OPTIONS,
	COUNT_DROPPED_MALFORMED,
	COUNT_DROPPED_NOT_A_VIP,
	COUNT_DROPPED_CONGESTION,
	COUNT_DROPPED_NO_ROOM,
	COUNTS
};

/* IPv4 addresses are mapped (RFC 4291, 2.5.5.2), so that each table holds both families. */
struct address {
	u32 word[4];
};
struct prefix {
	u32 length;
	struct address address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct prefix);
	__type(value, u8);
} directors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct address);
	__type(value, u8);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, u8);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, enum count);
	__type(value, u64);
} counters SEC(".maps");

enum verdict { GO_ON, PASS, DROP };

/* What the judgement found out. */
struct tunnel {
	u32 l2;	  /* bytes before the outer IP header: 14, 18 or 22 */
	u32 cut;  /* bytes from the outer to the inner IP header: 20 or 40, and 4 of GRE or 12 of GUE */
	u16 type; /* EtherType of the inner packet, network byte order */
	u8 ecn;	  /* of the outer header */
};

INLINE enum verdict leave(enum verdict verdict, enum count why)
{
	u64 *value = bpf_map_lookup_elem(&counters, &why);

	if (value)
		*value += 1;
	return verdict;
}

INLINE void map_ip4(struct address *address, u32 ip)
{
	address->word[0] = 0;
	address->word[1] = 0;
	address->word[2] = BE32(0xffff);
	address->word[3] = ip;
}

INLINE void copy_ip6(struct address *address, const u32 *ip)
{
	__builtin_memcpy(address->word, ip, sizeof(address->word));
}

/* A field of the inner IPv4 header changes: the checksum with it (RFC 1624). */
INLINE void set_tos(struct iphdr *ip, u8 tos)
{
	u16 *first = (u16 *)ip, before = *first;

	ip->tos = tos;
	ip->check = ~folded((u16)~ip->check + (u16)~before + *first);
}

/* RFC 6040, 4.2: congestion met on the way through the tunnel must not get lost. */
INLINE int ecn_of_inner(u8 outer, u8 inner)
{
	if (outer == 3)
		return inner ? 3 : -1;
	if (outer == 1 && inner == 2)
		return 1;
	return inner;
}

INLINE enum verdict judge_inner_ip4(struct cursor *c, u32 room, const struct tunnel *t)
{
	struct address vip;
	struct iphdr *ip;
	u32 length;
	int ecn;

	ip = take(c, sizeof(*ip));
	if (!ip || ip->version_ihl >> 4 != 4 || (ip->version_ihl & 15) < 5)
		return leave(DROP, COUNT_DROPPED_MALFORMED);
	length = __builtin_bswap16(ip->tot_len);
	if (length < (u32)(ip->version_ihl & 15) * 4 || length > room)
		return leave(DROP, COUNT_DROPPED_MALFORMED);
	map_ip4(&vip, ip->daddr);
	if (!bpf_map_lookup_elem(&vips, &vip))
		return leave(DROP, COUNT_DROPPED_NOT_A_VIP);
	ecn = ecn_of_inner(t->ecn, ip->tos & 3);
	if (ecn < 0)
		return leave(DROP, COUNT_DROPPED_CONGESTION);
	if (ecn != (ip->tos & 3))
		set_tos(ip, (ip->tos & ~3) | ecn);
	return GO_ON;
}

INLINE enum verdict judge_inner_ip6(struct cursor *c, u32 room, const struct tunnel *t)
{
	struct address vip;
	struct ip6hdr *ip;
	int ecn;

	ip = take(c, sizeof(*ip));
	if (!ip || ip->version_class >> 4 != 6)
		return leave(DROP, COUNT_DROPPED_MALFORMED);
	if (sizeof(*ip) + __builtin_bswap16(ip->payload_len) > room)
		return leave(DROP, COUNT_DROPPED_MALFORMED);
	copy_ip6(&vip, ip->daddr);
	if (!bpf_map_lookup_elem(&vips, &vip))
		return leave(DROP, COUNT_DROPPED_NOT_A_VIP);
	/* The two bits are the lower half of the upper half of the second byte. */
	ecn = ecn_of_inner(t->ecn, ip->class_flow >> 4 & 3);
	if (ecn < 0)
		return leave(DROP, COUNT_DROPPED_CONGESTION);
	ip->class_flow = (ip->class_flow & ~0x30) | ecn << 4;
	return GO_ON;
}

/* Whether packets of that protocol may be what we take out. UDP mostly is something else; in a later fragment, where there
 * is no port, it does not matter what this says. */
INLINE int may_carry(u8 protocol, const struct cursor *c)
{
	const struct udphdr *udp = (const struct udphdr *)c->at;

	if (protocol == IPPROTO_UDP)
		return (u8 *)(udp + 1) <= c->end && udp->dest == BE16(GUE_PORT);
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 || protocol == IPPROTO_GRE;
}

/* The three conditions but for the inner one; room is what the outer header leaves to the inner packet. */
INLINE enum verdict judge_outer_ip4(struct cursor *c, u32 left, struct tunnel *t, u8 *protocol, u32 *room)
{
	struct prefix from = {.length = 128};
	struct address own;
	struct iphdr *ip;
	u32 length;

	ip = take(c, sizeof(*ip));
	/* Directors send no options. */
	if (!ip || ip->version_ihl != 0x45 || !may_carry(ip->protocol, c))
		return leave(PASS, COUNT_PASSED_NOT_ENCAPSULATED);
	map_ip4(&own, ip->daddr);
	if (!bpf_map_lookup_elem(&addresses, &own))
		return leave(PASS, COUNT_PASSED_NOT_OUR_ADDRESS);
	map_ip4(&from.address, ip->saddr);
	if (!bpf_map_lookup_elem(&directors, &from))
		return leave(PASS, COUNT_PASSED_FOREIGN_SOURCE);
	/* Only the kernel can put them together, and a tunnel device of its own can take it from there. */
	if (ip->frag_off & BE16(0x3fff))
		return leave(PASS, COUNT_PASSED_FRAGMENT);
	length = __builtin_bswap16(ip->tot_len);
	if (length < sizeof(*ip) || length > left || !sound(ip))
		return leave(DROP, COUNT_DROPPED_MALFORMED);
	*protocol = ip->protocol;
	*room = length - sizeof(*ip);
	t->cut = sizeof(*ip);
	t->ecn = ip->tos & 3;
	return GO_ON;
}

INLINE enum verdict judge_outer_ip6(struct cursor *c, u32 left, struct tunnel *t, u8 *protocol, u32 *room)
{
	struct prefix from = {.length = 128};
	struct address own;
	struct ip6hdr *ip;
	u32 length;

	ip = take(c, sizeof(*ip));
	/* Directors send no extension headers, and no fragments with them. */
	if (!ip || !may_carry(ip->nexthdr, c))
		return leave(PASS, COUNT_PASSED_NOT_ENCAPSULATED);
	copy_ip6(&own, ip->daddr);
	if (!bpf_map_lookup_elem(&addresses, &own))
		return leave(PASS, COUNT_PASSED_NOT_OUR_ADDRESS);
	copy_ip6(&from.address, ip->saddr);
	if (!bpf_map_lookup_elem(&directors, &from))
		return leave(PASS, COUNT_PASSED_FOREIGN_SOURCE);
	length = __builtin_bswap16(ip->payload_len);
	if (sizeof(*ip) + length > left || ip->version_class >> 4 != 6)
		return leave(DROP, COUNT_DROPPED_MALFORMED);
	*protocol = ip->nexthdr;
	*room = length;
	t->cut = sizeof(*ip);
	t->ecn = ip->class_flow >> 4 & 3;
	return GO_ON;
}

/* Opens GRE: the protocol becomes that of what it carries, as if it were IP in IP. */
INLINE enum verdict open_gre(struct cursor *c, struct tunnel *t, u8 *protocol, u32 *room)
{
	struct grehdr *gre = take(c, sizeof(*gre));

	if (!gre || *room < sizeof(*gre))
		return leave(DROP, COUNT_DROPPED_MALFORMED);
	if (gre->flags_version || (gre->protocol != BE16(ETH_P_IP) && gre->protocol != BE16(ETH_P_IPV6)))
		return leave(PASS, COUNT_PASSED_OPTIONS);
	*protocol = gre->protocol == BE16(ETH_P_IP) ? IPPROTO_IPIP : IPPROTO_IPV6;
	*room -= sizeof(*gre);
	t->cut += sizeof(*gre);
	return GO_ON;
}

INLINE enum verdict open_gue(struct cursor *c, struct tunnel *t, u8 *protocol, u32 *room)
{
	struct udphdr *udp = take(c, sizeof(*udp));
	struct guehdr *gue = take(c, sizeof(*gue));
	u32 length;

	if (!udp || !gue)
		return leave(DROP, COUNT_DROPPED_MALFORMED);
	length = __builtin_bswap16(udp->len);
	if (length < sizeof(*udp) + sizeof(*gue) || length > *room)
		return leave(DROP, COUNT_DROPPED_MALFORMED);
	if (udp->check || gue->first || gue->flags ||
	    (gue->protocol != IPPROTO_IPIP && gue->protocol != IPPROTO_IPV6))
		return leave(PASS, COUNT_PASSED_OPTIONS);
	*protocol = gue->protocol;
	*room = length - sizeof(*udp) - sizeof(*gue);
	t->cut += sizeof(*udp) + sizeof(*gue);
	return GO_ON;
}

/* Size is that of the whole packet, of which the cursor may see the beginning only. */
INLINE enum verdict judge(struct cursor *c, u32 size, struct tunnel *t)
{
	enum verdict verdict;
	struct vlanhdr *tag;
	struct ethhdr *eth;
	u8 protocol = 0;
	u32 room = 0;
	u16 type;

	eth = take(c, sizeof(*eth));
	if (!eth)
		return leave(PASS, COUNT_PASSED_NOT_ENCAPSULATED);
	type = eth->proto;
	t->l2 = sizeof(*eth);
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (type != BE16(ETH_P_8021Q) && type != BE16(ETH_P_8021AD))
			break;
		tag = take(c, sizeof(*tag));
		if (!tag)
			return leave(PASS, COUNT_PASSED_NOT_ENCAPSULATED);
		type = tag->proto;
		t->l2 += sizeof(*tag);
	}

	if (type == BE16(ETH_P_IP))
		verdict = judge_outer_ip4(c, size - t->l2, t, &protocol, &room);
	else if (type == BE16(ETH_P_IPV6))
		verdict = judge_outer_ip6(c, size - t->l2, t, &protocol, &room);
	else
		return leave(PASS, COUNT_PASSED_NOT_ENCAPSULATED);
	if (verdict == GO_ON && protocol == IPPROTO_GRE)
		verdict = open_gre(c, t, &protocol, &room);
	else if (verdict == GO_ON && protocol == IPPROTO_UDP)
		verdict = open_gue(c, t, &protocol, &room);
	if (verdict != GO_ON)
		return verdict;

	if (protocol == IPPROTO_IPIP) {
		t->type = BE16(ETH_P_IP);
		return judge_inner_ip4(c, room, t);
	}
	t->type = BE16(ETH_P_IPV6);
	return judge_inner_ip6(c, room, t);
}

INLINE void count_success(const struct tunnel *t)
{
	leave(GO_ON, t->type == BE16(ETH_P_IP) ? COUNT_DECAPSULATED_IPV4 : COUNT_DECAPSULATED_IPV6);
}

enum { LONGEST_LINK = 22 };

/* Takes the bytes between link header and inner packet out of the frame. */
INLINE int cut_out(struct xdp_md *ctx, const struct tunnel *t)
{
	u16 link[LONGEST_LINK / 2], *half = (u16 *)(u64)ctx->data;

	if ((u8 *)half + sizeof(link) > (u8 *)(u64)ctx->data_end)
		return -1;
#pragma unroll
	for (u32 i = 0; i < LONGEST_LINK / 2; i++)
		link[i] = half[i];
	if (bpf_xdp_adjust_head(ctx, t->cut))
		return -1;
	half = (u16 *)(u64)ctx->data;
	if ((u8 *)half + sizeof(link) > (u8 *)(u64)ctx->data_end)
		return -1;
#pragma unroll
	for (u32 i = 0; i < LONGEST_LINK / 2; i++) {
		if (i == t->l2 / 2 - 1) {
			half[i] = t->type;
			break;
		}
		half[i] = link[i];
	}
	return 0;
}

SEC("xdp") int decap_xdp(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	struct cursor c = {data, end};
	struct tunnel t = {0};

	switch (judge(&c, end - data, &t)) {
	case GO_ON:
		break;
	case DROP:
		return XDP_DROP;
	default:
		return XDP_PASS;
	}
	if (cut_out(ctx, &t)) {
		leave(DROP, COUNT_DROPPED_NO_ROOM);
		return XDP_DROP;
	}
	count_success(&t);
	return XDP_PASS;
}

SEC("tc") int decap_tc(struct __sk_buff *skb)
{
	/* The longest headers we look at; where the packet is shorter than that, all of it. */
	u32 headers = LONGEST_LINK + 40 + sizeof(struct udphdr) + sizeof(struct guehdr) + 40;
	struct tunnel t = {0};
	struct cursor c;
	u64 flags;
	u8 *data;

	bpf_skb_pull_data(skb, skb->len < headers ? skb->len : headers);
	c.at = (u8 *)(u64)skb->data;
	c.end = (u8 *)(u64)skb->data_end;
	switch (judge(&c, skb->len, &t)) {
	case GO_ON:
		break;
	case DROP:
		return TCX_DROP;
	default:
		return TCX_NEXT;
	}
	/* A second VLAN tag is still in the packet. The kernel shortens IP packets only; the VLAN's own interface has them. */
	data = (u8 *)(u64)skb->data;
	if (t.l2 != sizeof(struct ethhdr) || data + sizeof(struct ethhdr) > (u8 *)(u64)skb->data_end) {
		leave(PASS, COUNT_PASSED_NOT_ENCAPSULATED);
		return TCX_NEXT;
	}
	/* The helper changes skb->protocol, by which the kernel goes; captures show the frame. */
	((struct ethhdr *)data)->proto = t.type;
	flags = t.type == BE16(ETH_P_IP) ? BPF_F_ADJ_ROOM_DECAP_L3_IPV4 : BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	if (bpf_skb_adjust_room(skb, -(s32)t.cut, BPF_ADJ_ROOM_MAC, flags)) {
		leave(DROP, COUNT_DROPPED_NO_ROOM);
		return TCX_DROP;
	}
	count_success(&t);
	return TCX_NEXT;
}

/* Of the two licences offered, the one under which the program runs inside the kernel. It names only those it knows
 * (license_is_gpl_compatible), and "Dual BSD/GPL" or "Dual MIT/GPL" would offer what we do not. */
char licence[] SEC("license") = "GPL";
