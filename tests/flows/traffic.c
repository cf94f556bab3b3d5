/* Flows that notice when they are broken: the client's and the members' side of the workload.
 *
 * usage: traffic serve MEMBER        until SIGTERM; answers on TCP port 80 and UDP port 5000 of every address
 *        traffic load KEY=VALUE...   until stdin ends, and then until every flow has ended; prints JSON, one object a line
 *
 * A member keeps state for each flow and continues nobody else's: a TCP connection has a counter, and a UDP flow (a pair
 * of addresses and ports, and the number that the client gave it) has one in a table. Each request is numbered; the answer
 * has the member's own number, the flow's, and how many requests of that flow it has seen. So a flow that ends up at
 * another member, or at the same one started anew, cannot go on unnoticed. What counts as broken:
 *
 *   TCP  a reset, an end that nobody asked for, an answer by another member or with another number, no answer in time;
 *        also at the very end: a connection is over when both sides have closed it in good order
 *   UDP  an answer by another member, by one that does not know the flow, with too high a count; no answer in time.
 *        A lost datagram alone breaks nothing
 *
 * Members send with a TTL (hop limit) of TTL_BASE + MEMBER. The client reads it from every SYN-ACK and RST, so that a
 * connection's member is known from the start, and it is known who has reset it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <math.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TCP_PORT = 80, UDP_PORT = 5000, TTL_BASE = 100, EVENTS = 256 };
enum { ECHO, BYE, HELLO };          /* what a request is; UDP flows begin with HELLO until they are answered */
enum { KNOWN, STRANGER };           /* what an answer says */

struct request {
	uint64_t flow;
	uint32_t number, what;
};

struct answer {
	uint64_t flow;
	uint32_t number, count, member, status;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *must(void *memory)
{
	if (!memory)
		die("memory");
	return memory;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void many_files(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		die("RLIMIT_NOFILE");
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		die("RLIMIT_NOFILE");
}

static void set(int s, int level, int option, int value)
{
	if (setsockopt(s, level, option, &value, sizeof value) < 0)
		die("setsockopt");
}

static void watch(int poller, int s, uint32_t events, void *what, int how)
{
	struct epoll_event event = {.events = events, .data.ptr = what};
	if (epoll_ctl(poller, how, s, &event) < 0)
		die("epoll_ctl");
}

/* ---- a member */

struct connection {
	int socket;
	uint32_t count;
	uint64_t flow;
	struct request request;
	size_t have;
};

struct known {
	struct in6_addr client, vip;
	uint16_t port;
	uint32_t count;
	uint64_t flow;      /* 0: free */
};

static struct known *table;
static size_t table_size, table_used;

static struct known *place_of(const struct in6_addr *client, const struct in6_addr *vip, uint16_t port)
{
	uint64_t words[4], h = port;

	memcpy(words, client, 16);
	memcpy(words + 2, vip, 16);
	for (int i = 0; i < 4; i++)
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
	for (size_t at = h & (table_size - 1);; at = (at + 1) & (table_size - 1)) {
		struct known *k = table + at;
		if (!k->flow || (k->port == port && !memcmp(&k->client, client, 16) && !memcmp(&k->vip, vip, 16)))
			return k;
	}
}

static void make_room(void)
{
	struct known *old = table;
	size_t size = table_size;

	if (table_used * 2 < table_size)
		return;
	table_size = size ? size * 2 : 1 << 12;
	table = must(calloc(table_size, sizeof *table));
	for (size_t i = 0; i < size; i++)
		if (old[i].flow)
			*place_of(&old[i].client, &old[i].vip, old[i].port) = old[i];
	free(old);
}

static void answer_datagrams(int s, uint32_t member)
{
	for (;;) {
		struct request request;
		struct sockaddr_in6 client;
		union {
			char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
			struct cmsghdr head;
		} control;
		struct iovec data = {&request, sizeof request};
		struct msghdr message = {.msg_name = &client, .msg_namelen = sizeof client, .msg_iov = &data, .msg_iovlen = 1,
			.msg_control = &control, .msg_controllen = sizeof control};
		ssize_t got = recvmsg(s, &message, MSG_DONTWAIT);

		if (got < 0 && errno == EAGAIN)
			return;
		if (got != sizeof request)
			continue;
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		if (!head || head->cmsg_type != IPV6_PKTINFO)
			continue;
		struct in6_pktinfo *info = (void *)CMSG_DATA(head);
		info->ipi6_ifindex = 0; /* it came by one interface and may leave by another */

		make_room();
		struct known *k = place_of(&client.sin6_addr, &info->ipi6_addr, client.sin6_port);
		struct answer answer = {request.flow, request.number, 0, member, STRANGER};
		if (k->flow != request.flow && request.what == HELLO) {
			table_used += !k->flow;
			*k = (struct known){client.sin6_addr, info->ipi6_addr, client.sin6_port, 0, request.flow};
		}
		if (k->flow == request.flow) {
			answer.count = ++k->count;
			answer.status = KNOWN;
		}
		data = (struct iovec){&answer, sizeof answer};
		message.msg_controllen = head->cmsg_len;
		sendmsg(s, &message, MSG_DONTWAIT); /* what cannot be sent is a lost datagram */
	}
}

static void hang_up(struct connection *c)
{
	close(c->socket);
	free(c);
}

static void answer_connection(struct connection *c, uint32_t member)
{
	for (;;) {
		ssize_t got = recv(c->socket, (char *)&c->request + c->have, sizeof c->request - c->have, MSG_DONTWAIT);
		if (got < 0 && errno == EAGAIN)
			return;
		if (got <= 0) {
			hang_up(c);
			return;
		}
		c->have += got;
		if (c->have < sizeof c->request)
			continue;
		c->have = 0;
		if (!c->count)
			c->flow = c->request.flow;
		struct answer answer = {c->flow, c->request.number, ++c->count, member, KNOWN};
		if (send(c->socket, &answer, sizeof answer, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof answer || c->request.what == BYE) {
			hang_up(c);
			return;
		}
	}
}

static _Noreturn void serve(uint32_t member)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(TCP_PORT)};
	int listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), udp = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	int poller = epoll_create1(0);
	struct epoll_event events[EVENTS];

