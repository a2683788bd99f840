/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A bitmap of guest units, one bit each, in 64-bit words. */
#include "base/bitmap.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"

#define WORD_BITS 64

static uint64_t n_words(const struct gw_bitmap *map)
{
	return GW_DIV_UP(map->n_bits, WORD_BITS);
}

/* The bits of @word's 64 that lie in [@first, @end). */
static uint64_t range_mask(uint64_t word, uint64_t first, uint64_t end)
{
	uint64_t base = word * WORD_BITS, mask = ~0ULL;

	if (first > base)
		mask &= ~0ULL << (first - base);
	if (end < base + WORD_BITS)
		mask &= ~(~0ULL << (end - base));
	return mask;
}

/*
 * The first word at or after @word and before @last that is not @value. Guests
 * have long holes, so bitmaps have long runs of equal words: eight at a time.
 */
static uint64_t skip_words(const struct gw_bitmap *map, uint64_t word, uint64_t last,
			   uint64_t value)
{
	const uint64_t *words = map->words;

	for (; word + 8 <= last; word += 8) {
		uint64_t differ = 0;

		for (unsigned int i = 0; i < 8; i++)
			differ |= value ^
				  __atomic_load_n(&words[word + i], __ATOMIC_RELAXED);
		if (differ)
			break;
	}
	while (word < last && __atomic_load_n(&words[word], __ATOMIC_RELAXED) == value)
		word++;
	return word;
}

