/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Programs for the ends of a test's cables. A veth whose peer has an XDP program, whatever it does, takes frames of XDP
 * programs.
 */
#include "bpf.h"

struct setting {
	u64 head[8]; /* of the frame to send */
	u32 sum;     /* of its IPv4 header without source address and checksum */
	u32 sources; /* random source addresses: how many bits of them */
	u64 sent;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct setting);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, u32);
	__type(value, u64);
} arrived SEC(".maps");

SEC("xdp.frags") int leave_alone(struct xdp_md *ctx)
{
	return ctx ? XDP_PASS : XDP_DROP;
}

/* Counts UDP and encapsulated frames by the last byte of their destination address, and drops them. Addresses that begin
 * with something else than 02:00:00:00:01 are counted as 255. */
SEC("xdp.frags") int count_and_drop(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	u64 *count;
	u32 which;

	if (data + 34 > end || *(u16 *)(data + 12) != BE16(ETH_P_IP) || (data[23] != IPPROTO_UDP && data[23] != IPPROTO_IPIP))
		return XDP_PASS;
	which = *(u32 *)data == BE32(0x02000000) && data[4] == 1 ? data[5] : 255;
	count = bpf_map_lookup_elem(&arrived, &which);
	if (count)
		*count += 1;
	return XDP_DROP;
}

/* In live test runs: one frame after the other, of random flows. */
SEC("xdp") int generate(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	u32 zero = 0, source, sum;
	struct setting *s = bpf_map_lookup_elem(&settings, &zero);

	if (!s || data + 64 > end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < 8; i++)
		((u64 *)data)[i] = s->head[i];
	source = bpf_get_prandom_u32();
	*(u16 *)(data + 34) = source;
	if (s->sources) {
		source = __builtin_bswap32(0xc6120000 | (bpf_get_prandom_u32() & ((1 << (s->sources & 31)) - 1)));
		*(u32 *)(data + 26) = source;
		sum = s->sum + (source & 0xffff) + (source >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		*(u16 *)(data + 24) = ~sum;
	}
	s->sent++;
	return XDP_TX;
}

char licence[] SEC("license") = "GPL";
