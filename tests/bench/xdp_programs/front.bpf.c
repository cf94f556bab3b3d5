/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Test runs repeat with one buffer, and every program changes it. So each run begins here: the headers are written anew,
 * for the next flow, and the program under test takes over by a tail call. Yardsticks are here, too.
 */
#include "bpf.h"

enum { BPF_MAP_TYPE_PROG_ARRAY = 3 };
static long (*bpf_tail_call)(void *ctx, void *map, u32 index) = (void *)12;

struct setting {
	u32 length;   /* of the frame */
	u32 v6;	      /* IPv6? */
	u32 flows;    /* less one; a power of two less one */
	u32 services; /* destinations */
	u32 sum;      /* of the IPv4 header without addresses */
	u32 destination;	/* the first one, host byte order; the last 32 bits for IPv6 */
	u64 turn;
	u64 head[10]; /* the frame's beginning */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct setting);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} target SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 4);
	__type(key, u32);
	__type(value, u32);
} egress SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} arrived SEC(".maps");

SEC("xdp.frags") int front(struct xdp_md *ctx)
{
	u32 zero = 0, flow, destination, sum, where, more;
	struct setting *s = bpf_map_lookup_elem(&settings, &zero);
	u8 *data, *end;
	u64 turn;

	if (!s)
		return XDP_ABORTED;
	more = bpf_xdp_get_buff_len(ctx) - s->length;
	if (more && bpf_xdp_adjust_head(ctx, (int)more))
		return XDP_ABORTED;
	data = (u8 *)(u64)ctx->data;
	end = (u8 *)(u64)ctx->data_end;
	if (data + 80 > end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < 10; i++)
		((u64 *)data)[i] = s->head[i];
	turn = s->turn++;
	flow = bpf_get_prandom_u32() & s->flows;
	where = s->v6 ? 54 : 34;
	destination = s->destination + ((u64)((u32)turn * 0x9e3779b1u) * s->services >> 32);
	if (s->v6) {
		*(u32 *)(data + 34) = __builtin_bswap32(flow >> 3);
		*(u32 *)(data + 50) = __builtin_bswap32(destination);
		*(u16 *)(data + 54) = __builtin_bswap16(1024 + (flow & 7));
	} else {
		u32 source = __builtin_bswap32(0xc6120000 + (flow >> 3));

		destination = __builtin_bswap32(destination);
		*(u32 *)(data + 26) = source;
		*(u32 *)(data + 30) = destination;
		*(u16 *)(data + 34) = __builtin_bswap16(1024 + (flow & 7));
		sum = s->sum + (source & 0xffff) + (source >> 16) + (destination & 0xffff) + (destination >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		*(u16 *)(data + 24) = ~sum;
	}
	bpf_tail_call(ctx, &target, 0);
	return where;
}

SEC("xdp.frags") int empty(struct xdp_md *ctx)
{
	return ctx->data ? XDP_PASS : XDP_DROP;
}

INLINE int swap(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	u32 head;
	u16 tail;

	if (data + 14 > end)
		return -1;
	head = *(u32 *)data;
	tail = *(u16 *)(data + 4);
	*(u32 *)data = *(u32 *)(data + 6);
	*(u16 *)(data + 4) = *(u16 *)(data + 10);
	*(u32 *)(data + 6) = head;
	*(u16 *)(data + 10) = tail;
	return 0;
}

SEC("xdp.frags") int bare_tx(struct xdp_md *ctx)
{
	return swap(ctx) ? XDP_DROP : XDP_TX;
}

SEC("xdp.frags") int bare_redirect(struct xdp_md *ctx)
{
	return swap(ctx) ? XDP_DROP : bpf_redirect_map(&egress, ctx->ingress_ifindex, XDP_DROP);
}

/* What comes back to the client: frames are counted and dropped, but for ARP and ND. */
SEC("xdp.frags") int sink(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	u32 zero = 0;
	u64 *count;

	if (data + 34 > end || (*(u16 *)(data + 12) != BE16(ETH_P_IP)))
		return XDP_PASS;
	count = bpf_map_lookup_elem(&arrived, &zero);
	if (count)
		*count += 1;
	return XDP_DROP;
}

char licence[] SEC("license") = "GPL";
