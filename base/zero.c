/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Is a unit of memory all zero? */
#include "base/zero.h"

#include "base/util.h"

bool gw_unit_is_zero(const void *unit)
{
	const uint64_t *word = unit;

	/* The ends first: headers and trailers make most pages non-zero there. */
	if (word[0] | word[GW_UNIT_SIZE / 8 - 1])
		return false;
	/* Eight words a step: the compiler makes wide loads of it. */
	for (unsigned int i = 0; i < GW_UNIT_SIZE / 8; i += 8) {
		uint64_t any = 0;

		for (unsigned int j = 0; j < 8; j++)
			any |= word[i + j];
		if (any)
			return false;
	}
	return true;
}
