/* The yardstick: a director in C on AF_PACKET, as good as that interface allows.
 *
 * usage: forward RXIF TXIF VIP l2|l3 MEMBER_MAC OUTER_SOURCE MEMBER...
 *
 * A TPACKET_V2 receive ring, headers rewritten in place (PACKET_RESERVE leaves the room), one sendmmsg() a batch around
 * the queueing discipline. The decision is the appliance's: lengths and header checksum are validated, the keyed hash
 * of the five-tuple picks one of 65,537 slots, the slot a member; packets and bytes are counted per member.
 * L3 wraps IPv4 in IPv4 and IPv6 in IPv6, and the director counts as a hop.
 *
 * Chosen by measurement, though the differences are small: 2048 slots of 1728 bytes (27 cache lines), 128 frames a batch.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef BATCH
#define BATCH 128
#endif
#ifndef SLOT
#define SLOT 1728
#endif
#ifndef SLOTS
#define SLOTS 2048
#endif
enum { TABLE = 65537, ETH = 14, V4 = 20, V6 = 40, MTU = 1500, PORT = 80, MAX_MEMBERS = 64 };

/* The kernel puts the IP header 80 bytes into the slot, plus this: the Ethernet header begins a cache line, and there is
 * room in front of it for an outer header of either kind. */
enum { RESERVE = 62 };

struct member {
	uint8_t header[ETH + V6]; /* Ethernet and outer IP, lengths and checksum zero */
	uint32_t partial;         /* sum of the outer IPv4 header's words, in network order */
	uint64_t packets, bytes;
};

static const uint64_t keys[11] = {
	0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3, 0x589965cc75374cc3, 0x1d8e4e27c47d124f, 0xeb44accab455d165,
	0x9c3f1d2b7a6e5f41, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0x27d4eb2f165667c5, 0x85ebca77c2b2ae63};
static struct member members[MAX_MEMBERS];
static uint32_t table[TABLE]; /* primary in the low half, previous in the high half, as in the appliance */
static int member_count;
static bool l3, v6;
static volatile sig_atomic_t stopped;
static uint16_t next_id;

static void stop(int signal) { stopped = 1; }

static inline uint32_t load32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, 4);
	return v;
}

static inline uint16_t load16(const uint8_t *p) { return p[0] << 8 | p[1]; }

static inline void store16(uint8_t *p, uint16_t v) { p[0] = v >> 8, p[1] = v; }

static inline uint32_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* appliance/ring/hash.py */
static inline uint32_t flow_hash(const uint8_t *ip, const uint8_t *l4, uint32_t protocol)
{
	uint64_t h = keys[0];
	int k = 1;
	if (v6) {
		for (int i = 0; i < 8; i += 2, k += 2)
			h += (keys[k] + load32(ip + 8 + 4 * i)) * (keys[k + 1] + load32(ip + 12 + 4 * i));
	} else {
		h += (keys[1] + load32(ip + 12)) * (keys[2] + load32(ip + 16));
		k = 3;
	}
	h += (keys[k] + load32(l4)) * (keys[k + 1] + protocol);
	h ^= h >> 32;
	h *= 0xD6E8FEB86659FD93;
	h ^= h >> 32;
	return h * 0xD6E8FEB86659FD93 >> 32;
}

static inline bool header_sum_ok(const uint8_t *ip)
{
	uint64_t sum = 0;
	for (int i = 0; i < V4; i += 4)
		sum += load32(ip + i);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return fold(sum) == 0xffff;
}

