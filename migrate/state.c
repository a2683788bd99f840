/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The states of a migration and the edges between them. */
#include "migrate/state.h"

#include <assert.h>

#include "base/util.h"

#define TO(state) (1U << GODWIT_STATE_##state)

static const unsigned int edges[] = {
	[GODWIT_STATE_PREPARE] =
		TO(PRECOPY) | TO(STOPCOPY) | TO(SWITCHOVER) | TO(CANCELLED) | TO(FAILED),
	[GODWIT_STATE_PRECOPY] =
		TO(STOPCOPY) | TO(SWITCHOVER) | TO(CANCELLED) | TO(FAILED),
	[GODWIT_STATE_STOPCOPY] = TO(UNDECIDED) | TO(CANCELLED) | TO(FAILED),
	[GODWIT_STATE_SWITCHOVER] = TO(UNDECIDED) | TO(CANCELLED) | TO(FAILED),
	[GODWIT_STATE_UNDECIDED] = TO(POSTCOPY) | TO(DONE),
	[GODWIT_STATE_POSTCOPY] = TO(PAUSED) | TO(DONE),
	[GODWIT_STATE_PAUSED] = TO(POSTCOPY),
	[GODWIT_STATE_DONE] = 0,
	[GODWIT_STATE_CANCELLED] = 0,
	[GODWIT_STATE_FAILED] = 0,
};
static_assert(GW_ARRAY_SIZE(edges) == GODWIT_N_STATES, "edges for every state");

static const char *const names[] = {
	[GODWIT_STATE_PREPARE] = "prepare",
	[GODWIT_STATE_PRECOPY] = "precopy",
	[GODWIT_STATE_STOPCOPY] = "stop-and-copy",
	[GODWIT_STATE_SWITCHOVER] = "switchover",
	[GODWIT_STATE_POSTCOPY] = "postcopy",
	[GODWIT_STATE_PAUSED] = "postcopy-paused",
	[GODWIT_STATE_UNDECIDED] = "undecided",
	[GODWIT_STATE_DONE] = "done",
	[GODWIT_STATE_CANCELLED] = "cancelled",
	[GODWIT_STATE_FAILED] = "failed",
};
static_assert(GW_ARRAY_SIZE(names) == GODWIT_N_STATES, "a name for every state");

const char *godwit_state_name(enum godwit_state state)
{
	return (unsigned int)state < GODWIT_N_STATES ? names[state] : "(unknown)";
}

bool gw_state_may_follow(enum godwit_state from, enum godwit_state to)
{
	return edges[from] >> to & 1;
}

bool gw_state_is_final(enum godwit_state state)
{
	return !edges[state];
}

bool gw_state_is_committed(enum godwit_state state)
{
	return (TO(UNDECIDED) | TO(POSTCOPY) | TO(PAUSED) | TO(DONE)) >> state & 1;
}
