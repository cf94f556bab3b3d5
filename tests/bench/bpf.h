/* The little of bpf(2) that the benchmark needs: assemble by hand, load, attach by link. No clang, no libbpf. */
#pragma once
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INSN(c, d, s, o, i) ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV_I(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define MOV_R(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define ALU_I(op, d, i) INSN(BPF_ALU64 | (op) | BPF_K, d, 0, 0, i)
#define ALU_R(op, d, s) INSN(BPF_ALU64 | (op) | BPF_X, d, s, 0, 0)
#define LDX(size, d, s, o) INSN(BPF_LDX | BPF_MEM | (size), d, s, o, 0)
#define STX(size, d, s, o) INSN(BPF_STX | BPF_MEM | (size), d, s, o, 0)
#define ST(size, d, o, i) INSN(BPF_ST | BPF_MEM | (size), d, 0, o, i)
#define XADD(d, s, o) INSN(BPF_STX | BPF_ATOMIC | BPF_DW, d, s, o, BPF_ADD)
#define JUMP_R(op, d, s, o) INSN(BPF_JMP | (op) | BPF_X, d, s, o, 0)
#define JUMP_I(op, d, i, o) INSN(BPF_JMP | (op) | BPF_K, d, 0, o, i)
#define JUMP32_I(op, d, i, o) INSN(BPF_JMP32 | (op) | BPF_K, d, 0, o, i)
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, function)
#define EXIT INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define LOAD_MAP(d, fd) INSN(BPF_LD | BPF_DW | BPF_IMM, d, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)

/* A growing program with one forward label, the exit that most checks jump to. */
struct program {
	struct bpf_insn code[128];
	int length, jumps[64], jump_count;
};

#define EMIT(p, ...) \
	do { \
		const struct bpf_insn more[] = {__VA_ARGS__}; \
		memcpy((p)->code + (p)->length, more, sizeof more); \
		(p)->length += sizeof more / sizeof *more; \
	} while (0)

/* The last instruction emitted is a jump to the label. */
static inline void to_label(struct program *p) { p->jumps[p->jump_count++] = p->length - 1; }

static inline void label(struct program *p)
{
	for (int i = 0; i < p->jump_count; i++)
		p->code[p->jumps[i]].off = p->length - p->jumps[i] - 1;
	p->jump_count = 0;
}

static inline int bpf(int command, union bpf_attr *attr) { return syscall(__NR_bpf, command, attr, sizeof *attr); }

static inline int load_program(int type, const struct program *p, int attach_type)
{
	static char log[65536];
	union bpf_attr attr = {.prog_type = type, .insns = (uint64_t)p->code, .insn_cnt = p->length,
			       .license = (uint64_t)"GPL", .log_buf = (uint64_t)log, .log_size = sizeof log,
			       .log_level = 1, .expected_attach_type = attach_type};
	int fd = bpf(BPF_PROG_LOAD, &attr);
	if (fd < 0) {
		fprintf(stderr, "cannot load a BPF program: %s\n%s\n", strerror(errno), log);
		exit(1);
	}
	return fd;
}

/* The link, and with it the attachment, ends with the process. */
static inline void attach(int program, int ifindex, int attach_type)
{
	union bpf_attr attr = {.link_create = {.prog_fd = program, .target_ifindex = ifindex, .attach_type = attach_type}};
	if (bpf(BPF_LINK_CREATE, &attr) < 0) {
		perror("cannot attach a BPF program (tcx needs Linux 6.6)");
		exit(1);
	}
}
