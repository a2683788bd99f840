/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The states of a migration and the edges between them. One table serves both
 * sides: what a side may do in a state is written in source.c and dest.c.
 */
#pragma once

#include <stdbool.h>

#include "godwit/godwit.h"

/* Whether a migration may go from @from to @to. */
bool gw_state_may_follow(enum godwit_state from, enum godwit_state to);
/* Whether nothing follows. */
bool gw_state_is_final(enum godwit_state state);
/* Whether the guest may belong to the destination already: no way back. */
bool gw_state_is_committed(enum godwit_state state);
