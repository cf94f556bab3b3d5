/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The same program as the product's, with what others do on every packet: the flow is looked up in the kernel's
 * LRU_HASH, and filled in when it is not there.
 */
#include "../../../appliance/dataplane/bpf/balance.bpf.c"

enum { BPF_MAP_TYPE_LRU_HASH = 9 };
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;

struct flow_key {
	u32 source[4], destination[4], ports, protocol;
};
struct flow_value {
	u64 seen;
	u32 member, flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 20);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
} flows SEC(".maps");

GLOBAL int remember(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	struct flow_value *known, fresh = {.seen = bpf_ktime_get_ns(), .member = 1};
	struct flow_key key = {0};
	struct iphdr *ip = (struct iphdr *)(data + 14);

	if (data + 38 > end)
		return 0;
	key.source[0] = ip->saddr;
	key.destination[0] = ip->daddr;
	key.ports = *(u32 *)(data + 34);
	key.protocol = ip->protocol;
	known = bpf_map_lookup_elem(&flows, &key);
	if (known) {
		known->seen = fresh.seen;
		return known->member;
	}
	bpf_map_update_elem(&flows, &key, &fresh, 0);
	return 0;
}

SEC("xdp.frags") int with_lru(struct xdp_md *ctx)
{
	remember(ctx);
	return balance(ctx, whole_length(ctx), 0);
}
