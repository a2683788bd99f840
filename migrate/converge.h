/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * After each round of pre-copy: go on, stop the guest, or switch to post-copy?
 * Pure arithmetic on what was measured; no clock, no I/O.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct gw_converge {
	uint64_t throughput; /* bytes of memory a second, of the last telling round */
	uint64_t dirty_rate; /* bytes a second, over the last round */
	uint64_t best_rest;  /* the smallest rest so far, bytes */
	unsigned int rounds; /* done */
	unsigned int stuck;  /* rounds in a row that did not make the rest smaller */
};

struct gw_converge_round {
	uint64_t sent_bytes; /* memory that crossed as data */
	uint64_t duration_ns;
	uint64_t dirty_bytes; /* written meanwhile: what the next round would send */
};

struct gw_converge_limits {
	uint64_t max_downtime_ns;
	uint64_t max_rounds;
	uint64_t bandwidth; /* bytes a second; 0: no limit */
	bool may_postcopy;
};

enum gw_verdict {
	GW_VERDICT_GO_ON,
	GW_VERDICT_STOP,     /* the rest fits: stop-and-copy */
	GW_VERDICT_POSTCOPY, /* it will not fit: switch */
	GW_VERDICT_GIVE_UP,  /* it will not fit, and post-copy is not wanted */
};

/* Rounds without progress after which pre-copy counts as not converging. */
#define GW_CONVERGE_STUCK_ROUNDS 3

enum gw_verdict gw_converge_next(struct gw_converge *state,
				 const struct gw_converge_limits *limits,
				 const struct gw_converge_round *round);
/* How long @bytes take at the measured rate, ns; UINT64_MAX before any was measured. */
uint64_t gw_converge_estimate(const struct gw_converge *state,
			      const struct gw_converge_limits *limits, uint64_t bytes);
