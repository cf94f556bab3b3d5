/* Round-trip times of UDP through a VIP.
 *
 * usage: pingpong server VIP              echo on port 80; on TCP port 80 of every address, accept and close
 *        pingpong client VIP COUNT        prints median, 99th percentile (microseconds) and how many answers were lost
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 80, WARM_UP = 100, NO_CHECK = 11 /* SO_NO_CHECK */ };

static double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static int serve(int udp, struct sockaddr_in *vip)
{
	int tcp = socket(AF_INET6, SOCK_STREAM, 0), one = 1;
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
	setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(tcp, (void *)&any, sizeof any) < 0 || listen(tcp, 128) < 0 || bind(udp, (void *)vip, sizeof *vip) < 0) {
		perror("cannot serve");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	for (struct pollfd fds[] = {{udp, POLLIN, 0}, {tcp, POLLIN, 0}}; poll(fds, 2, -1) > 0;) {
		struct sockaddr_in peer;
		socklen_t size = sizeof peer;
		char data[64];
		if (fds[0].revents) {
			ssize_t n = recvfrom(udp, data, sizeof data, MSG_DONTWAIT, (void *)&peer, &size);
			if (n > 0)
				sendto(udp, data, n, 0, (void *)&peer, size);
		}
		if (fds[1].revents)
			close(accept(tcp, NULL, NULL));
	}
	return 0;
}

int main(int argc, char **argv)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0), no = 1, lost = 0, n = 0;
	struct sockaddr_in vip = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	struct timeval patience = {.tv_usec = 200000};
	char data[22] = "";

	if (argc < 3 || inet_pton(AF_INET, argv[2], &vip.sin_addr) != 1)
		return 2;
	setsockopt(s, SOL_SOCKET, NO_CHECK, &no, sizeof no); /* a veth would leave a checksum half done */
	if (!strcmp(argv[1], "server"))
		return serve(s, &vip);
	int count = atoi(argv[3]);
	double *times = calloc(count, sizeof *times);
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	for (int i = -WARM_UP; i < count && lost < 20; i++) {
		double start = now_us();
		sendto(s, data, sizeof data, 0, (void *)&vip, sizeof vip);
		if (recv(s, data, sizeof data, 0) < 0)
			lost += i >= 0;
		else if (i >= 0)
			times[n++] = now_us() - start;
	}
	qsort(times, n, sizeof *times, compare);
	if (!n)
		return 1;
	printf("%.1f %.1f %d\n", times[n / 2], times[n * 99 / 100], lost);
	return 0;
}
