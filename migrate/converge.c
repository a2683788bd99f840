/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* After each round of pre-copy: go on, stop, switch, or give up? */
#include "migrate/converge.h"

#include "base/util.h"

/* Shorter rounds measure their fixed costs, not the link. */
#define TELLING_BYTES (4ULL << 20)
/* A rest that is smaller by less than a tenth is no progress. */
#define PROGRESS(best) ((best) - (best) / 10)

/* A rate from a time in ns, or a time from a rate; what 64 bits cannot hold saturates. */
static uint64_t scaled(uint64_t bytes, uint64_t divisor)
{
	double value = (double)bytes * (double)GW_NSEC / (double)GW_MAX(divisor, 1ULL);

	return value < 0x1p64 ? (uint64_t)value : UINT64_MAX;
}

uint64_t gw_converge_estimate(const struct gw_converge *state,
			      const struct gw_converge_limits *limits, uint64_t bytes)
{
	uint64_t rate = state->throughput;

	if (!bytes)
		return 0;
	if (!rate)
		return UINT64_MAX;
	if (limits->bandwidth)
		rate = GW_MIN(rate, limits->bandwidth);
	return scaled(bytes, rate);
}

static void measure(struct gw_converge *state, const struct gw_converge_round *round)
{
	uint64_t rest = round->dirty_bytes;

	if (round->sent_bytes >= TELLING_BYTES || !state->throughput)
		state->throughput = scaled(round->sent_bytes, round->duration_ns);
	state->dirty_rate = scaled(rest, round->duration_ns);
	if (!state->rounds || rest < PROGRESS(state->best_rest)) {
		state->best_rest = rest;
		state->stuck = 0;
	} else {
		state->stuck++;
	}
	state->rounds++;
}

enum gw_verdict gw_converge_next(struct gw_converge *state,
				 const struct gw_converge_limits *limits,
				 const struct gw_converge_round *round)
{
	measure(state, round);
	if (gw_converge_estimate(state, limits, round->dirty_bytes) <=
	    limits->max_downtime_ns)
		return GW_VERDICT_STOP;
	if (limits->may_postcopy && (state->stuck >= GW_CONVERGE_STUCK_ROUNDS ||
				     state->rounds >= limits->max_rounds))
		return GW_VERDICT_POSTCOPY;
	if (state->rounds >= limits->max_rounds)
		return GW_VERDICT_GIVE_UP;
	return GW_VERDICT_GO_ON;
}
