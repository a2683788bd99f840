/* SPDX-License-Identifier: GPL-2.0-or-later */
/* After each round: go on, stop, switch or give up. */
#include <criterion/criterion.h>

#include "base/util.h"
#include "migrate/converge.h"

#define MIB (1ULL << 20)
#define GIB (1ULL << 30)
#define MS  1000000ULL

static const struct gw_converge_limits precopy = {.max_downtime_ns = 10 * MS,
						  .max_rounds = 30};
static const struct gw_converge_limits hybrid = {
	.max_downtime_ns = 10 * MS, .max_rounds = 8, .may_postcopy = true};

/*
 * A guest of @guest bytes that dirties @dirty_rate bytes a second on a link of
 * @link bytes a second. Returns the verdict that ended it and the rounds it took.
 */
static enum gw_verdict simulate(uint64_t guest, uint64_t dirty_rate, uint64_t link,
				const struct gw_converge_limits *limits,
				unsigned int *ret_rounds)
{
	struct gw_converge state = {0};
	struct gw_converge_round round = {.sent_bytes = guest};
	enum gw_verdict verdict;

	do {
		double seconds = (double)round.sent_bytes / (double)link;

		round.duration_ns = (uint64_t)(seconds * 1e9);
		round.dirty_bytes =
			GW_MIN(guest, (uint64_t)(seconds * (double)dirty_rate));
		verdict = gw_converge_next(&state, limits, &round);
		round.sent_bytes = round.dirty_bytes;
		cr_assert_leq(state.rounds, 1000, "it never ends");
	} while (verdict == GW_VERDICT_GO_ON);
	*ret_rounds = state.rounds;
	return verdict;
}

Test(converge, an_idle_guest_stops_after_one_round)
{
	unsigned int rounds;

	cr_assert_eq(simulate(4 * GIB, 0, GIB, &precopy, &rounds), GW_VERDICT_STOP);
	cr_assert_eq(rounds, 1);
}

Test(converge, a_guest_slower_than_the_link_converges_by_its_ratio)
{
	unsigned int rounds;

	/* 4 s, then a quarter each: 1 s, 250, 62, 15.6 and 3.9 ms */
	cr_assert_eq(simulate(4 * GIB, GIB / 4, GIB, &hybrid, &rounds), GW_VERDICT_STOP);
	cr_assert_eq(rounds, 5);
}

Test(converge, a_guest_faster_than_the_link_switches_as_soon_as_it_is_stuck)
{
	unsigned int rounds;

	cr_assert_eq(simulate(4 * GIB, 2 * GIB, GIB, &hybrid, &rounds),
		     GW_VERDICT_POSTCOPY);
	cr_assert_eq(rounds, 1 + GW_CONVERGE_STUCK_ROUNDS);
}

Test(converge, a_guest_that_shrinks_too_slowly_switches_at_the_last_round)
{
	unsigned int rounds;

	/* Each round is 15 % smaller: progress, but not enough of it. */
	cr_assert_eq(simulate(64 * GIB, GIB * 85 / 100, GIB, &hybrid, &rounds),
		     GW_VERDICT_POSTCOPY);
	cr_assert_eq(rounds, 8);
}

Test(converge, without_postcopy_a_stuck_guest_is_given_up_at_the_last_round)
{
	unsigned int rounds;

	cr_assert_eq(simulate(4 * GIB, 2 * GIB, GIB, &precopy, &rounds),
		     GW_VERDICT_GIVE_UP);
	cr_assert_eq(rounds, 30);
}

Test(converge, a_rest_that_fits_stops_even_at_the_last_round)
{
	struct gw_converge_limits limits = precopy;
	unsigned int rounds;

	limits.max_rounds = 1;
	cr_assert_eq(simulate(GIB, 0, GIB, &limits, &rounds), GW_VERDICT_STOP);
	limits.may_postcopy = true;
	cr_assert_eq(simulate(GIB, 0, GIB, &limits, &rounds), GW_VERDICT_STOP);
}