/* The frame to send, rewritten in place; NULL to drop. *length is updated. */
static inline uint8_t *rewrite(uint8_t *frame, uint32_t *length)
{
	uint8_t *ip = frame + ETH, *l4 = ip + (v6 ? V6 : V4);
	uint32_t room = *length - ETH, total = v6 ? V6 + load16(ip + 4) : load16(ip + 2), protocol = v6 ? ip[6] : ip[9];

	if (total > room || total < (v6 ? V6 : V4) + 8u || (!v6 && !header_sum_ok(ip)))
		return NULL;
	if (protocol == IPPROTO_TCP ? total < (v6 ? V6 : V4) + 20u || l4[12] < 0x50 : protocol != IPPROTO_UDP)
		return NULL;
	if (load16(l4 + 2) != PORT)
		return NULL;
	uint32_t hash = flow_hash(ip, l4, protocol), slot = table[(uint64_t)hash * TABLE >> 32];
	if ((slot & 0xffff) != slot >> 16) /* a slot in transition would need a look at the flow's pin */
		return NULL;
	struct member *m = &members[slot & 0xffff];
	if (total + (l3 ? v6 ? V6 : V4 : 0) > MTU)
		return NULL;
	if (!l3) {
		m->packets++, m->bytes += total;
		memcpy(frame, m->header, 12);
		return frame;
	}
	if (ip[v6 ? 7 : 8] <= 1)
		return NULL;
	m->packets++, m->bytes += total;
	if (v6) {
		uint8_t *out = frame - V6;
		ip[7]--;
		memcpy(out, m->header, ETH + V6);
		out[14] = 0x60 | (ip[0] & 15);
		out[15] = (ip[1] & 0xf0) | (hash >> 16 & 15);
		store16(out + 16, hash);
		store16(out + 18, total);
		*length = ETH + V6 + total;
		return out;
	}
	uint8_t *out = frame - V4;
	uint32_t df = ip[6] & 0x40, id = df ? 0 : next_id++;
	ip[8]--;
	store16(ip + 10, fold(load16(ip + 10) + 0x100)); /* RFC 1624 for a TTL one lower */
	memcpy(out, m->header, ETH + V4);
	out[15] = ip[1];
	out[20] = df;
	total += V4;
	store16(out + 16, total);
	store16(out + 18, id);
	store16(out + 24, ~fold(m->partial + ip[1] + total + id + (df << 8)));
	*length = ETH + total;
	return out;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int transmit_socket(const char *ifname)
{
	int s = socket(AF_PACKET, SOCK_RAW, 0), one = 1, bytes = 16 << 20;
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(ifname)};
	setsockopt(s, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one);
	setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
	if (bind(s, (void *)&address, sizeof address) < 0)
		die("bind for sending");
	return s;
}

/* Only what the fast path can do gets into the ring: our VIP, no options, no fragments. */
static void filter(int s, const void *vip)
{
	struct sock_filter v4_code[] = {
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), BPF_JUMP(BPF_JMP | BPF_JEQ, ETHERTYPE_IP, 0, 7),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14), BPF_JUMP(BPF_JMP | BPF_JEQ, 0x45, 0, 5),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 30), BPF_JUMP(BPF_JMP | BPF_JEQ, ntohl(load32(vip)), 0, 3),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 20), BPF_JUMP(BPF_JMP | BPF_JSET, 0x3fff, 1, 0),
		BPF_STMT(BPF_RET, 0x40000), BPF_STMT(BPF_RET, 0)};
	struct sock_filter v6_code[12] = {
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), BPF_JUMP(BPF_JMP | BPF_JEQ, ETHERTYPE_IPV6, 0, 9)};
	for (int i = 0; i < 4; i++) {
		v6_code[2 + 2 * i] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 38 + 4 * i);
		v6_code[3 + 2 * i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ, ntohl(load32(vip + 4 * i)), 0, 7 - 2 * i);
	}
	v6_code[10] = (struct sock_filter)BPF_STMT(BPF_RET, 0x40000);
	v6_code[11] = (struct sock_filter)BPF_STMT(BPF_RET, 0);
	struct sock_fprog program = v6 ? (struct sock_fprog){12, v6_code} : (struct sock_fprog){10, v4_code};
	if (setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
		die("socket filter");
}

static int receive_socket(const char *ifname, const void *vip, uint8_t **ring)
{
	int s = socket(AF_PACKET, SOCK_RAW, 0), one = 1, version = TPACKET_V2, reserve = RESERVE;
	struct tpacket_req request = {.tp_block_size = SLOT * 64, .tp_block_nr = SLOTS / 64, .tp_frame_size = SLOT, .tp_frame_nr = SLOTS};
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(ifname)};

	filter(s, vip);
	if (setsockopt(s, SOL_PACKET, PACKET_VERSION, &version, sizeof version) < 0 ||
	    setsockopt(s, SOL_PACKET, PACKET_RESERVE, &reserve, sizeof reserve) < 0 ||
	    setsockopt(s, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) < 0 ||
	    setsockopt(s, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) < 0)
		die("receive ring");
	*ring = mmap(NULL, (size_t)SLOT * SLOTS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, s, 0);
	if (*ring == MAP_FAILED || bind(s, (void *)&address, sizeof address) < 0)
		die("receive ring");
	return s;
}