	many_files();
	set(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	set(listener, IPPROTO_TCP, TCP_NODELAY, 1);
	set(listener, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	set(udp, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	set(udp, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	set(udp, SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20);
	if (bind(listener, (void *)&any, sizeof any) < 0 || listen(listener, 4096) < 0)
		die("TCP port 80");
	any.sin6_port = htons(UDP_PORT);
	if (bind(udp, (void *)&any, sizeof any) < 0)
		die("UDP port 5000");
	watch(poller, listener, EPOLLIN, &listener, EPOLL_CTL_ADD);
	watch(poller, udp, EPOLLIN, &udp, EPOLL_CTL_ADD);
	printf("member %u ready\n", member);
	fflush(stdout);
	for (;;) {
		int count = epoll_wait(poller, events, EVENTS, -1);
		if (count < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < count; i++) {
			void *what = events[i].data.ptr;
			if (what == &udp) {
				answer_datagrams(udp, member);
			} else if (what == &listener) {
				int s;
				while ((s = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
					struct connection *c = must(calloc(1, sizeof *c));
					c->socket = s;
					watch(poller, s, EPOLLIN, c, EPOLL_CTL_ADD);
				}
			} else {
				answer_connection(what, member);
			}
		}
	}
}

/* ---- the client */

enum { MAX_SOURCES = 64, MAX_TARGETS = 16, MAX_MEMBERS = 64, FIRST_PORT = 10000, PORTS = 50000, MARKS = 6 };
enum state { CONNECTING, OPEN, SAYING_BYE, CLOSING };

struct mark {           /* a SYN-ACK or RST that came for a flow */
	double at;
	uint8_t flags;
	int member;
};

struct flow {
	uint64_t id;
	double born, ends, due, pause;
	double asked;       /* when the first request that has not been answered yet was sent; 0: all are */
	double answered;    /* when the last answer came; 0: none yet */
	size_t place;       /* in the heap */
	uint32_t sent, heard;
	int socket, member; /* member: -1 until known */
	uint16_t port;
	uint8_t source, target, kept, bye, marks, have;
	bool udp, again;    /* again: with the ports of one that has just ended */
	enum state state;
	struct mark mark[MARKS];
	struct answer answer;
};

struct endpoint {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} address;
	socklen_t size;
	char text[INET6_ADDRSTRLEN];
	double weight;
	uint32_t next_port[2];
};

struct kind {           /* of flows: TCP or UDP, kept in number or made at a rate */
	double count, rate, life, pause;
	int alive;
	double next;
};

static struct endpoint sources[MAX_SOURCES], targets[MAX_TARGETS];
static int source_count, target_count, poller, tap = -1;
static struct flow **by_port[2];
static struct flow **heap;
static size_t heap_size, heap_room;
static struct kind kinds[2][2];     /* [udp][kept] */
static double offset, timeout = 30, ramp = 5, bye_share = 0.2;
static int hops = 1;
static uint64_t begun, finished, broken, strays, random_state = 1, id_base;
static double slowest;
static bool ending;
static int alive_at[2][MAX_MEMBERS];

static uint64_t random64(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static double uniform(void)
{
	return (random64() >> 11) * 0x1p-53;
}

static double exponential(double mean)
{
	return -mean * log(1 - uniform());
}

static void put(size_t at, struct flow *f)
{
	heap[at] = f;
	f->place = at;
}

static void settle(size_t at)
{
	struct flow *f = heap[at];

	for (; at && heap[(at - 1) / 2]->due > f->due; at = (at - 1) / 2)
		put(at, heap[(at - 1) / 2]);
	for (size_t child; (child = 2 * at + 1) < heap_size; at = child) {
		child += child + 1 < heap_size && heap[child + 1]->due < heap[child]->due;
		if (heap[child]->due >= f->due)
			break;
		put(at, heap[child]);
	}
	put(at, f);
}

static void schedule(struct flow *f, double due)
{
	f->due = due;
	settle(f->place);
}

static void forget(struct flow *f)
{
	size_t at = f->place;

	if (--heap_size != at) {
		put(at, heap[heap_size]);
		settle(at);
	}
	by_port[f->udp][f->source * PORTS + f->port - FIRST_PORT] = NULL;
	kinds[f->udp][f->kept].alive--;
	if (f->member >= 0)
		alive_at[f->udp][f->member]--;
	close(f->socket);
	free(f);
}

static void at_member(struct flow *f, int member)
{
	f->member = member;
	alive_at[f->udp][member]++;
}

/* ---- what the network says of connections */

static void open_tap(const char *interface)
{
	/* The IP header is at 0: TCP with SYN or RST, in IPv4 without regard to options' place, in IPv6 without any. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 6, 5, 0),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 8),
		BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0),
		BPF_STMT(BPF_LD | BPF_B | BPF_IND, 13),
		BPF_JUMP(BPF_JMP | BPF_JA, 3, 0, 0),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 3),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 53),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x06, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 128),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = {sizeof code / sizeof *code, code};
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(interface)};

	tap = socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	if (tap < 0 || setsockopt(tap, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
		die("packet socket");
	set(tap, SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20);
	set(tap, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
	if (bind(tap, (void *)&address, sizeof address) < 0)
		die(interface);
}

static void read_tap(void)
{
	uint8_t p[128];
	ssize_t got;

	while ((got = recv(tap, p, sizeof p, MSG_DONTWAIT)) > 0) {
		bool v6 = p[0] >> 4 == 6;
		const uint8_t *tcp = p + (v6 ? 40 : (p[0] & 15) * 4);
		int ttl = v6 ? p[7] : p[8], port = tcp[2] << 8 | tcp[3];

		if (tcp + 14 > p + got)
			continue;
		for (int s = 0; s < source_count; s++) {
			struct endpoint *e = sources + s;
			bool mine = v6 ? e->address.any.sa_family == AF_INET6 && !memcmp(&e->address.v6.sin6_addr, p + 24, 16)
				       : e->address.any.sa_family == AF_INET && !memcmp(&e->address.v4.sin_addr, p + 16, 4);
			if (!mine || port < FIRST_PORT || port >= FIRST_PORT + PORTS)
				continue;
			struct flow *f = by_port[0][s * PORTS + port - FIRST_PORT];
			int member = ttl + hops - TTL_BASE;
			if (member < 0 || member >= MAX_MEMBERS)
				member = -1;
			if (!f) {
				strays++;
				continue;
			}
			if (f->marks < MARKS)
				f->mark[f->marks++] = (struct mark){now(), tcp[13], member};
			if ((tcp[13] & 0x12) == 0x12 && f->member < 0 && member >= 0)
				at_member(f, member);
		}
	}
}

/* ---- saying what is */

static void tell(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
}

static void broke(struct flow *f, const char *why, int by)
{
	double at = now();
	struct linger at_once = {1, 0};
	static const char *states[] = {"connecting", "open", "saying bye", "closing"};

	read_tap();
	broken++;
	tell("{\"broken\": {\"flow\": %llu, \"protocol\": \"%s\", \"source\": \"%s\", \"port\": %u, \"vip\": \"%s\", ",
	     (unsigned long long)f->id, f->udp ? "udp" : "tcp", sources[f->source].text, f->port, targets[f->target].text);
	tell("\"why\": \"%s\", \"member\": %d, \"by\": %d, \"sent\": %u, \"heard\": %u, \"state\": \"%s\", \"again\": %s, \"at\": %.3f, ", why,
	     f->member, by, f->sent, f->heard, states[f->state], f->again ? "true" : "false", at + offset);
	tell("\"born\": %.3f, \"asked\": %.3f, \"answered\": %.3f, \"marks\": [", f->born + offset,
	     f->asked ? f->asked + offset : 0, f->answered ? f->answered + offset : 0);
	for (int i = 0; i < f->marks; i++)
		tell("%s{\"at\": %.3f, \"flags\": %d, \"member\": %d}", i ? ", " : "", f->mark[i].at + offset, f->mark[i].flags,
		     f->mark[i].member);
	tell("]}}\n");
	if (!f->udp)
		setsockopt(f->socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	forget(f);
}

static void report(bool end)
{
	static const char *names[] = {"tcp", "udp"};

	tell("{\"at\": %.3f, \"begun\": %llu, \"finished\": %llu, \"broken\": %llu, \"strays\": %llu, \"slowest\": %.3f, ", now() + offset,
	     (unsigned long long)begun, (unsigned long long)finished, (unsigned long long)broken, (unsigned long long)strays,
	     slowest);
	for (int udp = 0; udp < 2; udp++) {
		bool first = true;
		tell("\"%s\": %d, \"%s_at\": {", names[udp], kinds[udp][0].alive + kinds[udp][1].alive, names[udp]);
		for (int m = 0; m < MAX_MEMBERS; m++)
			if (alive_at[udp][m]) {
				tell("%s\"%d\": %d", first ? "" : ", ", m, alive_at[udp][m]);
				first = false;
			}
		tell("}, ");
	}
	tell("\"end\": %s}\n", end ? "true" : "false");
	fflush(stdout);
	slowest = 0;
}

/* ---- flows */

static bool ask(struct flow *f, uint32_t what)
{
	struct request request = {f->id, f->sent, what};

	f->sent++;
	if (!f->asked)
		f->asked = now();
	/* Of UDP an error is about an earlier datagram (port unreachable); TCP tells its errors when read. */
	return send(f->socket, &request, sizeof request, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof request || f->udp;
}

static int by_last_mark(struct flow *f)
{
	read_tap();
	for (int i = f->marks - 1; i >= 0; i--)
		if (f->mark[i].flags & 4)
			return f->mark[i].member;
	return -1;
}

/* The socket says so. */
static void failed(struct flow *f, int error)
{
	int by = by_last_mark(f);
	broke(f, error == ETIMEDOUT ? "no answer in time" : strerror(error), by);
}

static void next_turn(struct flow *f)
{
	double t = now(), wait = f->pause * (0.5 + uniform());

	/* One in ten waits for long: connections that say nothing for a while must live as well. */
	if (!f->udp && f->kept && random64() % 10 == 0)
		wait *= 5;
	if (t + wait > f->ends)
		wait = f->ends > t ? f->ends - t : 0;
	schedule(f, t + wait);
}

/* A connection that the other side has closed first leaves nothing here: its ports can be used again at once, for a new
 * connection that balancers must not take for the old one. */
struct reuse {
	double due;
	uint16_t port;
	uint8_t source, target;
};

enum { REUSES = 1 << 12 };
static struct reuse reuses[REUSES];     /* a ring, in the order of due */
static uint32_t reuse_first, reuse_end;

static void begin(bool udp, bool kept, const struct reuse *again)
{
	struct flow *f = must(calloc(1, sizeof *f));
	struct kind *kind = &kinds[udp][kept];
	double t = now(), choice = uniform();

	*f = (struct flow){.id = id_base + ++begun, .udp = udp, .kept = kept, .member = -1, .born = t, .pause = kind->pause};
	if (again) {
		f->source = again->source, f->target = again->target, f->port = again->port, f->again = true;
	} else {
		while (f->target + 1 < target_count && choice >= targets[f->target].weight)
			choice -= targets[f->target++].weight;
		int family = targets[f->target].address.any.sa_family;
		do
			f->source = random64() % source_count;
		while (sources[f->source].address.any.sa_family != family);
		struct endpoint *e = sources + f->source;
		do
			f->port = FIRST_PORT + e->next_port[udp]++ % PORTS;
		while (by_port[udp][f->source * PORTS + f->port - FIRST_PORT]);
	}
	struct endpoint from = sources[f->source], to = targets[f->target];
	/* sin6_port and sin_port are at the same place. */
	from.address.v4.sin_port = htons(f->port);
	to.address.v4.sin_port = htons(udp ? UDP_PORT : TCP_PORT);
	f->ends = t + exponential(kind->life);
	f->bye = !udp && uniform() < bye_share;
	f->socket = socket(from.address.any.sa_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
	if (f->socket < 0)
		die("socket");
	set(f->socket, SOL_SOCKET, SO_REUSEADDR, 1);
	if (!udp)
		set(f->socket, IPPROTO_TCP, TCP_NODELAY, 1);
	if (bind(f->socket, &from.address.any, from.size) < 0)
		die("bind");
	if (connect(f->socket, &to.address.any, to.size) < 0 && errno != EINPROGRESS) {
		if (!again || errno != EADDRNOTAVAIL)
			die("connect");
		/* The other side has not acknowledged our end yet. */
		begun--;
		close(f->socket);
		free(f);
		return;
	}
	by_port[udp][f->source * PORTS + f->port - FIRST_PORT] = f;
	kind->alive++;
	if (heap_size == heap_room)
		heap = must(realloc(heap, (heap_room = heap_room ? 2 * heap_room : 4096) * sizeof *heap));
	f->due = t + timeout;
	put(heap_size, f);
	settle(heap_size++);
	f->state = udp ? OPEN : CONNECTING;
	watch(poller, f->socket, udp ? EPOLLIN : EPOLLOUT, f, EPOLL_CTL_ADD);
	if (udp) {
		ask(f, HELLO);
		next_turn(f);
	} else {
		f->asked = t;
	}
}

static void over(struct flow *f)
{
	if (f->bye && !f->kept && reuse_end - reuse_first < REUSES)
		reuses[reuse_end++ % REUSES] = (struct reuse){now() + 0.2, f->port, f->source, f->target};
	finished++;
	forget(f);
}

static void turn(struct flow *f)
{
	double t = now();

	if (f->asked && t - f->asked >= timeout) {
		failed(f, ETIMEDOUT);
		return;
	}
	if (f->udp) {
		if (t >= f->ends && !f->asked) {
			over(f);
			return;
		}
		ask(f, f->answered ? ECHO : HELLO);
		double wait = f->pause * (0.5 + uniform());
		schedule(f, t + wait);
	} else if (f->asked) {
		schedule(f, f->asked + timeout);
	} else if (t < f->ends || f->bye) {
		if (t >= f->ends)
			f->state = SAYING_BYE;
		if (ask(f, f->state == SAYING_BYE ? BYE : ECHO))
			schedule(f, f->asked + timeout);
		else
			failed(f, errno);
	} else {
		shutdown(f->socket, SHUT_WR);
		f->state = CLOSING;
		f->asked = t;
		schedule(f, t + timeout);
	}
}

static void answered(struct flow *f)
{
	struct answer *a = &f->answer;
	double t = now();

	if (a->flow != f->id)
		broke(f, "answered for another flow", a->member);
	else if (a->status != KNOWN)
		broke(f, "the member does not know the flow", a->member);
	else if (f->member >= 0 && a->member != (uint32_t)f->member)
		broke(f, "another member", a->member);
	else if (f->udp ? a->count > a->number + 1 : a->count != f->sent || a->number != f->sent - 1)
		broke(f, "not the next number", a->member);
	else {
		if (f->member < 0)
			at_member(f, a->member);
		f->heard++;
		if (f->asked && t - f->asked > slowest)
			slowest = t - f->asked;
		f->asked = 0;
		f->answered = t;
		if (!f->udp && f->state != SAYING_BYE)
			next_turn(f);
		else if (!f->udp)
			f->asked = t, schedule(f, t + timeout); /* its end must come now */
	}
}

static void readable(struct flow *f)
{
	if (f->state == CONNECTING) {
		int error = 0;
		socklen_t size = sizeof error;
		getsockopt(f->socket, SOL_SOCKET, SO_ERROR, &error, &size);
		if (error) {
			failed(f, error);
			return;
		}
		double t = now();
		if (t - f->asked > slowest)
			slowest = t - f->asked;
		f->state = OPEN;
		f->asked = 0;
		watch(poller, f->socket, EPOLLIN, f, EPOLL_CTL_MOD);
		if (ask(f, ECHO))
			schedule(f, f->asked + timeout);
		else
			failed(f, errno);
		return;
	}
	for (;;) {
		ssize_t got = recv(f->socket, (char *)&f->answer + f->have, sizeof f->answer - f->have, MSG_DONTWAIT);
		if (got < 0 && errno == EAGAIN)
			return;
		if (f->udp) {
			if (got == sizeof f->answer) {
				uint64_t before = broken;
				answered(f);
				if (broken != before)
					return;
			} else if (got < 0 && errno != ECONNREFUSED) {
				broke(f, strerror(errno), -1);
				return;
			}
			continue;
		}
		if (got < 0) {
			failed(f, errno);
			return;
		}
		if (got == 0) {
			if (f->state == CLOSING || (f->state == SAYING_BYE && f->heard == f->sent))
				over(f);
			else
				broke(f, "ended by the other side", f->member);
			return;
		}
		f->have += got;
		if (f->have == sizeof f->answer) {
			f->have = 0;
			uint64_t before = broken;
			answered(f);
			if (broken != before)
				return;
		}
	}
}

/* ---- the whole */

static void endpoints(struct endpoint *list, int *count, int most, char *text)
{
	for (char *word, *rest = text; (word = strtok_r(rest, ",", &rest));) {
		struct endpoint *e = list + (*count)++;
		char *weight = strchr(word, '/');

		if (*count > most)
			exit(2);
		if (weight)
			*weight++ = 0;
		e->weight = weight ? atof(weight) : 1;
		snprintf(e->text, sizeof e->text, "%s", word);
		bool v6 = strchr(word, ':');
		e->address.any.sa_family = v6 ? AF_INET6 : AF_INET;
		e->size = v6 ? sizeof e->address.v6 : sizeof e->address.v4;
		if (inet_pton(e->address.any.sa_family, word, v6 ? (void *)&e->address.v6.sin6_addr : (void *)&e->address.v4.sin_addr) != 1)
			exit(2);
		e->next_port[0] = random64() % PORTS, e->next_port[1] = random64() % PORTS;
	}
}

static void begin_what_is_due(double t)
{
	for (; reuse_first != reuse_end && reuses[reuse_first % REUSES].due <= t; reuse_first++) {
		struct reuse *r = &reuses[reuse_first % REUSES];
		if (!by_port[0][r->source * PORTS + r->port - FIRST_PORT])
			begin(false, false, r);
	}
	for (int i = 0; i < 4; i++) {
		bool udp = i & 1, kept = i & 2;
		struct kind *kind = &kinds[udp][kept];
		/* Kept flows are made at the pace of the beginning also when many have been broken at once. */
		double rate = kept ? kind->count / ramp : kind->rate;

		for (int most = 50; most && rate > 0 && kind->next <= t && (!kept || kind->alive < kind->count); most--) {
			begin(udp, kept, NULL);
			kind->next += kept ? 1 / rate : exponential(1 / rate);
		}
		if (kind->next < t)
			kind->next = t; /* who was late does not catch up */
	}
}

static void end_all(double t)
{
	size_t count = heap_size;
	struct flow **all = must(malloc((count + 1) * sizeof *all));

	ending = true;
	memcpy(all, heap, count * sizeof *all);
	for (size_t i = 0; i < count; i++) {
		all[i]->ends = t;
		if (!all[i]->asked) /* else it has its deadline there */
			schedule(all[i], t + 2 * uniform());
	}
	free(all);
}

static int load(int count, char **words)
{
	struct epoll_event events[EVENTS];
	char *interface = "eth1";
	struct timespec wall;

	many_files();
	for (int i = 0; i < count; i++) {
		char *value = strchr(words[i], '=');
		int udp, kept;
		if (!value)
			return 2;
		*value++ = 0;
		char *key = words[i];
		for (udp = 0; udp < 2; udp++)
			for (kept = 0; kept < 2; kept++) {
				char name[32];
				int length = snprintf(name, sizeof name, "%s_%s", udp ? "udp" : "tcp", kept ? "kept" : "short");
				struct kind *kind = &kinds[udp][kept];
				if (!strcmp(key, name)) /* COUNT,LIFE,PAUSE or RATE,LIFE,PAUSE */
					length = sscanf(value, "%lf,%lf,%lf", kept ? &kind->count : &kind->rate, &kind->life, &kind->pause);
				else
					continue;
				if (length != 3)
					return 2;
				goto next;
			}
		if (!strcmp(key, "sources"))
			endpoints(sources, &source_count, MAX_SOURCES, value);
		else if (!strcmp(key, "targets"))
			endpoints(targets, &target_count, MAX_TARGETS, value);
		else if (!strcmp(key, "timeout"))
			timeout = atof(value);
		else if (!strcmp(key, "ramp"))
			ramp = atof(value);
		else if (!strcmp(key, "bye"))
			bye_share = atof(value);
		else if (!strcmp(key, "hops"))
			hops = atoi(value);
		else if (!strcmp(key, "interface"))
			interface = value;
		else if (!strcmp(key, "seed"))
			random_state = strtoull(value, NULL, 10), id_base = random64() << 32;
		else
			return 2;
	next:;
	}
	if (!source_count || !target_count)
		return 2;
	for (int i = 0; i < target_count; i++) {
		bool reachable = false;
		for (int s = 0; s < source_count; s++)
			reachable |= sources[s].address.any.sa_family == targets[i].address.any.sa_family;
		if (!reachable)
			return 2;
	}
	by_port[0] = must(calloc(source_count * PORTS, sizeof **by_port));
	by_port[1] = must(calloc(source_count * PORTS, sizeof **by_port));
	poller = epoll_create1(0);
	open_tap(interface);
	watch(poller, tap, EPOLLIN, &tap, EPOLL_CTL_ADD);
	watch(poller, 0, EPOLLIN, &ending, EPOLL_CTL_ADD);
	clock_gettime(CLOCK_REALTIME, &wall);
	double start = now(), next_report = start + 1;
	offset = wall.tv_sec + wall.tv_nsec / 1e9 - start;
	for (int i = 0; i < 4; i++)
		kinds[i & 1][i >> 1].next = start;
	while (!ending || heap_size) {
		double t = now(), until = next_report;
		if (heap_size && heap[0]->due < until)
			until = heap[0]->due;
		int wait = until > t ? (int)((until - t) * 1000) + 1 : 0;
		int got = epoll_wait(poller, events, EVENTS, !ending && wait > 5 ? 5 : wait);
		if (got < 0 && errno != EINTR)
			die("epoll_wait");
		read_tap(); /* who is resetting whom, before the sockets know */
		for (int i = 0; i < got; i++) {
			void *what = events[i].data.ptr;
			if (what == &ending) {
				char byte;
				if (read(0, &byte, 1) == 0 && !ending) {
					epoll_ctl(poller, EPOLL_CTL_DEL, 0, NULL);
					end_all(now());
				}
			} else if (what != &tap) {
				readable(what);
			}
		}
		t = now();
		while (heap_size && heap[0]->due <= t)
			turn(heap[0]);
		if (!ending)
			begin_what_is_due(t);
		if (t >= next_report) {
			report(false);
			next_report += 1;
		}
	}
	report(true);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "serve"))
		serve(atoi(argv[2]));
	int code = argc > 2 && !strcmp(argv[1], "load") ? load(argc - 2, argv + 2) : 2;
	if (code == 2)
		fprintf(stderr, "usage: traffic serve MEMBER | traffic load KEY=VALUE...; see the top of traffic.c\n");
	return code;
}
