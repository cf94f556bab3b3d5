/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Which member takes a packet when its slot alone does not say, and what is remembered of its flow: packets.md, section 7.
 * The readable form of the rules is packet/placement.py, that of the memory dataplane/pins.py.
 *
 * Words of pins are replaced by compare-and-swap only, so that of two CPUs that want the same one gives way. The worst that
 * can come of it is a flow that is not remembered.
 */
#pragma once
#include "count.h"
#include "lookup.h"

enum kind { KIND_SYN, KIND_PLAIN, KIND_FIN, KIND_RST, KIND_ODD, KIND_UDP };
enum tcp_flags { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* What the packet leaves behind once it is sent. */
enum keep { KEEP_PIN = 1, KEEP_TURN = 2 };

struct question {
	struct flow flow; /* of the packet; what else is written down of it comes with the answer */
	u32 generation;
	u32 service;  /* number of its counters */
	u32 row;      /* of turns and counters */
	u32 chosen;   /* what the slot says */
	u32 slot;     /* its number */
	u32 previous; /* the service's first slot of previous owners, 0 for none */
	u32 flags;    /* of TCP */
	/* The answer. */
	u32 way; /* or NOBODY */
	u32 by;
	u32 keep;
	u32 tell;     /* others have to be told first, by the slow path; then nothing is kept */
	u32 next;     /* KEEP_TURN: whose turn it is then */
	u32 stamp;    /* and of which choices */
	u32 position; /* KEEP_PIN: of the set, or of the word found */
	u64 found;    /* the word that the flow has had so far, or 0 */
	u64 word;     /* from now on */
};

INLINE u32 kind_of(u8 protocol, u8 flags)
{
	if (protocol == IPPROTO_UDP)
		return KIND_UDP;
	if (flags & TCP_SYN)
		return flags & (TCP_FIN | TCP_RST | TCP_ACK) ? KIND_ODD : KIND_SYN;
	if (flags & TCP_RST)
		return KIND_RST;
	if (flags & TCP_FIN)
		return KIND_FIN;
	return flags & TCP_ACK ? KIND_PLAIN : KIND_ODD;
}

INLINE u64 pack(u64 tag, u64 member, u64 state, u64 when)
{
	return tag << TAG_SHIFT | member << MEMBER_SHIFT | state << STATE_SHIFT | (when & ((1 << WHEN_BITS) - 1));
}

INLINE u32 member_of(u64 word)
{
	return word >> MEMBER_SHIFT & 0xffff;
}

INLINE u32 state_of(u64 word)
{
	return word >> STATE_SHIFT & 3;
}

/* How far a finer clock than ours may be ahead, in ticks. */
enum { AHEAD = 4 };

/* Ticks since a pin was used. */
INLINE u32 age_of(u64 word, u32 now)
{
	u32 age = (now - (u32)word) & ((1 << WHEN_BITS) - 1);

	return age < (1 << WHEN_BITS) - AHEAD ? age : 0;
}

/* Whether a pin of that age still counts. */
INLINE int is_live(u32 state, u32 age, u32 idle)
{
	if (state == PIN_RST)
		return age <= RST_TICKS;
	if (state == PIN_FIN && (!idle || idle > FIN_TICKS))
		return age <= FIN_TICKS;
	return !idle || age <= idle;
}

/* The same as `pin_hash` of ring/hash.py: the spread sum of products. */
INLINE u64 pin_hash(u64 h)
{
	h = spread(spread(h));
	return h ^ h >> 32;
}

INLINE u64 pin_tag(u64 hash64)
{
	return (u32)hash64 ?: 1;
}

INLINE u32 pin_set_of(const struct control *control, u64 hash64)
{
	return (hash64 >> 32) * control->pin_sets >> 32;
}

INLINE u32 pin_now(const struct control *control)
{
	return (bpf_ktime_get_coarse_ns() + control->clock) >> PIN_TICK_SHIFT;
}

INLINE u64 load(u64 *word)
{
	return *(volatile u64 *)word;
}

/* The next of the service's choices. */
INLINE u32 choose(struct question *q, const struct control *control, const struct generation *g, const struct policy *policy)
{
	u32 at, member;
	struct turn *turn;

	q->by = BY_CHOICE;
	if (!policy->length)
		return NOBODY;
	if (policy->order == ORDER_RANDOM) {
		at = (u64)bpf_get_prandom_u32() * policy->length >> 32;
	} else {
		turn = AT(turns, q->row * control->services + q->service);
		if (!turn)
			return NOBODY;
		at = turn->next;
		if (turn->stamp != policy->stamp) /* CPUs begin at places far from each other */
			at = q->row < control->rows ? (u64)q->row * policy->length / control->rows : 0;
		q->next = at + 1 < policy->length ? at + 1 : 0;
		q->stamp = policy->stamp;
		q->keep = KEEP_TURN;
	}
	member = AT16(choices, policy->choices + at);
	q->way = AT16(member_ways, g->member_ways_first + member);
	return q->way == NOBODY ? NOBODY : member;
}

INLINE void pin(struct question *q, u32 member, u32 state, u32 now)
{
	if (member == NOBODY)
		return;
	q->word = pack(pin_tag(q->flow.hash64), member, state, now);
	q->keep |= KEEP_PIN;
}

/* The member that a way leads to. */
INLINE u32 member_at(const struct generation *g, u32 way)
{
	const struct way *found = way == NOBODY ? NULL : AT(ways, g->ways_first + way);

	return found ? found->member : NOBODY;
}

/* The present tick, from the CPU's notes where it has read the clock in this jiffy: a call costs as much as the rest of a
 * look-up. */
INLINE u32 noted_now(const struct control *control, u32 row)
{
	struct cpu *cpu = AT(cpus, row);
	u32 jiffies = bpf_jiffies64();

	if (!cpu)
		return 0;
	if (unlikely(cpu->jiffies != jiffies)) {
		cpu->pin_tick = pin_now(control);
		cpu->jiffies = jiffies;
	}
	return cpu->pin_tick;
}

/* Asks memory for a flow's set while it still has to answer for the flow's slot: with many flows neither is in a cache. */
INLINE void fetch(const struct control *control, u64 hash64)
{
	struct pin_set *set = AT(pin_words, pin_set_of(control, hash64));

	if (set)
		load(&set->word[0]);
}

/* The way of a flow that is remembered, and that another plain packet changes nothing about: then no question has to be
 * asked. NOBODY for all others. Words of a set are compared without a branch that could be mispredicted. */
GLOBAL u32 recall(u64 hash64, u32 policy_at, u32 member_ways_first, u32 chosen, u32 row_and_flags)
{
	const struct control *control = AT(controls, 0);
	const struct policy *policy = AT(policies, policy_at);
	struct pin_set *set = control ? AT(pin_words, pin_set_of(control, hash64)) : NULL;
	u32 flags = row_and_flags & 0xff;
	u64 tag = pin_tag(hash64), word, found = 0;

	if (!set || !policy || policy->placement == PLACEMENT_PER_PACKET || chosen == NOBODY)
		return NOBODY;
	/* What is none of these and has no flags either changes nothing about a pin. */
	if (flags && (flags & (TCP_SYN | TCP_RST | TCP_FIN | TCP_ACK)) != TCP_ACK)
		return NOBODY;
#pragma unroll
	for (int i = 0; i < 8; i++) {
		word = load(&set->word[i]);
		found |= word & -(((word >> TAG_SHIFT ^ tag) - 1) >> 63);
	}
	if (state_of(found) == PIN_NEW || age_of(found, noted_now(control, row_and_flags >> 8)))
		return NOBODY;
	return AT16(member_ways, member_ways_first + member_of(found));
}

enum gate { GATE_NONE, GATE_OPEN, GATE_SHUT };

/* Whether a connection may begin elsewhere than others presume: at once, by the slow path, which tells them, or not at all,
 * since that one is not there or has enough to do. */
INLINE enum gate gate(const struct question *q, const struct control *control)
{
	struct cpu *cpu = AT(cpus, q->row);
	u64 *until = AT(pin_gate, 0), now, tick;

	if (!until || !cpu || !load(until))
		return GATE_NONE;
	now = bpf_ktime_get_coarse_ns();
	if (now + control->clock >= load(until))
		return GATE_SHUT;
	if (q->row >= control->rows) /* a test run */
		return GATE_OPEN;
	tick = now >> (control->tick_shift & 31);
	if (cpu->opening_tick != tick) {
		cpu->opening_tick = tick;
		cpu->opening = 0;
	}
	if (cpu->opening >= control->opening_limit)
		return GATE_SHUT;
	cpu->opening++;
	return GATE_OPEN;
}

/* Answers a question. Nothing is remembered by that, and nobody's turn is over. */
GLOBAL int place(struct question *q)
{
	const struct control *control = AT(controls, 0);
	const struct generation *g;
	const struct policy *policy;
	struct pin_set *set;
	u32 primary, previous, fallback, now, tag, age = 0, state = 0, at = 0, way = NOBODY, kind;
	u64 word = 0;

	if (!q || !control)
		return 0;
	g = AT(generations, q->generation);
	policy = g ? AT(policies, g->policies_first + q->service) : NULL;
	if (!policy)
		return 0;
	kind = kind_of(q->flow.protocol, q->flags);
	q->flow.opened = kind == KIND_SYN;
	primary = q->chosen == NOBODY ? NOBODY : q->chosen & ~LOOK_CLOSER;
	previous = q->previous ? AT16(slots, q->previous + q->slot) : primary;
	fallback = previous == NOBODY ? primary : previous;
	q->way = fallback;
	q->by = fallback == primary ? BY_SLOT : BY_PREVIOUS;
	if (policy->placement == PLACEMENT_PER_PACKET && kind == KIND_UDP) {
		q->way = NOBODY;
		choose(q, control, g, policy);
		return 0;
	}
	if (policy->placement == PLACEMENT_HASH ? primary == previous : policy->placement != PLACEMENT_PER_FLOW)
		return 0;

	now = noted_now(control, q->row);
	q->flow.idle = policy->idle;
	tag = pin_tag(q->flow.hash64);
	q->position = pin_set_of(control, q->flow.hash64);
	set = AT(pin_words, q->position);
	if (!set)
		return 0;
#pragma unroll
	for (at = 0; at < 8; at++) {
		word = load(&set->word[at]);
		if (word >> TAG_SHIFT == tag)
			break;
	}
	q->position *= 8;
	if (at < 8) {
		q->position += at;
		q->found = word;
		age = age_of(word, now);
		state = state_of(word);
		if (is_live(state, age, policy->idle))
			way = AT16(member_ways, g->member_ways_first + member_of(word));
	}

	if (kind == KIND_SYN) {
		if (way != NOBODY && state < PIN_FIN && age < RETRANSMISSION_TICKS) {
			q->way = way;
			q->by = BY_PIN;
			return 0;
		}
		if (policy->placement == PLACEMENT_PER_FLOW) {
			q->way = NOBODY;
			pin(q, choose(q, control, g, policy), PIN_NEW, now);
			return 0;
		}
		q->way = primary;
		q->by = BY_SLOT;
		if (primary != fallback && primary != NOBODY) {
			switch (gate(q, control)) {
			case GATE_NONE:
				break;
			case GATE_OPEN:
				q->tell = 1;
				return 0;
			case GATE_SHUT:
				q->way = fallback;
				q->by = BY_PREVIOUS;
			}
		}
		pin(q, member_at(g, q->way), PIN_NEW, now);
		return 0;
	}
	if (way != NOBODY) {
		q->way = way;
		q->by = BY_PIN;
		if (kind == KIND_ODD)
			return 0;
		if (kind == KIND_RST)
			state = PIN_RST;
		else if (kind == KIND_FIN && state < PIN_FIN)
			state = PIN_FIN;
		else if (state < PIN_OPEN)
			state = PIN_OPEN;
		word = pack(tag, member_of(word), state, age ? now : word);
		if (word != q->found) {
			q->word = word;
			q->keep = KEEP_PIN;
		}
		return 0;
	}
	if (policy->placement == PLACEMENT_PER_FLOW && kind == KIND_UDP) {
		q->way = NOBODY;
		pin(q, choose(q, control, g, policy), PIN_NEW, now);
		return 0;
	}
	/* A flow that was there before, and that nobody has remembered yet. */
	if (kind == KIND_PLAIN || kind == KIND_UDP || kind == KIND_FIN)
		pin(q, member_at(g, fallback), kind == KIND_FIN ? PIN_FIN : PIN_NEW, now);
	return 0;
}

enum { WORTH_EMPTY = 6, WORTH_OVER = 5 };

/* How readily a place is given up: empty, over, RST, FIN, NEW, OPEN; old ones first. 0 for one that is just being taken. */
INLINE u32 worth(u64 word, u32 position, u32 now)
{
	u32 age = age_of(word, now), state = state_of(word);
	const struct flow *flow;

	if (!word)
		return WORTH_EMPTY << WHEN_BITS;
	if (age > RST_TICKS) { /* idle timeouts are longer, so that in a flood nobody has to look */
		flow = AT(pin_flows, position);
		if (flow && !is_live(state, age, flow->idle))
			return WORTH_OVER << WHEN_BITS | age;
	}
	if (member_of(word) == NOBODY)
		return 0;
	return (state == PIN_OPEN ? 1 : state == PIN_NEW ? 2 : state + 1) << WHEN_BITS | age;
}

/* Writes down whose flow is at a position, and that it is news; whoever reads the news does so once it is announced. */
INLINE void write_down(struct question *q, u32 position, u32 row, const u64 *head)
{
	struct flow *flow = AT(pin_flows, position);
	struct cpu *cpu = AT(cpus, q->row);
	u64 *two;

	if (flow)
		*flow = q->flow;
	two = AT(pin_journal, (row * JOURNAL + (*head & (JOURNAL - 1))) >> 1);
	if (two)
		((u32 *)two)[*head & 1] = position;
	if (cpu)
		cpu->pins_made++;
}

/* The time from a connection's SYN to the client's first ACK, if its SYN was seen here. */
INLINE void count_delay(const struct control *control, u32 position, u32 member)
{
	const struct flow *flow = AT(pin_flows, position);
	struct delay *delay = AT(pin_delays, member);

	if (!flow || !delay || !flow->opened || flow->origin)
		return;
	__sync_fetch_and_add(&delay->count, 1);
	__sync_fetch_and_add(&delay->ns, bpf_ktime_get_ns() + control->clock - flow->born_ns);
}

/* Keeps what an answer says is to be kept. */
GLOBAL int keep(struct question *q)
{
	const struct control *control = AT(controls, 0);
	struct pin_set *set;
	struct turn *turn;
	struct cpu *cpu;
	u32 position, row, state, fresh, score, best = 0, at;
	u64 given_up, busy, *head;

	if (!q || !control)
		return 0;
	if (q->keep & KEEP_TURN) {
		turn = AT(turns, q->row * control->services + q->service);
		if (turn)
			*turn = (struct turn){q->stamp, q->next};
	}
	if (!(q->keep & KEEP_PIN))
		return 0;
	position = q->position;
	set = AT(pin_words, position >> 3);
	row = bpf_get_smp_processor_id();
	head = AT(pin_heads, row);
	if (!set || !head)
		return 0;
	state = state_of(q->word);
	fresh = !q->found || state == PIN_NEW || member_of(q->found) != member_of(q->word);
	if (fresh)
		q->flow.born_ns = (q->flow.opened ? bpf_ktime_get_ns() : bpf_ktime_get_coarse_ns()) + control->clock;
	if (q->found) {
		if (__sync_val_compare_and_swap(&set->word[position & 7], q->found, q->word) != q->found)
			return 0;
		if (fresh) {
			write_down(q, position, row, head);
			*head += 1;
		} else if (state == PIN_OPEN && state_of(q->found) == PIN_NEW) {
			count_delay(control, position, member_of(q->word));
		}
		return 0;
	}
	/* The first empty place, without a look at the records of those before it; else the one that is worth least. */
	for (at = 0; at < 8; at++)
		if (!load(&set->word[at]))
			break;
	if (at == 8) {
		for (at = 0; at < 8; at++) {
			score = worth(load(&set->word[at]), position + at, q->word) << 3 | (7 - at);
			if (score > best)
				best = score;
		}
		/* By way of memory, so that verifiers do not follow the number through every path to here. */
		*(volatile u64 *)&q->found = best;
		best = *(volatile u64 *)&q->found;
		at = 7 - (best & 7);
	}
	given_up = load(&set->word[at & 7]);
	if (given_up && (best < 8 || worth(given_up, position + at, q->word) != best >> 3))
		return 0;
	/* A pin of nobody's, while what it stands for is being written. */
	busy = q->word | (u64)NOBODY << MEMBER_SHIFT;
	if (__sync_val_compare_and_swap(&set->word[at & 7], given_up, busy) != given_up)
		return 0;
	write_down(q, position + at, row, head);
	if (__sync_val_compare_and_swap(&set->word[at & 7], busy, q->word) != busy)
		return 0;
	*head += 1;
	cpu = AT(cpus, q->row);
	if (cpu && given_up && best >> 3 < WORTH_OVER << WHEN_BITS)
		cpu->pins_evicted[state_of(given_up) & 3]++;
	return 0;
}
