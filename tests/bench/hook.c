/* Attach a small program to an interface for as long as standard input stays open.
 *
 * usage: hook IF vip ADDR    tc ingress: drop packets to ADDR. AF_PACKET taps run before it
 *        hook IF sink        tc ingress: count and drop UDP, IPIP and IPv6-in-IP; every line on standard input is
 *                            answered with the count. ARP, ND and TCP go to the kernel
 */
#include "bpf.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <stddef.h>

enum { TCX_INGRESS = 46, TC_NEXT = -1, TC_DROP = 2 };

/* r2 = start of the frame, of which at least `bytes` are there; else to the label. r4 = Ethertype. */
static void open_frame(struct program *p, int bytes)
{
	EMIT(p, MOV_R(6, 1), LDX(BPF_W, 2, 6, offsetof(struct __sk_buff, data)),
	     LDX(BPF_W, 3, 6, offsetof(struct __sk_buff, data_end)), MOV_R(4, 2), ALU_I(BPF_ADD, 4, bytes));
	EMIT(p, JUMP_R(BPF_JGT, 4, 3, 0));
	to_label(p);
	EMIT(p, LDX(BPF_H, 4, 2, 12));
}

static void drop_vip(struct program *p, const char *text)
{
	uint32_t address[4];
	int v6 = strchr(text, ':') != NULL, words = v6 ? 4 : 1;
	if (inet_pton(v6 ? AF_INET6 : AF_INET, text, address) != 1)
		exit(2);
	open_frame(p, v6 ? 54 : 34);
	EMIT(p, JUMP_I(BPF_JNE, 4, htons(v6 ? 0x86dd : 0x0800), 0));
	to_label(p);
	for (int i = 0; i < words; i++) {
		EMIT(p, LDX(BPF_W, 4, 2, (v6 ? 38 : 30) + 4 * i), JUMP32_I(BPF_JNE, 4, (int)address[i], 0));
		to_label(p);
	}
	EMIT(p, MOV_I(0, TC_DROP), EXIT);
	label(p);
	EMIT(p, MOV_I(0, TC_NEXT), EXIT);
}

static void count_and_drop(struct program *p, int map)
{
	open_frame(p, 34);
	/* r5 = the protocol number of either family, 0 for what is neither */
	EMIT(p, MOV_I(5, 0), JUMP_I(BPF_JNE, 4, htons(0x0800), 1), LDX(BPF_B, 5, 2, 23),
	     JUMP_I(BPF_JNE, 4, htons(0x86dd), 1), LDX(BPF_B, 5, 2, 20),
	     JUMP_I(BPF_JEQ, 5, IPPROTO_UDP, 3), JUMP_I(BPF_JEQ, 5, IPPROTO_IPIP, 2),
	     JUMP_I(BPF_JEQ, 5, IPPROTO_IPV6, 1), INSN(BPF_JMP | BPF_JA, 0, 0, 0, 0));
	to_label(p);
	EMIT(p, LOAD_MAP(1, map), ST(BPF_W, 10, -4, 0), MOV_R(2, 10), ALU_I(BPF_ADD, 2, -4),
	     CALL(BPF_FUNC_map_lookup_elem), JUMP_I(BPF_JEQ, 0, 0, 2), MOV_I(1, 1), XADD(0, 1, 0),
	     MOV_I(0, TC_DROP), EXIT);
	label(p);
	EMIT(p, MOV_I(0, TC_NEXT), EXIT);
}

int main(int argc, char **argv)
{
	struct program p = {0};
	union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
	int ifindex = argc > 2 ? if_nametoindex(argv[1]) : 0, counter = -1;

	if (!ifindex)
		return 2;
	if (!strcmp(argv[2], "sink")) {
		counter = bpf(BPF_MAP_CREATE, &map);
		count_and_drop(&p, counter);
	} else {
		drop_vip(&p, argv[3]);
	}
	attach(load_program(BPF_PROG_TYPE_SCHED_CLS, &p, TCX_INGRESS), ifindex, TCX_INGRESS);
	puts("ready");
	fflush(stdout);
	for (int c; (c = getchar()) != EOF;) {
		uint32_t key = 0;
		uint64_t count = 0;
		union bpf_attr look = {.map_fd = counter, .key = (uint64_t)&key, .value = (uint64_t)&count};
		if (c != '\n')
			continue;
		bpf(BPF_MAP_LOOKUP_ELEM, &look);
		printf("%lu\n", count);
		fflush(stdout);
	}
	return 0;
}
