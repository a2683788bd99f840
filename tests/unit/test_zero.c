/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The zero scan: one byte anywhere is enough, and none outside counts. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "base/zero.h"

static uint8_t pages[3 * GW_UNIT_SIZE] __attribute__((aligned(GW_UNIT_SIZE)));

Test(zero, a_page_of_zeroes_is_zero)
{
	cr_assert(gw_unit_is_zero(pages));
}

Test(zero, any_single_byte_makes_it_non_zero)
{
	for (size_t i = 0; i < GW_UNIT_SIZE; i++) {
		pages[i] = 1;
		cr_assert_not(gw_unit_is_zero(pages), "byte %zu was not seen", i);
		pages[i] = 0;
	}
	cr_assert(gw_unit_is_zero(pages));
}

Test(zero, any_single_bit_makes_it_non_zero)
{
	for (size_t bit = 0; bit < 8; bit++) {
		pages[bit * 517] = (uint8_t)(1 << bit);
		cr_assert_not(gw_unit_is_zero(pages), "bit %zu was not seen", bit);
		pages[bit * 517] = 0;
	}
}

Test(zero, neighbours_do_not_count)
{
	memset(pages, 0xff, sizeof(pages));
	memset(pages + GW_UNIT_SIZE, 0, GW_UNIT_SIZE);
	cr_assert(gw_unit_is_zero(pages + GW_UNIT_SIZE));
	cr_assert_not(gw_unit_is_zero(pages));
	cr_assert_not(gw_unit_is_zero(pages + 2 * GW_UNIT_SIZE));
}

/* A single byte too many is a fault that ends this test. */
Test(zero, nothing_outside_the_page_is_read)
{
	uint8_t *map = mmap(NULL, 3 * GW_UNIT_SIZE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(map, MAP_FAILED);
	cr_assert_eq(mprotect(map + GW_UNIT_SIZE, GW_UNIT_SIZE, PROT_READ | PROT_WRITE),
		     0);
	cr_assert(gw_unit_is_zero(map + GW_UNIT_SIZE));
	map[2 * GW_UNIT_SIZE - 1] = 1;
	cr_assert_not(gw_unit_is_zero(map + GW_UNIT_SIZE));
	munmap(map, 3 * GW_UNIT_SIZE);
}
