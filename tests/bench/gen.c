/* UDP load to a VIP: valid frames of one size, one flow or 65,536 (random source ports); in the first form and with IPv4
 * also 16,777,216 (random source addresses of a /24, too).
 *
 * usage: gen IF LENGTH FLOWS DMAC SMAC SOURCE DESTINATION            received by IF, as fast as it goes, until SIGTERM
 *        gen IF LENGTH FLOWS DMAC SMAC SOURCE DESTINATION tx         sent by IF, a veth, to its peer's XDP program
 *        gen IF LENGTH FLOWS DMAC SMAC SOURCE DESTINATION PPS SECS   sent by IF, that many a second; prints how many
 *
 * The first form makes IF receive XDP frames (BPF_PROG_TEST_RUN with live frames and XDP_PASS), as if its driver had
 * done so; that costs far less than any forwarder. The second sends through AF_PACKET, in small bursts.
 * IPv4 has UDP checksum 0, IPv6 a valid one.
 */
#define _GNU_SOURCE
#include "bpf.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { MAX_FRAME = 1514, BURST = 64, ONE_FLOW_PORT = 0x3039, PORTS = 65536 };

static uint8_t frame[MAX_FRAME];
static int length, ports_at;
static bool v6, transmit;
static uint32_t udp_sum; /* IPv6: one's complement sum over all but the source port */
static volatile sig_atomic_t stopped;

