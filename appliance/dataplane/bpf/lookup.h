/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * From addresses and ports to a virtual service (packets.md: P10, P11), and from a flow to a slot.
 */
#pragma once
#include "tables.h"

struct key {
	u64 address[2];
	u32 what;
};

/* Spreads what structured keys leave regular in the upper bits. */
INLINE u64 spread(u64 h)
{
	return (h ^ h >> 32) * 0xd6e8feb86659fd93ull;
}

/* The same as ring/hash.py: the upper half of an HM hash, spread twice. */
INLINE u32 finished(u64 h)
{
	return spread(spread(h)) >> 32;
}

/* The number of the entry with this key; 0 when there is none. Buckets hold four and fill up in order; what finds its own
 * full stands in one of the next. */
INLINE u32 find(const struct generation *g, u32 first, u32 mask, const struct key *key, struct entry **found)
{
	u64 h = spread((key->address[0] + g->seeds[0]) * (key->address[1] + g->seeds[1]) +
		       (key->what + g->seeds[2]) * g->seeds[3]);
	u32 tag = h >> 24 & 0xff, number;
	struct bucket *bucket;
	struct entry *entry;

#pragma clang loop unroll(disable)
	for (u32 probe = 0; probe < PROBES; probe++) {
		bucket = AT(buckets, first + (((u32)(h >> 32) + probe) & mask));
		if (!bucket)
			return 0;
#pragma unroll
		for (int i = 0; i < 4; i++) {
			number = bucket->slot[i];
			if (!number)
				return 0;
			if (number >> 24 != tag)
				continue;
			number &= 0xffffff;
			entry = AT(entries, g->entries_first + number);
			if (entry && entry->what == key->what && entry->address[0] == key->address[0] &&
			    entry->address[1] == key->address[1]) {
				*found = entry;
				return number;
			}
		}
	}
	return 0;
}

/* The entry of the range that a port lies in; 0 when there is none. */
GLOBAL u32 entry_of_port(u32 first, u32 count, u32 port)
{
	u32 low = 0, high = count;
	struct range *range;

	for (int i = 0; i < 17 && low < high; i++) {
		u32 middle = (low + high) / 2;

		range = AT(ranges, first + middle);
		if (!range)
			return 0;
		if (port < range->first)
			high = middle;
		else if (port > range->last)
			low = middle + 1;
		else
			return range->entry;
	}
	return 0;
}

/* Whether a MAC address is one of those that no client has. */
GLOBAL u32 is_station(u32 first, u32 count, u64 mac)
{
	u32 low = 0, high = count;
	u64 *station;

	for (int i = 0; i < 17 && low < high; i++) {
		u32 middle = (low + high) / 2;

		station = AT(stations, first + middle);
		if (!station)
			return 0;
		if (mac == *station)
			return 1;
		if (mac < *station)
			high = middle;
		else
			low = middle + 1;
	}
	return 0;
}
