/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The connection log: what packets a sample of all flows has. dataplane/logged.py describes the table, which the slow path
 * writes to as well, and empties.
 */
#pragma once
#include "place.h"

/* Counts a packet for its flow: the question has flow and flags. What finds no room is not counted for anybody. */
GLOBAL int log_packet(struct question *q, u32 bytes, u32 member)
{
	struct logged *found = NULL, *at;
	u64 key, there, now = bpf_ktime_get_ns(), *missed, *below = AT(log_gate, LOG_BELOW);
	u32 first, i, flags, unused = LOG_PLACES;

	if (!q || !below)
		return 0;
	key = q->flow.hash64 ?: 1;
	first = (q->flow.hash64 >> 32) * LOG_SETS >> 32;
	first *= LOG_PLACES;
#pragma unroll
	for (i = 0; i < LOG_PLACES; i++) {
		at = AT(logged_flows, first + i);
		if (!at)
			return 0;
		there = load(&at->key);
		if (there == key)
			found = at;
		if (!there)
			unused = i;
	}
	if (!found) {
		found = unused < LOG_PLACES ? AT(logged_flows, first + unused) : NULL;
		if (!found || __sync_val_compare_and_swap(&found->key, 0, key)) {
			missed = AT(log_gate, LOG_MISSED);
			if (missed)
				__sync_fetch_and_add(missed, 1);
			return 0;
		}
		found->first_ns = now;
		found->source[0] = q->flow.source[0];
		found->source[1] = q->flow.source[1];
		found->destination[0] = q->flow.destination[0];
		found->destination[1] = q->flow.destination[1];
		found->ports = q->flow.ports;
		found->protocol = q->flow.protocol;
		found->member = member;
		found->share = *below - 1;
	}
	found->last_ns = now;
	if (found->member != member) {
		found->member = member;
		found->moves++;
	}
	flags = q->flags;
	if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		found->syns++;
	else if (flags & TCP_ACK && found->syns == 1 && !found->answered_ns)
		found->answered_ns = now;
	if (flags & ~found->flags)
		found->flags |= flags;
	__sync_fetch_and_add(&found->bytes, bytes);
	__sync_fetch_and_add(&found->packets, 1);
	return 0;
}
