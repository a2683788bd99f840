/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The states of a migration: every edge is as written here, and no other. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/util.h"
#include "migrate/state.h"

/* One letter a state, in the order of the enum. */
static const char letters[] = "pPSwYZUDCF";

/* From each state the letters it may go to; written apart from the table in migrate/. */
static const char *const expected[GODWIT_N_STATES] = {
	[GODWIT_STATE_PREPARE] = "PSwCF", /* by mode; or nothing comes of it */
	[GODWIT_STATE_PRECOPY] = "SwCF",
	[GODWIT_STATE_STOPCOPY] = "UCF", /* COMMIT leaves, or the source goes on */
	[GODWIT_STATE_SWITCHOVER] = "UCF",
	[GODWIT_STATE_UNDECIDED] = "YD", /* the answer comes; there is no way back */
	[GODWIT_STATE_POSTCOPY] = "ZD",
	[GODWIT_STATE_PAUSED] = "Y",
	[GODWIT_STATE_DONE] = "",
	[GODWIT_STATE_CANCELLED] = "",
	[GODWIT_STATE_FAILED] = "",
};

static bool is_expected(unsigned int from, unsigned int to)
{
	return strchr(expected[from], letters[to]) != NULL;
}

Test(state, every_edge_is_legal_or_not_as_documented)
{
	cr_assert_eq(sizeof(letters) - 1, GODWIT_N_STATES);
	for (unsigned int from = 0; from < GODWIT_N_STATES; from++)
		for (unsigned int to = 0; to < GODWIT_N_STATES; to++)
			cr_assert_eq(gw_state_may_follow((enum godwit_state)from,
							 (enum godwit_state)to),
				     is_expected(from, to), "%s to %s",
				     godwit_state_name((enum godwit_state)from),
				     godwit_state_name((enum godwit_state)to));
}

Test(state, final_states_stay_final)
{
	for (unsigned int from = 0; from < GODWIT_N_STATES; from++) {
		bool final = from == GODWIT_STATE_DONE ||
			     from == GODWIT_STATE_CANCELLED ||
			     from == GODWIT_STATE_FAILED;

		cr_assert_eq(gw_state_is_final((enum godwit_state)from), final);
		for (unsigned int to = 0; final && to < GODWIT_N_STATES; to++)
			cr_assert_not(gw_state_may_follow((enum godwit_state)from,
							  (enum godwit_state)to));
	}
}

Test(state, nothing_leads_back_from_a_committed_state)
{
	static const bool committed[GODWIT_N_STATES] = {
		[GODWIT_STATE_UNDECIDED] = true,
		[GODWIT_STATE_POSTCOPY] = true,
		[GODWIT_STATE_PAUSED] = true,
		[GODWIT_STATE_DONE] = true,
	};

	for (unsigned int from = 0; from < GODWIT_N_STATES; from++) {
		cr_assert_eq(gw_state_is_committed((enum godwit_state)from),
			     committed[from]);
		for (unsigned int to = 0; committed[from] && to < GODWIT_N_STATES; to++)
			if (gw_state_may_follow((enum godwit_state)from,
						(enum godwit_state)to))
				cr_assert(committed[to]);
	}
}

Test(state, commit_is_the_only_way_into_a_committed_state)
{
	for (unsigned int from = 0; from < GODWIT_N_STATES; from++)
		for (unsigned int to = 0; to < GODWIT_N_STATES; to++)
			if (!gw_state_is_committed((enum godwit_state)from) &&
			    gw_state_is_committed((enum godwit_state)to) &&
			    gw_state_may_follow((enum godwit_state)from,
						(enum godwit_state)to))
				cr_assert_eq(to, GODWIT_STATE_UNDECIDED);
}

Test(state, every_state_can_be_reached_from_the_first)
{
	unsigned int reached = 1U << GODWIT_STATE_PREPARE;

	for (unsigned int pass = 0; pass < GODWIT_N_STATES; pass++)
		for (unsigned int from = 0; from < GODWIT_N_STATES; from++)
			for (unsigned int to = 0; to < GODWIT_N_STATES; to++)
				if (reached >> from & 1 &&
				    gw_state_may_follow((enum godwit_state)from,
							(enum godwit_state)to))
					reached |= 1U << to;
	cr_assert_eq(reached, (1U << GODWIT_N_STATES) - 1);
}

Test(state, every_state_has_a_name_of_its_own)
{
	for (unsigned int i = 0; i < GODWIT_N_STATES; i++)
		for (unsigned int j = 0; j < i; j++)
			cr_assert_str_neq(godwit_state_name((enum godwit_state)i),
					  godwit_state_name((enum godwit_state)j));
	cr_assert_str_eq(godwit_state_name(GODWIT_N_STATES), "(unknown)");
	cr_assert_str_eq(godwit_state_name((enum godwit_state) - 1), "(unknown)");
}
