/* Numbered frames at a steady pace, and an account of each of them where they arrive.
 *
 * usage: flood send IF PPS FLOWS FRAME   until stdin ends; prints how many were sent
 *        flood take IF                   until stdin ends and nothing comes any more; prints what came
 *
 * FRAME is UDP in IPv4 without a checksum, in hex, with room for 8 bytes of payload: the frame's number, from 0. Flows
 * differ in their source ports, FIRST_PORT and up, in turn. Both print "ready" first.
 *
 * `take` knows numbered frames by their ports, plain or in IPv4. It prints four numbers: frames, different numbers among
 * them, the highest number and one, frames that its own socket lost. After that a line for each flow and destination
 * address: source port, address, frames.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { FIRST_PORT = 1024, PORT = 80, BURST = 32, HEAD = 14 + 20 + 8, MAX_FRAME = 1514, MAX_FLOWS = 4096, MAX_MACS = 64 };
#define MAX_NUMBER (1ull << 30)

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int packet_socket(const char *interface, int protocol)
{
	int s = socket(AF_PACKET, SOCK_RAW, 0), bytes = 128 << 20, one = 1;
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = if_nametoindex(interface)};

	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0 ||
	    setsockopt(s, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) < 0 ||
	    bind(s, (void *)&address, sizeof address) < 0)
		die(interface);
	puts("ready");
	fflush(stdout);
	return s;
}

static int asked_to_end(void)
{
	struct pollfd input = {.fd = 0, .events = POLLIN};
	return poll(&input, 1, 0) != 0;
}

static int send_frames(const char *interface, long pps, int flows, const char *hex)
{
	static uint8_t frames[BURST][MAX_FRAME];
	struct iovec data[BURST];
	struct mmsghdr messages[BURST] = {0};
	size_t length = strlen(hex) / 2;
	uint64_t number = 0;
	struct timespec next, now;

	if (pps <= 0 || flows <= 0 || flows > MAX_FLOWS || length < HEAD + 8 || length > MAX_FRAME)
		return 2;
	for (int i = 0; i < BURST; i++) {
		for (size_t at = 0; at < length; at++)
			sscanf(hex + 2 * at, "%2hhx", &frames[i][at]);
		data[i] = (struct iovec){frames[i], length};
		messages[i].msg_hdr.msg_iov = &data[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	int s = packet_socket(interface, 0);
	clock_gettime(CLOCK_MONOTONIC, &next);
	while (number + BURST <= MAX_NUMBER && !asked_to_end()) {
		for (int i = 0; i < BURST; i++, number++) {
			uint16_t port = htons(FIRST_PORT + number % flows);
			uint64_t written = htobe64(number);
			memcpy(frames[i] + 34, &port, sizeof port);
			memcpy(frames[i] + HEAD, &written, sizeof written);
		}
		for (int done = 0; done < BURST;) {
			int sent = sendmmsg(s, messages + done, BURST - done, 0);
			if (sent < 0)
				die("sendmmsg");
			done += sent;
		}
		/* Whoever was late does not catch up: that would be a burst that the cable may not hold. */
		clock_gettime(CLOCK_MONOTONIC, &now);
		next.tv_nsec += BURST * 1000000000L / pps;
		next.tv_sec += next.tv_nsec / 1000000000;
		next.tv_nsec %= 1000000000;
		if (now.tv_sec > next.tv_sec || (now.tv_sec == next.tv_sec && now.tv_nsec > next.tv_nsec))
			next = now;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
	printf("%llu\n", (unsigned long long)number);
	return 0;
}

static uint8_t macs[MAX_MACS][6];
static uint64_t counts[MAX_FLOWS][MAX_MACS], frames, different, beyond;
static int mac_count;

static int mac_index(const uint8_t *mac)
{
	for (int i = 0; i < mac_count; i++)
		if (!memcmp(macs[i], mac, 6))
			return i;
	if (mac_count == MAX_MACS) {
		fprintf(stderr, "flood: more than %d destination addresses\n", MAX_MACS);
		exit(1);
	}
	memcpy(macs[mac_count], mac, 6);
	return mac_count++;
}

static void account(const uint8_t *frame, size_t length, uint8_t *seen)
{
	size_t more = length > 23 && frame[23] == IPPROTO_IPIP ? 20 : 0;
	uint16_t type, source, destination;
	uint64_t number;

	if (length < HEAD + 8 + more)
		return;
	memcpy(&type, frame + 12, 2);
	memcpy(&source, frame + 34 + more, 2);
	memcpy(&destination, frame + 36 + more, 2);
	memcpy(&number, frame + HEAD + more, 8);
	source = ntohs(source), number = be64toh(number);
	if (type != htons(ETHERTYPE_IP) || frame[23 + more] != IPPROTO_UDP || destination != htons(PORT) ||
	    source < FIRST_PORT || source >= FIRST_PORT + MAX_FLOWS)
		return;
	frames++;
	counts[source - FIRST_PORT][mac_index(frame)]++;
	if (number >= MAX_NUMBER)
		return; /* damaged: missing among the different ones */
	if (number >= beyond)
		beyond = number + 1;
	different += !(seen[number / 8] >> number % 8 & 1);
	seen[number / 8] |= 1 << number % 8;
}

static int take_frames(const char *interface)
{
	static uint8_t buffers[BURST][256];
	struct iovec data[BURST];
	struct mmsghdr messages[BURST] = {0};
	struct tpacket_stats lost = {0};
	socklen_t size = sizeof lost;
	uint8_t *seen = calloc(MAX_NUMBER / 8, 1); /* pages appear when they are written to */
	int s = packet_socket(interface, ETH_P_ALL);

	if (!seen)
		die("memory");
	for (int i = 0; i < BURST; i++) {
		data[i] = (struct iovec){buffers[i], sizeof buffers[i]};
		messages[i].msg_hdr.msg_iov = &data[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) {
		struct pollfd input = {.fd = s, .events = POLLIN};
		if (poll(&input, 1, 100) == 0) {
			if (asked_to_end())
				break;
			continue;
		}
		int got = recvmmsg(s, messages, BURST, MSG_DONTWAIT, NULL);
		if (got < 0)
			die("recvmmsg");
		for (int i = 0; i < got; i++)
			account(buffers[i], messages[i].msg_len, seen);
	}
	if (getsockopt(s, SOL_PACKET, PACKET_STATISTICS, &lost, &size) < 0)
		die("statistics");
	printf("%llu %llu %llu %u\n", (unsigned long long)frames, (unsigned long long)different, (unsigned long long)beyond, lost.tp_drops);
	for (int flow = 0; flow < MAX_FLOWS; flow++)
		for (int i = 0; i < mac_count; i++)
			if (counts[flow][i])
				printf("%d %02x%02x%02x%02x%02x%02x %llu\n", FIRST_PORT + flow, macs[i][0], macs[i][1], macs[i][2], macs[i][3],
				       macs[i][4], macs[i][5], (unsigned long long)counts[flow][i]);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "send"))
		return send_frames(argv[2], atol(argv[3]), atoi(argv[4]), argv[5]);
	if (argc == 3 && !strcmp(argv[1], "take"))
		return take_frames(argv[2]);
	fprintf(stderr, "usage: flood send IF PPS FLOWS FRAME | take IF\n");
	return 2;
}