int gw_bitmap_init(struct gw_bitmap *map, uint64_t n_bits)
{
	void *words;

	map->n_bits = n_bits;
	map->words = NULL;
	if (!n_bits)
		return 0;
	words = mmap(NULL, gw_bitmap_bytes(map), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (words == MAP_FAILED)
		return -ENOMEM;
	map->words = words;
	/* A bitmap that is used at all is gone over from end to end. */
	(void)madvise(words, gw_bitmap_bytes(map), MADV_HUGEPAGE);
	return 0;
}

void gw_bitmap_deinit(struct gw_bitmap *map)
{
	if (map->words)
		munmap(map->words, gw_bitmap_bytes(map));
	map->words = NULL;
	map->n_bits = 0;
}

uint64_t gw_bitmap_bytes(const struct gw_bitmap *map)
{
	return n_words(map) * sizeof(uint64_t);
}

bool gw_bitmap_test(const struct gw_bitmap *map, uint64_t bit)
{
	assert(bit < map->n_bits);
	return __atomic_load_n(&map->words[bit / WORD_BITS], __ATOMIC_RELAXED) >>
		       (bit % WORD_BITS) &
	       1;
}

bool gw_bitmap_test_and_set(struct gw_bitmap *map, uint64_t bit)
{
	uint64_t mask = 1ULL << (bit % WORD_BITS);

	assert(bit < map->n_bits);
	return __atomic_fetch_or(&map->words[bit / WORD_BITS], mask, __ATOMIC_ACQ_REL) &
	       mask;
}

bool gw_bitmap_test_and_clear(struct gw_bitmap *map, uint64_t bit)
{
	uint64_t mask = 1ULL << (bit % WORD_BITS);

	assert(bit < map->n_bits);
	return __atomic_fetch_and(&map->words[bit / WORD_BITS], ~mask, __ATOMIC_ACQ_REL) &
	       mask;
}

void gw_bitmap_set_range(struct gw_bitmap *map, uint64_t first, uint64_t count)
{
	uint64_t end = first + count, word;

	assert(end <= map->n_bits && end >= first);
	for (word = first / WORD_BITS; word * WORD_BITS < end; word++) {
		uint64_t mask = range_mask(word, first, end);

		if (mask == ~0ULL)
			__atomic_store_n(&map->words[word], mask, __ATOMIC_RELAXED);
		else
			__atomic_fetch_or(&map->words[word], mask, __ATOMIC_RELAXED);
	}
}

uint64_t gw_bitmap_take_range(struct gw_bitmap *map, uint64_t first, uint64_t count)
{
	uint64_t end = first + count, word, taken = 0;

	assert(end <= map->n_bits && end >= first);
	for (word = first / WORD_BITS; word * WORD_BITS < end; word++) {
		uint64_t mask, old;

		/* The look spares clear words a locked operation. */
		word = skip_words(map, word, GW_DIV_UP(end, WORD_BITS), 0);
		if (word * WORD_BITS >= end)
			break;
		mask = range_mask(word, first, end);
		old = __atomic_fetch_and(&map->words[word], ~mask, __ATOMIC_ACQ_REL);
		taken += (uint64_t)__builtin_popcountll(old & mask);
	}
	return taken;
}

void gw_bitmap_clear_range(struct gw_bitmap *map, uint64_t first, uint64_t count)
{
	(void)gw_bitmap_take_range(map, first, count);
}

void gw_bitmap_clear_all(struct gw_bitmap *map)
{
	gw_bitmap_clear_range(map, 0, map->n_bits);
}

uint64_t gw_bitmap_count(const struct gw_bitmap *map)
{
	return gw_bitmap_count_range(map, 0, map->n_bits);
}

uint64_t gw_bitmap_count_range(const struct gw_bitmap *map, uint64_t first,
			       uint64_t count)
{
	uint64_t end = first + count, word, sum = 0;

	assert(end <= map->n_bits && end >= first);
	for (word = first / WORD_BITS; word * WORD_BITS < end; word++) {
		word = skip_words(map, word, GW_DIV_UP(end, WORD_BITS), 0);
		if (word * WORD_BITS >= end)
			break;
		sum += (uint64_t)__builtin_popcountll(
			__atomic_load_n(&map->words[word], __ATOMIC_RELAXED) &
			range_mask(word, first, end));
	}
	return sum;
}

/* The first bit at or after @from that is set in the words XOR @flip. */
static uint64_t next_bit(const struct gw_bitmap *map, uint64_t from, uint64_t end,
			 uint64_t flip)
{
	uint64_t word;

	assert(end <= map->n_bits);
	for (word = from / WORD_BITS; word * WORD_BITS < end; word++) {
		uint64_t bits = __atomic_load_n(&map->words[word], __ATOMIC_RELAXED);

		bits = (bits ^ flip) & range_mask(word, from, end);
		if (bits)
			return word * WORD_BITS + (uint64_t)__builtin_ctzll(bits);
		word = skip_words(map, word + 1, GW_DIV_UP(end, WORD_BITS), flip) - 1;
	}
	return end;
}

uint64_t gw_bitmap_next_set(const struct gw_bitmap *map, uint64_t from, uint64_t end)
{
	return next_bit(map, from, end, 0);
}

uint64_t gw_bitmap_next_clear(const struct gw_bitmap *map, uint64_t from, uint64_t end)
{
	return next_bit(map, from, end, ~0ULL);
}

unsigned int gw_bitmap_take(struct gw_bitmap *map, uint64_t first, unsigned int count,
			    uint64_t *ret_mask)
{
	unsigned int taken = 0, i;

	assert(first % WORD_BITS == 0);
	assert(first + count <= map->n_bits);
	assert(count % WORD_BITS == 0 || first + count == map->n_bits);
	for (i = 0; i < GW_DIV_UP(count, WORD_BITS); i++) {
		uint64_t *word = &map->words[first / WORD_BITS + i];

		/* The load spares most words a locked exchange: sets are sparse. */
		ret_mask[i] = __atomic_load_n(word, __ATOMIC_RELAXED)
				      ? __atomic_exchange_n(word, 0, __ATOMIC_ACQ_REL)
				      : 0;
		taken += (unsigned int)__builtin_popcountll(ret_mask[i]);
	}
	return taken;
}

/* Bits of the run that starts at @at in its word of @map and before @last. */
static unsigned int run_in_word(const struct gw_bitmap *map, uint64_t at, uint64_t last)
{
	uint64_t bits = __atomic_load_n(&map->words[at / 64], __ATOMIC_ACQUIRE);
	uint64_t room = GW_MIN(last - at, 64 - at % 64);

	bits = ~(bits >> (at % 64));
	return bits ? (unsigned int)GW_MIN((uint64_t)__builtin_ctzll(bits), room)
		    : (unsigned int)room;
}

/*
 * Claims @n bits from @at on, all in one word: how many before the first that
 * somebody else has. What was claimed behind that one is given back: the caller
 * comes by there again, so it is nobody's for a moment only.
 */
static unsigned int claim_in_word(struct gw_bitmap *map, uint64_t at, unsigned int n)
{
	uint64_t *word = &map->words[at / 64];
	uint64_t wanted = (n == 64 ? ~0ULL : (1ULL << n) - 1) << (at % 64);
	uint64_t taken = wanted & __atomic_fetch_or(word, wanted, __ATOMIC_ACQ_REL),
		 below;

	if (!taken)
		return n;
	below = (taken & -taken) - 1;
	__atomic_fetch_and(word, ~(wanted & ~taken & ~below), __ATOMIC_ACQ_REL);
	return (unsigned int)__builtin_ctzll(taken) - (unsigned int)(at % 64);
}

uint64_t gw_bitmap_claim_run(struct gw_bitmap *map, const struct gw_bitmap *of,
			     uint64_t *first, uint64_t last)
{
	uint64_t at = gw_bitmap_next_set(of, *first, last), length = 0;

	while (at < last) {
		unsigned int n = run_in_word(of, at, last);
		unsigned int got = n ? claim_in_word(map, at, n) : 0;

		if (got && !length)
			*first = at;
		length += got;
		at += got;
		/* Only at a word's end may the run go on. */
		if (length && (!n || got < n || at % 64))
			break;
		if (!length) /* the one at @at is somebody else's, or gone by now */
			at = gw_bitmap_next_set(of, at + 1, last);
	}
	return length;
}
