/* Forged datagrams at full speed, with the source address of somebody else.
 *
 * usage: forge SOURCE DESTINATION PORT COUNT CHANGE
 *
 * stdin has samples, each a 16-bit length (little-endian) and as many bytes; they are sent in turn, COUNT in all.
 * CHANGE: `tag` turns bits in the last 16 bytes, `head` in the fleet's number, `cut` sends a random part of the front,
 * `no` sends them as they are. Prints how many were sent and how many seconds that took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { SAMPLES = 64, LONGEST = 1500, BURST = 32, FLEET = 8 };

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t draw(void)
{
	static uint64_t state = 88172645463325252ull;
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

int main(int argc, char **argv)
{
	static uint8_t samples[SAMPLES][LONGEST], packets[BURST][sizeof(struct iphdr) + sizeof(struct udphdr) + LONGEST];
	static uint16_t lengths[SAMPLES];
	struct mmsghdr messages[BURST] = {0};
	struct iovec parts[BURST];
	struct timespec began, ended;
	int known = 0, one = 1;

	if (argc != 6)
		return fprintf(stderr, "usage: forge SOURCE DESTINATION PORT COUNT CHANGE\n"), 2;
	while (known < SAMPLES && fread(&lengths[known], 2, 1, stdin) == 1) {
		if (lengths[known] > LONGEST || fread(samples[known], 1, lengths[known], stdin) != lengths[known])
			return fprintf(stderr, "forge: a sample is too long or incomplete\n"), 2;
		known++;
	}
	if (!known)
		return fprintf(stderr, "forge: no samples\n"), 2;

	int s = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, sizeof(int)) ||
	    setsockopt(s, IPPROTO_IP, IP_HDRINCL, &one, sizeof(one)))
		die("socket");
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(argv[2])};
	uint16_t port = htons(atoi(argv[3]));
	long count = atol(argv[4]), sent = 0;

	clock_gettime(CLOCK_MONOTONIC, &began);
	while (sent < count) {
		int burst = count - sent < BURST ? count - sent : BURST;
		for (int i = 0; i < burst; i++) {
			int which = (sent + i) % known, size = lengths[which];
			struct iphdr *ip = (void *)packets[i];
			struct udphdr *udp = (void *)(ip + 1);
			uint8_t *data = (void *)(udp + 1);

			memcpy(data, samples[which], size);
			if (!strcmp(argv[5], "tag"))
				data[size - 1 - draw() % 16] ^= 1 << draw() % 8;
			else if (!strcmp(argv[5], "head"))
				data[FLEET + draw() % 8] ^= 1 << draw() % 8;
			else if (!strcmp(argv[5], "cut"))
				size = draw() % size;
			*ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
					     .saddr = inet_addr(argv[1]), .daddr = to.sin_addr.s_addr};
			*udp = (struct udphdr){.source = port, .dest = port, .len = htons(sizeof(*udp) + size)};
			ip->tot_len = htons(sizeof(*ip) + sizeof(*udp) + size);
			parts[i] = (struct iovec){packets[i], sizeof(*ip) + sizeof(*udp) + size};
			messages[i].msg_hdr = (struct msghdr){
				.msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &parts[i], .msg_iovlen = 1};
		}
		int done = sendmmsg(s, messages, burst, 0);
		if (done < 0 && errno != ENOBUFS && errno != EAGAIN)
			die("sendmmsg");
		if (done > 0)
			sent += done;
	}
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%ld %.3f\n", sent, ended.tv_sec - began.tv_sec + (ended.tv_nsec - began.tv_nsec) / 1e9);
	return 0;
}
