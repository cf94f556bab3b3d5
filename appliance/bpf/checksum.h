/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The Internet checksum of IPv4 headers without options (RFC 1071, RFC 1624).
 */
#pragma once
#include "bpf.h"

/* 16 bits of a sum of 16-bit words; sums up to 2^32 - 1 fold in two steps. */
INLINE u32 folded(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Whether the header checksum is right. The kernel would have looked; it never sees this header. */
INLINE int sound(const struct iphdr *ip)
{
	const u32 *word = (const u32 *)ip;
	u64 sum = 0;

#pragma unroll
	for (u32 i = 0; i < sizeof(*ip) / 4; i++)
		sum += word[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	return folded(sum) == 0xffff;
}
