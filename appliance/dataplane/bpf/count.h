/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Counters, and samples of what was counted.
 */
#pragma once
#include "tables.h"

/* What stays the same for one packet. */
struct run {
	struct xdp_md *ctx;
	const struct control *control;
	const struct generation *generation;
	const struct port *port;
	u32 number; /* of the generation */
	u32 row;   /* of the counters */
	u32 flags; /* of the port */
	u32 length; /* of the frame */
	u32 linear; /* of its first buffer, which is all there is to see */
	int watched; /* a constant: whether this is a program for captures */
};

/* Copies the frame's beginning to user space. Never waits: when nobody reads, samples are lost. */
GLOBAL int sample(struct xdp_md *ctx, u32 exit, u32 length)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	struct event *event;
	u32 i;

	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	event->ns = bpf_ktime_get_ns();
	event->exit = exit;
	event->ifindex = ctx->ingress_ifindex;
	event->length = length;
	for (i = 0; i < EVENT_HEAD; i++) {
		if (data + i + 1 > end)
			break;
		event->head[i] = data[i];
	}
	event->captured = i;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* One sample for each way out, CPU and tick. */
INLINE void maybe_sample(const struct run *run, struct exit_count *count, enum exit exit)
{
	u64 tick = bpf_ktime_get_coarse_ns() >> (run->control->tick_shift & 31);

	if (count->tick == tick || (run->flags & PORT_QUIET))
		return;
	count->tick = tick;
	sample(run->ctx, exit, run->length);
}

INLINE void note(const struct run *run, enum exit exit, u32 entry, u32 way, enum by by, u32 slot, u32 service, u32 hash)
{
	struct outcome *outcome;

	if (run->watched) {
		struct desk *desk = AT(desks, bpf_get_smp_processor_id());

		if (desk)
			desk->outcome = (struct outcome){exit, entry, way, slot, service, hash, by, 0};
	}
	if (likely(!(run->flags & PORT_QUIET)))
		return;
	outcome = AT(outcomes, 0);
	if (outcome)
		*outcome = (struct outcome){exit, entry, way, slot, service, hash, by, 0};
}

INLINE void count_exit(const struct run *run, enum exit exit)
{
	struct exit_count *count = AT(exits, run->row * EXITS + exit);

	if (!count)
		return;
	count->packets++;
	if (exit != EXIT_PASS_NOT_IP && exit != EXIT_PASS_NOT_VIP)
		maybe_sample(run, count, exit);
}

/* Packets on their way to a member are counted by service and member only. */
INLINE void count_traffic(const struct run *run, u32 service, u32 way, u32 bytes, int opens)
{
	u32 service_at = run->row * run->control->services + service, way_at = run->row * run->control->ways + way;
	struct traffic *traffic;
	u64 *flows;

	traffic = AT(service_traffic, service_at);
	if (traffic) {
		traffic->packets++;
		traffic->bytes += bytes;
	}
	traffic = AT(way_traffic, way_at);
	if (traffic) {
		traffic->packets++;
		traffic->bytes += bytes;
	}
	if (likely(!opens))
		return;
	flows = AT(service_flows, service_at);
	if (flows)
		*flows += 1;
	flows = AT(way_flows, way_at);
	if (flows)
		*flows += 1;
}

/* Before the frame is changed. */
INLINE void sample_flow(const struct run *run)
{
	struct exit_count *count = AT(exits, run->row * EXITS + EXIT_TRANSMIT);

	if (count)
		maybe_sample(run, count, EXIT_TRANSMIT);
}

/* Ways out. */
INLINE int pass(const struct run *run, enum exit exit)
{
	count_exit(run, exit);
	note(run, exit, 0, NOBODY, BY_SLOT, 0, 0, 0);
	return XDP_PASS;
}

INLINE int drop(const struct run *run, enum exit exit)
{
	count_exit(run, exit);
	note(run, exit, 0, NOBODY, BY_SLOT, 0, 0, 0);
	return XDP_DROP;
}

/* Odd packets go up to the slow path: the raw data plane, which looks at them one by one. A flood of them ends here. What
 * is plain to the raw plane passes without this. */
INLINE int slow(const struct run *run, enum exit exit)
{
	struct cpu *cpu = AT(cpus, run->row);
	u64 tick = bpf_ktime_get_coarse_ns() >> (run->control->tick_shift & 31);

	if (cpu) {
		if (cpu->tick != tick) {
			cpu->tick = tick;
			cpu->slow = 0;
		}
		if (cpu->slow >= run->control->slow_limit && !(run->flags & PORT_QUIET))
			return drop(run, EXIT_DROP_SLOW_PATH_FULL);
		cpu->slow++;
	}
	return pass(run, exit);
}

/* The same for what may as well be dropped: most of the slow path's room is for others. */
INLINE int slow_or_drop(const struct run *run, enum exit exit, enum exit otherwise)
{
	struct cpu *cpu = AT(cpus, run->row);
	u64 tick = bpf_ktime_get_coarse_ns() >> (run->control->tick_shift & 31);

	if (cpu && cpu->tick == tick && cpu->slow >= run->control->slow_limit / 8 && !(run->flags & PORT_QUIET))
		return drop(run, otherwise);
	return slow(run, exit);
}
