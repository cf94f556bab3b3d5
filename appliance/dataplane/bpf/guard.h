/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Whose packets are not taken, and how many new connections: what packet/protection.py says, with the meters of
 * dataplane/meters.py. Meters belong to all CPUs alike, and a connection that is refused writes nothing.
 */
#pragma once
#include "place.h"

/* Whether an odd number of boundaries is not above the address. */
GLOBAL u32 is_denied(u32 first, u32 count, u64 upper, u64 lower)
{
	u32 low = 0, high = count;
	struct boundary *boundary;

	for (int i = 0; i < 24 && low < high; i++) {
		u32 middle = (low + high) / 2;

		boundary = AT(boundaries, first + middle);
		if (!boundary)
			return 0;
		if (upper < boundary->upper || (upper == boundary->upper && lower < boundary->lower))
			high = middle;
		else
			low = middle + 1;
	}
	return low & 1;
}

INLINE int is_exhausted(u64 due, u64 now, u64 interval, u64 tolerance)
{
	return due > now + tolerance && due <= now + tolerance + interval + METER_SLACK_NS;
}

INLINE u64 charged(u64 due, u64 now, u64 interval, u64 tolerance)
{
	return (due > now && due <= now + tolerance + interval + METER_SLACK_NS ? due : now) + interval;
}

/* When four other CPUs have been quicker, one connection goes without being counted. */
INLINE void charge(u64 *due, u64 now, u64 interval, u64 tolerance)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < 4; i++) {
		u64 before = load(due);

		if (__sync_val_compare_and_swap(due, before, charged(before, now, interval, tolerance)) == before)
			return;
	}
}

/* Where a source is, or is to be: of a set, the place whose meter is full again first. */
INLINE u32 place_of_source(struct source_set *set, u64 key)
{
	u32 at = 0;
	u64 least = ~0ull;

	for (u32 i = 0; i < SOURCE_PLACES; i++) {
		u64 due = load(&set->place[i].due);

		if (load(&set->place[i].key) == key)
			return i;
		if (due < least) {
			least = due;
			at = i;
		}
	}
	return at;
}

enum { ADMIT_LOOK, ADMIT_TAKE };

/* How a new connection is let through, or why it is not. Take: count it. */
GLOBAL u32 admit(u32 guard_at, u64 hash64, u32 row, u32 take)
{
	const struct control *control = AT(controls, 0);
	struct guard *guard = AT(guards, guard_at);
	u64 key = hash64 ?: 1, now, *due[2];
	struct source *source = NULL;

	if (!guard || !control)
		return EXIT_TRANSMIT;
	now = bpf_ktime_get_ns() + control->clock;
	for (int i = 0; i < 2; i++) {
		due[i] = guard->interval[i] ? AT(dues, guard->meter[i]) : NULL;
		if (take == ADMIT_LOOK && due[i] &&
		    is_exhausted(load(due[i]), now, guard->interval[i], guard->tolerance[i]))
			return i == SCOPE_SERVICE ? EXIT_DROP_SERVICE_RATE : EXIT_DROP_VIP_RATE;
	}
	if (guard->interval[SCOPE_SOURCE]) {
		struct source_set *set = AT(sources, (hash64 >> 32) * control->source_sets >> 32);

		if (set)
			source = &set->place[place_of_source(set, key) & (SOURCE_PLACES - 1)];
	}
	if (take == ADMIT_LOOK)
		return source && load(&source->key) == key &&
				       is_exhausted(load(&source->due), now, guard->interval[SCOPE_SOURCE],
						    guard->tolerance[SCOPE_SOURCE])
			       ? EXIT_DROP_SOURCE_RATE
			       : EXIT_TRANSMIT;
	for (int i = 0; i < 2; i++)
		if (due[i])
			charge(due[i], now, guard->interval[i], guard->tolerance[i]);
	if (source && load(&source->key) == key) {
		charge(&source->due, now, guard->interval[SCOPE_SOURCE], guard->tolerance[SCOPE_SOURCE]);
	} else if (source) {
		struct cpu *cpu = AT(cpus, row);

		if (cpu && load(&source->due) > now)
			cpu->sources_forgotten++;
		*(volatile u64 *)&source->due = now + guard->interval[SCOPE_SOURCE];
		*(volatile u64 *)&source->key = key;
	}
	return EXIT_TRANSMIT;
}