Test(converge, the_limit_on_downtime_itself_still_fits)
{
	struct gw_converge state = {0};
	const struct gw_converge_round round = {.sent_bytes = 1000 * MIB,
						.duration_ns = 1000 * MS,
						.dirty_bytes = 10 * MIB};
	struct gw_converge_limits limits = precopy;

	cr_assert_eq(gw_converge_next(&state, &limits, &round), GW_VERDICT_STOP);
	limits.max_downtime_ns--;
	state = (struct gw_converge){0};
	cr_assert_eq(gw_converge_next(&state, &limits, &round), GW_VERDICT_GO_ON);
}

Test(converge, a_downtime_of_zero_wants_nothing_left)
{
	struct gw_converge state = {0};
	struct gw_converge_round round = {
		.sent_bytes = GIB, .duration_ns = GW_NSEC, .dirty_bytes = 4096};
	struct gw_converge_limits limits = precopy;

	limits.max_downtime_ns = 0;
	cr_assert_eq(gw_converge_next(&state, &limits, &round), GW_VERDICT_GO_ON);
	round.dirty_bytes = 0;
	cr_assert_eq(gw_converge_next(&state, &limits, &round), GW_VERDICT_STOP);
}

Test(converge, nothing_dirty_takes_no_time_however_little_was_measured)
{
	struct gw_converge state = {0};
	const struct gw_converge_round none = {0};

	cr_assert_eq(gw_converge_estimate(&state, &precopy, 0), 0);
	cr_assert_eq(gw_converge_estimate(&state, &precopy, 1), UINT64_MAX);
	cr_assert_eq(gw_converge_next(&state, &precopy, &none), GW_VERDICT_STOP);
}

Test(converge, a_bandwidth_limit_caps_the_estimate_but_does_not_raise_it)
{
	const struct gw_converge state = {.throughput = GIB};
	struct gw_converge_limits limits = precopy;

	cr_assert_eq(gw_converge_estimate(&state, &limits, GIB), GW_NSEC);
	limits.bandwidth = GIB / 4;
	cr_assert_eq(gw_converge_estimate(&state, &limits, GIB), 4 * GW_NSEC);
	limits.bandwidth = 8 * GIB;
	cr_assert_eq(gw_converge_estimate(&state, &limits, GIB), GW_NSEC);
}

Test(converge, a_short_round_does_not_replace_the_measured_throughput)
{
	struct gw_converge state = {0};
	struct gw_converge_round round = {
		.sent_bytes = GIB, .duration_ns = GW_NSEC, .dirty_bytes = GIB};

	gw_converge_next(&state, &precopy, &round);
	round.sent_bytes = 4096;
	gw_converge_next(&state, &precopy, &round);
	cr_assert_eq(state.throughput, GIB);
	round.sent_bytes = GIB / 2;
	gw_converge_next(&state, &precopy, &round);
	cr_assert_eq(state.throughput, GIB / 2);
	cr_assert_eq(state.dirty_rate, GIB);
}

Test(converge, progress_is_measured_against_the_best_round_so_far)
{
	static const uint64_t rests[] = {100, 50, 60, 49, 46, 44, 60, 46, 45};
	static const unsigned int stuck[] = {0, 0, 1, 2, 3, 0, 1, 2, 3};
	struct gw_converge state = {0};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(rests); i++) {
		const struct gw_converge_round round = {.sent_bytes = GIB,
							.duration_ns = GW_NSEC,
							.dirty_bytes = rests[i] * GIB};

		gw_converge_next(&state, &precopy, &round);
		cr_assert_eq(state.stuck, stuck[i], "round %u", i);
	}
}

Test(converge, numbers_past_all_reason_saturate_instead_of_wrapping)
{
	struct gw_converge state = {.throughput = 1};
	const struct gw_converge_round round = {
		.sent_bytes = 1ULL << 50, .duration_ns = 0, .dirty_bytes = 1ULL << 50};

	cr_assert_eq(gw_converge_estimate(&state, &precopy, 1ULL << 50), UINT64_MAX);
	gw_converge_next(&state, &precopy, &round);
	cr_assert_eq(state.throughput, UINT64_MAX);
	cr_assert_eq(state.dirty_rate, UINT64_MAX);
}
