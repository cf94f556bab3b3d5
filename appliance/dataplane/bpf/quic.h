/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Whose a QUIC datagram is, by its connection ID: packet/quic.py, as far as it takes no cipher. What is encrypted is left to
 * the slow path, to which such a packet is a plain one.
 */
#pragma once
#include "lookup.h"

/* What is no way and not NOBODY either. */
enum named { NAMED_BY_KEY = 0x10000, NAMED_BEYOND = 0x10001 };

enum quic_header { QUIC_LONG = 0x80, QUIC_LONG_HEAD = 6, QUIC_SHORT_HEAD = 1, QUIC_LENGTH_BITS = 0x1f };

/* The way of a server ID: its first eight bytes, and the others, as numbers. */
GLOBAL u32 way_of_server(u32 first, u32 count, u64 head, u64 tail)
{
	u64 key = spread(spread(head) + tail);
	u32 low = 0, high = count;
	struct server *server;

	for (int i = 0; i < 17 && low < high; i++) {
		u32 middle = (low + high) / 2;

		server = AT(servers, first + middle);
		if (!server)
			return NOBODY;
		if (key == server->key)
			return server->head == head && server->tail == tail ? server->way : NOBODY;
		if (key < server->key)
			high = middle;
		else
			low = middle + 1;
	}
	return NOBODY;
}

/* The way to whom a datagram's connection ID names; NOBODY, or one of the above.
 * at: of the UDP header in the frame; first: of the service's quic_configs. */
GLOBAL u32 way_by_connection_id(struct xdp_md *ctx, u32 at, u32 first)
{
	u8 *data = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end, *udp, *cid;
	struct quic_config *config;
	u32 carried, length;
	u64 head = 0, tail = 0;

	if (at > 62) /* two tags and an IPv6 header */
		return NOBODY;
	udp = data + at;
	if (udp + 8 > end)
		return NAMED_BEYOND;
	carried = (udp[4] << 8 | udp[5]) - 8;
	if ((int)carried < QUIC_LONG_HEAD) /* no ID of ours is so short */
		return NOBODY;
	if (udp + 8 + QUIC_LONG_HEAD + 1 > end)
		return carried == QUIC_LONG_HEAD ? NOBODY : NAMED_BEYOND;
	if (udp[8] & QUIC_LONG) {
		length = udp[13];
		if (length > carried - QUIC_LONG_HEAD)
			return NOBODY;
		cid = udp + 8 + QUIC_LONG_HEAD;
	} else {
		length = carried - QUIC_SHORT_HEAD;
		cid = udp + 8 + QUIC_SHORT_HEAD;
	}
	config = AT(quic_configs, first + (cid[0] >> 5));
	if (!config || config->kind == QUIC_NONE || length <= config->length)
		return NOBODY;
	if (config->encode_length) {
		u32 told = cid[0] & QUIC_LENGTH_BITS;

		if (told < config->length || (udp[8] & QUIC_LONG && told != length - 1))
			return NOBODY;
	}
	if (config->kind == QUIC_KEY)
		return NAMED_BY_KEY;
	for (int i = 0; i < QUIC_SERVER_ID; i++) {
		if (i >= config->server_id_length)
			break;
		if (cid + i + 2 > end)
			return NAMED_BEYOND;
		if (i < 8)
			head = head << 8 | cid[i + 1];
		else
			tail = tail << 8 | cid[i + 1];
	}
	return way_of_server(config->first, config->count, head, tail);
}
