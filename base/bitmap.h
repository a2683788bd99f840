/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bitmap of guest units, one bit each, in 64-bit words.
 *
 * Single bits and whole words can be set and taken by several threads at
 * once; everything that walks a range wants the bitmap to hold still or
 * accepts a picture that is a moment old. The atomics are relaxed unless a
 * function says otherwise: a bit says "whose turn", never "the bytes are
 * there"; what publishes bytes is the channel or the page table.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct gw_bitmap {
	uint64_t *words;
	uint64_t n_bits;
};

/* Maps @n_bits zero bits (untouched parts cost no memory); 0 or -ENOMEM. */
int gw_bitmap_init(struct gw_bitmap *map, uint64_t n_bits);
void gw_bitmap_deinit(struct gw_bitmap *map);

/* Bytes of address space the bitmap takes. */
uint64_t gw_bitmap_bytes(const struct gw_bitmap *map);

bool gw_bitmap_test(const struct gw_bitmap *map, uint64_t bit);
/* Return what the bit was before. Acquire-release: see fault handling in migrate/. */
bool gw_bitmap_test_and_set(struct gw_bitmap *map, uint64_t bit);
bool gw_bitmap_test_and_clear(struct gw_bitmap *map, uint64_t bit);

void gw_bitmap_set_range(struct gw_bitmap *map, uint64_t first, uint64_t count);
void gw_bitmap_clear_range(struct gw_bitmap *map, uint64_t first, uint64_t count);
/* As gw_bitmap_clear_range(), and says how many bits this call cleared. */
uint64_t gw_bitmap_take_range(struct gw_bitmap *map, uint64_t first, uint64_t count);
void gw_bitmap_clear_all(struct gw_bitmap *map);

uint64_t gw_bitmap_count(const struct gw_bitmap *map);
uint64_t gw_bitmap_count_range(const struct gw_bitmap *map, uint64_t first,
			       uint64_t count);

/* The first set (clear) bit at or after @from and before @end, or @end. */
uint64_t gw_bitmap_next_set(const struct gw_bitmap *map, uint64_t from, uint64_t end);
uint64_t gw_bitmap_next_clear(const struct gw_bitmap *map, uint64_t from, uint64_t end);

/*
 * Sets in @map the first run of bits of [*@first, @last) that are set in @of and
 * were clear in @map, each bit by exactly one of the threads that try: the run's
 * length, with its first bit in *@first, or 0 when there is none. Bits of @of may
 * be cleared meanwhile, as long as they are set in @map by then.
 */
uint64_t gw_bitmap_claim_run(struct gw_bitmap *map, const struct gw_bitmap *of,
			     uint64_t *first, uint64_t last);

/*
 * Takes the bits [@first, @first + @count) into @ret_mask and clears them, each
 * bit by exactly one of the threads that try. @first and @count are multiples
 * of 64 or end at the bitmap's end; @ret_mask holds GW_DIV_UP(@count, 64)
 * words. Returns how many bits were taken.
 */
unsigned int gw_bitmap_take(struct gw_bitmap *map, uint64_t first, unsigned int count,
			    uint64_t *ret_mask);

/*
 * Walks the runs of set bits in [@from, @to): inside the body @first and @last
 * (exclusive) name a run.
 */
#define gw_bitmap_for_each_run(map, from, to, first, last)                               \
	for (uint64_t first = gw_bitmap_next_set(map, from, to),                         \
		      last = gw_bitmap_next_clear(map, first, to);                       \
	     first < (to); first = gw_bitmap_next_set(map, last, to),                    \
		      last = gw_bitmap_next_clear(map, first, to))