static void set_up_members(char **argv, const char *txif)
{
	struct ifreq request = {0};
	int s = socket(AF_PACKET, SOCK_RAW, 0);

	strncpy(request.ifr_name, txif, IFNAMSIZ - 1);
	if (ioctl(s, SIOCGIFHWADDR, &request) < 0)
		die(txif);
	close(s);
	for (char **a = argv + 2; *a && member_count < MAX_MEMBERS; a++) {
		struct member *m = &members[member_count++];
		uint8_t *h = m->header, *ip = h + ETH;
		sscanf(argv[0], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", h, h + 1, h + 2, h + 3, h + 4, h + 5);
		memcpy(h + 6, request.ifr_hwaddr.sa_data, 6);
		if (v6) {
			h[12] = 0x86, h[13] = 0xdd, ip[6] = IPPROTO_IPV6, ip[7] = 64;
			inet_pton(AF_INET6, argv[1], ip + 8);
			inet_pton(AF_INET6, *a, ip + 24);
		} else {
			h[12] = 8, ip[0] = 0x45, ip[8] = 64, ip[9] = IPPROTO_IPIP;
			inet_pton(AF_INET, argv[1], ip + 12);
			inet_pton(AF_INET, *a, ip + 16);
			for (int i = 0; i < V4; i += 2)
				m->partial += load16(ip + i);
		}
	}
	for (int i = 0; i < TABLE; i++) {
		uint32_t owner = (i * 2654435761u >> 16) % member_count;
		table[i] = owner << 16 | owner;
	}
}

int main(int argc, char **argv)
{
	static struct iovec data[BATCH];
	static struct mmsghdr messages[BATCH];
	uint8_t vip[16], *ring;
	uint32_t head = 0;
	uint64_t failed = 0;
	struct sigaction on_stop = {.sa_handler = stop};

	if (argc < 8)
		return 2;
	v6 = strchr(argv[3], ':') != NULL;
	l3 = !strcmp(argv[4], "l3");
	inet_pton(v6 ? AF_INET6 : AF_INET, argv[3], vip);
	set_up_members(argv + 5, argv[2]);
	for (int i = 0; i < BATCH; i++) {
		messages[i].msg_hdr.msg_iov = &data[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	sigaction(SIGTERM, &on_stop, NULL);
	int out = transmit_socket(argv[2]), in = receive_socket(argv[1], vip, &ring);
	puts("ready");
	fflush(stdout);
	while (!stopped) {
		uint32_t seen = 0, first = head, ready = 0;
		while (seen < BATCH) {
			struct tpacket2_hdr *slot = (void *)(ring + (size_t)head * SLOT);
			if (!(__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
				break;
			head = head + 1 == SLOTS ? 0 : head + 1;
			seen++;
			__builtin_prefetch(ring + (size_t)((head + 3) % SLOTS) * SLOT);
			__builtin_prefetch(ring + (size_t)((head + 3) % SLOTS) * SLOT + 128);
			uint32_t length = slot->tp_snaplen;
			uint8_t *frame = rewrite((uint8_t *)slot + slot->tp_mac, &length);
			if (!frame)
				continue;
			data[ready].iov_base = frame;
			data[ready++].iov_len = length;
		}
		if (!seen) {
			struct pollfd wait = {.fd = in, .events = POLLIN};
			poll(&wait, 1, -1);
			continue;
		}
		for (uint32_t done = 0; done < ready;) {
			int n = sendmmsg(out, messages + done, ready - done, MSG_DONTWAIT);
			failed += n <= 0;
			done += n > 0 ? n : 1; /* an error is about the first frame: skip it */
		}
		for (uint32_t i = 0; i < seen; i++, first = first + 1 == SLOTS ? 0 : first + 1)
			__atomic_store_n(&((struct tpacket2_hdr *)(ring + (size_t)first * SLOT))->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	}
	if (failed)
		fprintf(stderr, "forward: %lu frames could not be sent\n", failed);
	return 0;
}