static void stop(int signal) { stopped = 1; }

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint32_t sum_words(const void *data, int bytes)
{
	const uint16_t *w = data;
	uint32_t sum = 0;
	for (int i = 0; i < bytes / 2; i++)
		sum += w[i];
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* The sums are over words as they lie in memory: a one's complement sum does not mind the byte order (RFC 1071). */
static void set_port(uint8_t *f, uint16_t port)
{
	memcpy(f + ports_at, &port, 2);
	if (v6) {
		uint16_t check = ~fold(udp_sum + port);
		check = check ? check : 0xffff;
		memcpy(f + ports_at + 6, &check, 2);
	}
}

static void parse_mac(const char *text, uint8_t *mac)
{
	if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
		exit(2);
}

static void build(const char *dmac, const char *smac, const char *source, const char *destination)
{
	uint8_t *f = frame;

	parse_mac(dmac, f);
	parse_mac(smac, f + 6);
	v6 = strchr(destination, ':') != NULL;
	ports_at = v6 ? 54 : 34;
	int udp_length = length - ports_at;
	uint16_t udp[4] = {0, htons(80), htons(udp_length), 0};
	if (v6) {
		uint16_t payload = htons(udp_length);
		f[12] = 0x86, f[13] = 0xdd, f[14] = 0x60, f[20] = IPPROTO_UDP, f[21] = 64;
		memcpy(f + 18, &payload, 2);
		inet_pton(AF_INET6, source, f + 22);
		inet_pton(AF_INET6, destination, f + 38);
	} else {
		uint16_t total = htons(length - 14);
		f[12] = 8, f[14] = 0x45, f[20] = 0x40, f[22] = 64, f[23] = IPPROTO_UDP;
		memcpy(f + 16, &total, 2);
		inet_pton(AF_INET, source, f + 26);
		inet_pton(AF_INET, destination, f + 30);
		uint16_t check = ~fold(sum_words(f + 14, 20));
		memcpy(f + 24, &check, 2);
	}
	memcpy(f + ports_at, udp, 8);
	/* The payload is zero; the pseudo-header holds the addresses, the length again and the protocol (RFC 8200, 8.1). */
	udp_sum = fold(sum_words(f + 22, 32) + sum_words(udp, 8) + udp[2] + htons(IPPROTO_UDP));
	set_port(f, htons(ONE_FLOW_PORT));
}

/* Register 4, a sum of words, becomes a checksum; 5 is lost. */
static void emit_fold(struct program *p)
{
	for (int i = 0; i < 2; i++)
		EMIT(p, MOV_R(5, 4), ALU_I(BPF_RSH, 5, 16), ALU_I(BPF_AND, 4, 0xffff), ALU_R(BPF_ADD, 4, 5));
	EMIT(p, ALU_I(BPF_XOR, 4, 0xffff));
}

/* Pages are recycled: what a receiver may have rewritten is written again for every frame. */
static int live_program(int flows)
{
	static struct program p;
	bool sources = flows > PORTS && !v6;
	uint32_t mac[3];
	uint16_t check, type, source;

	memcpy(mac, frame, 12);
	memcpy(&check, frame + 24, 2);
	memcpy(&type, frame + 12, 2);
	memcpy(&source, frame + 28, 2);
	EMIT(&p, MOV_R(6, 1));
	if (sources)
		EMIT(&p, CALL(BPF_FUNC_get_prandom_u32), ALU_I(BPF_AND, 0, 0xff00), ALU_I(BPF_OR, 0, frame[28]), MOV_R(8, 0));
	if (flows > 1)
		EMIT(&p, CALL(BPF_FUNC_get_prandom_u32), ALU_I(BPF_AND, 0, 0xffff));
	else
		EMIT(&p, MOV_I(0, htons(ONE_FLOW_PORT)));
	EMIT(&p, MOV_R(7, 0), LDX(BPF_W, 2, 6, 0), LDX(BPF_W, 3, 6, 4), MOV_R(4, 2), ALU_I(BPF_ADD, 4, ports_at + 8));
	EMIT(&p, JUMP_R(BPF_JGT, 4, 3, 0));
	to_label(&p);
	EMIT(&p, ST(BPF_W, 2, 0, mac[0]), ST(BPF_W, 2, 4, mac[1]), ST(BPF_W, 2, 8, mac[2]), ST(BPF_H, 2, 12, type), STX(BPF_H, 2, 7, ports_at));
	if (v6) {
		EMIT(&p, ST(BPF_B, 2, 21, 64), MOV_R(4, 7), ALU_I(BPF_ADD, 4, udp_sum));
		emit_fold(&p);
		EMIT(&p, JUMP_I(BPF_JNE, 4, 0, 1), MOV_I(4, 0xffff), STX(BPF_H, 2, 4, ports_at + 6));
	} else if (sources) {
		/* The sum of all but that half of the address: what is taken off is added as its complement. */
		uint16_t rest = ~source, sum = ~check;
		EMIT(&p, ST(BPF_B, 2, 22, 64), STX(BPF_H, 2, 8, 28), MOV_R(4, 8), ALU_I(BPF_ADD, 4, sum + rest));
		emit_fold(&p);
		EMIT(&p, STX(BPF_H, 2, 4, 24));
	} else {
		EMIT(&p, ST(BPF_B, 2, 22, 64), ST(BPF_H, 2, 24, check));
	}
	EMIT(&p, MOV_I(0, transmit ? XDP_TX : XDP_PASS), EXIT);
	label(&p);
	EMIT(&p, MOV_I(0, XDP_DROP), EXIT);
	return load_program(BPF_PROG_TYPE_XDP, &p, 0);
}

/* One endless run, which a signal ends: every run has 20 ms of set-up, in which a forwarder would get to rest. */
static int flood(int ifindex, int flows)
{
	struct xdp_md context = {.data_end = length, .ingress_ifindex = ifindex};
	int fd = live_program(flows);

	puts("ready");
	fflush(stdout);
	while (!stopped) {
		union bpf_attr attr = {.test = {.prog_fd = fd, .data_in = (uint64_t)frame, .data_size_in = length,
						.ctx_in = (uint64_t)&context, .ctx_size_in = sizeof context,
						.repeat = 1u << 31, .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = 64}};
		if (bpf(BPF_PROG_TEST_RUN, &attr) < 0 && errno != EINTR) {
			perror("cannot inject XDP frames");
			return 1;
		}
	}
	return 0;
}

static int paced(int ifindex, int flows, double pps, double secs)
{
	static uint8_t frames[BURST][MAX_FRAME];
	static struct iovec data[BURST];
	static struct mmsghdr messages[BURST];
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = ifindex};
	int s = socket(AF_PACKET, SOCK_RAW, 0), one = 1, burst = pps / 2000;
	uint32_t x = 2463534242;
	uint64_t sent = 0;

	burst = burst < 1 ? 1 : burst > BURST ? BURST : burst;
	setsockopt(s, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one);
	if (bind(s, (void *)&address, sizeof address) < 0)
		return 1;
	prctl(PR_SET_TIMERSLACK, 1000);
	for (int i = 0; i < BURST; i++) {
		memcpy(frames[i], frame, length);
		data[i] = (struct iovec){frames[i], length};
		messages[i].msg_hdr.msg_iov = &data[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	puts("ready");
	fflush(stdout);
	for (double start = now(); !stopped && now() < start + secs;) {
		for (int i = 0; flows > 1 && i < burst; i++) {
			x ^= x << 13, x ^= x >> 17, x ^= x << 5;
			set_port(frames[i], x);
		}
		int n = sendmmsg(s, messages, burst, 0);
		if (n > 0)
			sent += n;
		/* After a pause (the machine did something else) go on at the pace, do not catch up in one burst. */
		double late = (now() - start) - sent / pps;
		if (late > 0.002)
			start += late - 0.002;
		while (sent > (now() - start) * pps) {
			struct timespec t = {0, 20000};
			nanosleep(&t, NULL);
		}
	}
	printf("%lu\n", sent);
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction on_stop = {.sa_handler = stop};

	transmit = argc == 9 && !strcmp(argv[8], "tx");
	if (argc != 8 && argc != 10 && !transmit)
		return 2;
	sigaction(SIGTERM, &on_stop, NULL);
	int ifindex = if_nametoindex(argv[1]), flows = atoi(argv[3]);
	length = atoi(argv[2]);
	if (!ifindex || length < 62 || length > MAX_FRAME)
		return 2;
	build(argv[4], argv[5], argv[6], argv[7]);
	return argc < 10 ? flood(ifindex, flows) : paced(ifindex, flows, atof(argv[8]), atof(argv[9]));
}
