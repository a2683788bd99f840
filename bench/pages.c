/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory contents to measure with.
 *
 * `half` alternates runs of random and of zero pages, 1 to 128 pages long and a
 * pair of equal length each time, so that the sender meets long and short ones.
 *
 * `text` is words of a made-up language of 511 words with the frequencies of a
 * natural one (the N-th most frequent word comes 1/N as often as the first),
 * separated by blanks.
 *
 * `real` stands for the memory of a server that does some work. Runs of 1 to 64
 * pages of one sort: of 20 runs 6 are zero (free or never used), 5 text (page
 * cache, strings), 6 structures, 3 random (what is compressed or encrypted
 * already). A structure has 64 bytes: two pointers into the same heap, a few
 * small integers, a flag word and room that is zero, as allocators leave it.
 */
#include "bench/pages.h"

#include <assert.h>
#include <string.h>

#include "base/util.h"

#define HALF_RUN_MAX 128U
#define REAL_RUN_MAX 64U

/* Words of each frequency class: 1, 2, 4, … More classes make LZ4's work harder. */
#define WORD_OCTAVES 9U
#define WORDS	     ((1U << WORD_OCTAVES) - 1)
#define WORD_MAX     15U

static const char *const names[] = {
	[BENCH_PAGES_RANDOM] = "random", [BENCH_PAGES_ZERO] = "zero",
	[BENCH_PAGES_HALF] = "half",	 [BENCH_PAGES_TEXT] = "text",
	[BENCH_PAGES_REAL] = "real",
};
static_assert(GW_ARRAY_SIZE(names) == BENCH_N_PAGES, "a name for every kind");

const char *bench_pages_name(enum bench_pages kind)
{
	return names[kind];
}

/* SplitMix64: any state will do, and the next one is an addition away. */
uint64_t bench_rng_next(struct bench_rng *rng)
{
	uint64_t z = rng->state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

uint64_t bench_rng_below(struct bench_rng *rng, uint64_t below)
{
	return (uint64_t)((unsigned __int128)bench_rng_next(rng) * below >> 64);
}

/* Where the next pages go. */
struct maker {
	struct bench_rng rng;
	uint8_t *at, *end;
	char words[WORDS][WORD_MAX + 1];
	uint8_t lengths[WORDS];
};

/* Up to @pages more pages: how many bytes that is. */
static uint64_t room(const struct maker *maker, uint64_t pages)
{
	return GW_MIN(pages << GW_UNIT_SHIFT, (uint64_t)(maker->end - maker->at));
}

static void put_random(struct maker *maker, uint64_t pages)
{
	uint64_t *word = (uint64_t *)maker->at;
	uint64_t bytes = room(maker, pages);

	for (uint64_t i = 0; i < bytes / 8; i++)
		word[i] = bench_rng_next(&maker->rng);
	maker->at += bytes;
}

static void put_zero(struct maker *maker, uint64_t pages)
{
	uint64_t bytes = room(maker, pages);

	memset(maker->at, 0, bytes);
	maker->at += bytes;
}

/* ---- text ---- */

static void make_words(struct maker *maker)
{
	static const char letters[] = "eeeeetttaaaooiinnsshhrrddllucmwfgypbvk";

	for (unsigned int i = 0; i < WORDS; i++) {
		/* frequent words are short ones */
		unsigned int shortest = i < 32 ? 1 : 3;
		unsigned int len =
			shortest + (unsigned int)bench_rng_below(&maker->rng, 6);

		for (unsigned int j = 0; j < len; j++)
			maker->words[i][j] = letters[bench_rng_below(
				&maker->rng, sizeof(letters) - 1)];
		maker->words[i][len] = ' ';
		maker->lengths[i] = (uint8_t)(len + 1);
	}
}

/* As likely as 1/rank: evenly among octaves of ranks, evenly within each. */
static unsigned int choose_word(struct maker *maker)
{
	unsigned int octave = (unsigned int)bench_rng_below(&maker->rng, WORD_OCTAVES);

	return (1U << octave) - 1 +
	       (unsigned int)bench_rng_below(&maker->rng, 1U << octave);
}

static void put_text(struct maker *maker, uint64_t pages)
{
	uint8_t *end = maker->at + room(maker, pages);

	while (maker->at < end) {
		unsigned int word = choose_word(maker);
		size_t len = GW_MIN(maker->lengths[word], (size_t)(end - maker->at));

		memcpy(maker->at, maker->words[word], len);
		maker->at += len;
	}
}

/* ---- structures ---- */

struct object {
	uint64_t next;
	uint64_t owner;
	uint32_t flags;
	uint32_t count;
	uint32_t length;
	uint32_t capacity;
	uint64_t time;
	uint64_t unused[3];
};
static_assert(sizeof(struct object) == 64, "a cache line");

/* 16 bytes apart within 256 MiB: what a heap of some size gives. */
static uint64_t heap_pointer(struct maker *maker)
{
	return 0x7f3a40000000ULL + (bench_rng_below(&maker->rng, 1U << 24) << 4);
}

static void put_objects(struct maker *maker, uint64_t pages)
{
	uint8_t *end = maker->at + room(maker, pages);

	for (; maker->at < end; maker->at += sizeof(struct object)) {
		struct object *object = (struct object *)maker->at;

		*object = (struct object){
			.next = heap_pointer(maker),
			.owner = heap_pointer(maker),
			.flags = 1U << bench_rng_below(&maker->rng, 4),
			.count = (uint32_t)bench_rng_below(&maker->rng, 8),
			.length = (uint32_t)bench_rng_below(&maker->rng, 200),
			.capacity = 256,
			.time = 1700000000000000ULL +
				bench_rng_below(&maker->rng, 1ULL << 36),
		};
	}
}

/* ---- mixtures ---- */

static void put_half(struct maker *maker)
{
	while (maker->at < maker->end) {
		uint64_t pages = 1 + bench_rng_below(&maker->rng, HALF_RUN_MAX);
		uint64_t left = (uint64_t)(maker->end - maker->at) >> GW_UNIT_SHIFT;

		/* the last pair fits too; of an odd page more it is the random one */
		pages = GW_MIN(pages, GW_MAX(left / 2, 1U));
		put_random(maker, pages);
		put_zero(maker, pages);
	}
}

static void put_real(struct maker *maker)
{
	while (maker->at < maker->end) {
		uint64_t pages = 1 + bench_rng_below(&maker->rng, REAL_RUN_MAX);
		uint64_t sort = bench_rng_below(&maker->rng, 20);

		if (sort < 6)
			put_zero(maker, pages);
		else if (sort < 11)
			put_text(maker, pages);
		else if (sort < 17)
			put_objects(maker, pages);
		else
			put_random(maker, pages);
	}
}

void bench_pages_fill(enum bench_pages kind, uint64_t seed, void *memory, uint64_t size)
{
	struct maker maker = {
		.rng = {.state = seed ^ (uint64_t)kind << 56},
		.at = memory,
		.end = (uint8_t *)memory + size,
	};
	uint64_t all = size >> GW_UNIT_SHIFT;

	make_words(&maker);
	switch (kind) {
	case BENCH_PAGES_RANDOM:
		return put_random(&maker, all);
	case BENCH_PAGES_ZERO:
		return put_zero(&maker, all);
	case BENCH_PAGES_HALF:
		return put_half(&maker);
	case BENCH_PAGES_TEXT:
		return put_text(&maker, all);
	case BENCH_PAGES_REAL:
		return put_real(&maker);
	case BENCH_N_PAGES:
		break;
	}
	assert(!"such a kind of pages");
}
