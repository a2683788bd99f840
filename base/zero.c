/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Is a unit of memory all zero? */
#include "base/zero.h"

#include "base/util.h"

/*
 * The compiler makes SSE2 or NEON of it, which every machine has. Wider loads
 * gain a tenth while the memory is in the second-level cache and nothing while
 * it is not, which is what guest memory is: not worth choosing at run time.
 */
typedef uint64_t vec __attribute__((vector_size(16)));

/* Vectors looked at in one step: as many as keep the loads, not the tests, busy. */
#define STEP 8

bool gw_unit_is_zero(const void *unit)
{
	const vec *at = unit, *end = at + GW_UNIT_SIZE / sizeof(vec);

	/* One cache line decides for most: few pages in use begin with zeroes. */
	if (*(const uint64_t *)unit)
		return false;
	for (; at < end; at += STEP) {
		vec any = ((at[0] | at[1]) | (at[2] | at[3])) |
			  ((at[4] | at[5]) | (at[6] | at[7]));

		if (any[0] | any[1])
			return false;
	}
	return true;
}
