/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What our BPF programs need of the kernel's interface, and no more: with it they compile from nothing but this folder,
 * without kernel headers, to the same object everywhere. Numbers are kernel ABI (include/uapi/linux/bpf.h).
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
/* A function of its own, verified once and not at every call; none of our stack is spent on it unless it is called. */
#define GLOBAL __attribute__((noinline))
#define unlikely(x) __builtin_expect(!!(x), 0)
#define likely(x) __builtin_expect(!!(x), 1)
#define NULL ((void *)0)

/* Map definitions, as libbpf reads them from BTF. */
#define __uint(name, value) int (*name)[value]
#define __type(name, value) __typeof__(value) *name
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_LPM_TRIE = 11 };
enum { BPF_MAP_TYPE_DEVMAP_HASH = 25, BPF_MAP_TYPE_RINGBUF = 27 };
enum { BPF_F_NO_PREALLOC = 1, BPF_F_MMAPABLE = 1 << 10 };

enum { XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT };
enum { TCX_NEXT = -1, TCX_PASS = 0, TCX_DROP = 2 };

enum { BPF_ADJ_ROOM_NET = 0, BPF_ADJ_ROOM_MAC = 1 };
enum { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 = 1 << 7, BPF_F_ADJ_ROOM_DECAP_L3_IPV6 = 1 << 8 };

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};
struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end;
};

static void *(*bpf_map_lookup_elem)(const void *map, const void *key) = (void *)1;
static u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*bpf_get_prandom_u32)(void) = (void *)7;
static u32 (*bpf_get_smp_processor_id)(void) = (void *)8;
static long (*bpf_skb_pull_data)(struct __sk_buff *skb, u32 len) = (void *)39;
static long (*bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;
static long (*bpf_skb_adjust_room)(struct __sk_buff *skb, s32 delta, u32 mode, u64 flags) = (void *)50;
static long (*bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static long (*bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static u64 (*bpf_jiffies64)(void) = (void *)118; /* no call: the kernel makes a load of it */
static long (*bpf_ringbuf_output)(void *ringbuf, void *data, u64 size, u64 flags) = (void *)130;
static void *(*bpf_ringbuf_reserve)(void *ringbuf, u64 size, u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;
static u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)160;
static u64 (*bpf_xdp_get_buff_len)(struct xdp_md *ctx) = (void *)188;
static long (*bpf_xdp_load_bytes)(struct xdp_md *ctx, u32 at, void *to, u32 length) = (void *)189;

/* Network byte order of a constant; the object is little-endian (bpfel). */
#define BE16(x) ((u16)__builtin_bswap16(x))
#define BE32(x) ((u32)__builtin_bswap32(x))

enum { ETH_P_IP = 0x0800, ETH_P_8021Q = 0x8100, ETH_P_IPV6 = 0x86dd, ETH_P_8021AD = 0x88a8 };
enum { IPPROTO_ICMP = 1, IPPROTO_IPIP = 4, IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_IPV6 = 41, IPPROTO_ICMPV6 = 58 };
enum { IPPROTO_GRE = 47, GUE_PORT = 6080 };

struct ethhdr {
	u8 dst[6], src[6];
	u16 proto;
};
struct vlanhdr {
	u16 tci, proto;
};
struct iphdr {
	u8 version_ihl, tos;
	u16 tot_len, id, frag_off;
	u8 ttl, protocol;
	u16 check;
	u32 saddr, daddr;
};
struct ip6hdr {
	u8 version_class, class_flow; /* version 4, class high 4; class low 4, flow label high 4 */
	u16 flow;
	u16 payload_len;
	u8 nexthdr, hop_limit;
	u32 saddr[4], daddr[4];
};

struct udphdr {
	u16 source, dest, len, check;
};
/* RFC 2784, without options. */
struct grehdr {
	u16 flags_version, protocol;
};
/* draft-ietf-intarea-gue: variant, control bit and length of options are zero in what we send. */
struct guehdr {
	u8 first, protocol;
	u16 flags;
};

/* Where a parser stands in a packet. */
struct cursor {
	u8 *at, *end;
};

/* The next size bytes, or NULL when the packet is shorter; steps over them. */
INLINE void *take(struct cursor *c, u32 size)
{
	u8 *here = c->at;

	if (here + size > c->end)
		return NULL;
	c->at = here + size;
	return here;
}
