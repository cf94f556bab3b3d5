/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Captures: frames as they arrive, what becomes of them, and frames as they leave. Only the programs that are put in the
 * place of the others while somebody captures have any of it.
 */
#pragma once
#include "count.h"

/* Copies the beginning of a frame. How much: 0 when it cannot be read. */
INLINE u32 copy_frame(struct xdp_md *ctx, u8 *to, u32 length, u32 limit, int frags)
{
	u32 part = length < limit ? length : limit, less = part - 1;

	/* Linux 6.1 does not see that what is not 0 is at least 1, so it is counted from there. */
	asm volatile("" : "+r"(less));
	if (less >= SNAPLEN)
		return 0;
	part = less + 1;
	if (frags)
		return bpf_xdp_load_bytes(ctx, 0, to, part) ? 0 : part;
	return bpf_probe_read_kernel(to, part, (void *)(u64)ctx->data) ? 0 : part;
}

/* Whether a frame is wanted, by its addresses. Tags are passed over as `balance` does. */
INLINE int is_wanted(const struct wanted *w, const u8 *frame, u32 length)
{
	u64 source[2] = {}, destination[2] = {};
	u16 type = *(const u16 *)(frame + 12);
	const u8 *ip = frame + 14;
	u32 l2 = 14;

	if (!(w->client_mask[0] | w->client_mask[1] | w->vip_mask[0] | w->vip_mask[1]))
		return 1;
	if (type == BE16(ETH_P_8021Q) || type == BE16(ETH_P_8021AD)) {
		type = *(const u16 *)(frame + 16);
		l2 = 18;
		if (type == BE16(ETH_P_8021Q) || type == BE16(ETH_P_8021AD)) {
			type = *(const u16 *)(frame + 20);
			l2 = 22;
		}
	}
	ip = frame + l2;
	if (type == BE16(ETH_P_IP) && length >= l2 + sizeof(struct iphdr)) {
		source[1] = (u64)((const struct iphdr *)ip)->saddr << 32 | 0xffff0000;
		destination[1] = (u64)((const struct iphdr *)ip)->daddr << 32 | 0xffff0000;
	} else if (type == BE16(ETH_P_IPV6) && length >= l2 + sizeof(struct ip6hdr)) {
		__builtin_memcpy(source, ip + 8, 16);
		__builtin_memcpy(destination, ip + 24, 16);
	} else {
		return 0;
	}
	return (source[0] & w->client_mask[0]) == w->client[0] && (source[1] & w->client_mask[1]) == w->client[1] &&
	       (destination[0] & w->vip_mask[0]) == w->vip[0] && (destination[1] & w->vip_mask[1]) == w->vip[1];
}

enum { LONGEST_ADDRESSES = LONGEST_LINK + 4 + sizeof(struct ip6hdr) };

/* Before the packet is judged. */
INLINE int watch_arrival(struct xdp_md *ctx, u32 length, int frags)
{
	struct desk *desk = AT(desks, bpf_get_smp_processor_id());
	const struct wanted *wanted = AT(wanteds, 0);
	u32 snaplen;

	if (!desk || !wanted)
		return 0;
	desk->busy = 0;
	if (ctx->ingress_ifindex == LOOPBACK) /* a test run: nobody's packet */
		return 0;
	snaplen = wanted->snaplen;
	if (snaplen < LONGEST_ADDRESSES)
		snaplen = LONGEST_ADDRESSES;
	desk->record.length = length;
	desk->record.captured = copy_frame(ctx, desk->record.bytes, length, snaplen, frags);
	desk->record.exit = EXITS;
	desk->busy = desk->record.captured && is_wanted(wanted, desk->record.bytes, desk->record.captured);
	return 0;
}

/* Behind it. What was passed up is nobody's business, or judged by the slow path, which tells of it. */
INLINE int watch_departure(struct xdp_md *ctx, u32 length, u32 action, int frags)
{
	u32 cpu = bpf_get_smp_processor_id(), snaplen, at, part;
	struct desk *desk = AT(desks, cpu);
	const struct wanted *wanted = AT(wanteds, 0);
	struct record *record;

	if (!desk || !wanted || !desk->busy || action == XDP_PASS)
		return 0;
	record = &desk->record;
	record->ns = bpf_ktime_get_ns();
	record->ifindex = ctx->ingress_ifindex;
	record->exit = desk->outcome.exit;
	if (record->exit == EXIT_TRANSMIT && action == XDP_DROP)
		record->exit = EXIT_DROP_TX_FAILED;
	record->way = desk->outcome.way;
	record->slot = desk->outcome.slot;
	record->service = desk->outcome.service;
	record->entry = desk->outcome.entry;
	record->by = desk->outcome.by;
	snaplen = wanted->snaplen;
	at = record->captured < snaplen ? record->captured : snaplen;
	if (at > SNAPLEN)
		return 0;
	record->captured = at;
	record->out_length = record->out_captured = 0;
	if (action != XDP_DROP) {
		part = copy_frame(ctx, record->bytes + at, length, snaplen, frags);
		record->out_length = length;
		record->out_captured = part;
		if (part > SNAPLEN)
			return 0;
		at += part;
	}
	if (bpf_ringbuf_output(&captured, record, __builtin_offsetof(struct record, bytes) + at, 0))
		desk->lost++;
	return 0;
}

GLOBAL int arrive_frags(struct xdp_md *ctx, u32 length)
{
	return watch_arrival(ctx, length, 1);
}

GLOBAL int depart_frags(struct xdp_md *ctx, u32 length, u32 action)
{
	return watch_departure(ctx, length, action, 1);
}

GLOBAL int arrive_linear(struct xdp_md *ctx, u32 length)
{
	return watch_arrival(ctx, length, 0);
}

GLOBAL int depart_linear(struct xdp_md *ctx, u32 length, u32 action)
{
	return watch_departure(ctx, length, action, 0);
}
