/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Is a unit of memory all zero? */
#pragma once

#include <stdbool.h>

/* @unit: GW_UNIT_SIZE bytes, aligned to 16. Most units fail at the first word. */
bool gw_unit_is_zero(const void *unit);
