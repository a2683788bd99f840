/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bitmaps against one bool a bit, and taking and claiming bits from several threads. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/util.h"

/* No multiple of 64, so that the last word is partly used. */
#define N_BITS 1337U

static uint64_t seed = 88172645463325252ULL;

static uint64_t next_random(uint64_t limit)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % limit;
}

static void random_range(uint64_t *first, uint64_t *count)
{
	*first = next_random(N_BITS + 1);
	*count = next_random(N_BITS - *first + 1);
	/* Short ranges within one word are where masks go wrong. */
	if (next_random(2) && *count > 70)
		*count = next_random(70);
}

static uint64_t model_count(const bool *model, uint64_t first, uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = first; i < first + count; i++)
		sum += model[i];
	return sum;
}

static uint64_t model_next(const bool *model, uint64_t from, uint64_t end, bool value)
{
	while (from < end && model[from] != value)
		from++;
	return GW_MIN(from, end);
}

static void assert_same(const struct gw_bitmap *map, const bool *model)
{
	uint64_t first, count, end;

	for (uint64_t i = 0; i < N_BITS; i++)
		cr_assert_eq(gw_bitmap_test(map, i), model[i], "bit %lu", i);
	cr_assert_eq(gw_bitmap_count(map), model_count(model, 0, N_BITS));
	for (int i = 0; i < 20; i++) {
		random_range(&first, &count);
		end = first + count;
		cr_assert_eq(gw_bitmap_count_range(map, first, count),
			     model_count(model, first, count));
		cr_assert_eq(gw_bitmap_next_set(map, first, end),
			     model_next(model, first, end, true));
		cr_assert_eq(gw_bitmap_next_clear(map, first, end),
			     model_next(model, first, end, false));
	}
}

Test(bitmap, random_changes_match_a_naive_model)
{
	static bool model[N_BITS];
	struct gw_bitmap map;

	cr_assert_eq(gw_bitmap_init(&map, N_BITS), 0);
	for (int round = 0; round < 500; round++) {
		uint64_t first, count, bit = next_random(N_BITS);
		bool set = next_random(2);

		random_range(&first, &count);
		if (set)
			gw_bitmap_set_range(&map, first, count);
		else
			gw_bitmap_clear_range(&map, first, count);
		memset(model + first, set, count);
		cr_assert_eq(gw_bitmap_test_and_set(&map, bit), model[bit]);
		model[bit] = true;
		bit = next_random(N_BITS);
		cr_assert_eq(gw_bitmap_test_and_clear(&map, bit), model[bit]);
		model[bit] = false;
		assert_same(&map, model);
	}
	gw_bitmap_deinit(&map);
}

Test(bitmap, runs_are_walked_in_order_and_whole)
{
	struct gw_bitmap map, seen;

	cr_assert_eq(gw_bitmap_init(&map, N_BITS), 0);
	for (int round = 0; round < 200; round++) {
		uint64_t from, count, first, len, before = 0;

		random_range(&first, &len);
		gw_bitmap_set_range(&map, first, len);
		random_range(&first, &len);
		gw_bitmap_clear_range(&map, first, len);
		random_range(&from, &count);
		cr_assert_eq(gw_bitmap_init(&seen, N_BITS), 0);
		gw_bitmap_for_each_run(&map, from, from + count, a, b) {
			cr_assert(a < b && b <= from + count && a >= from);
			cr_assert(!before || a > before, "runs touch");
			before = b;
			gw_bitmap_set_range(&seen, a, b - a);
		}
		for (uint64_t i = 0; i < N_BITS; i++)
			cr_assert_eq(gw_bitmap_test(&seen, i),
				     i >= from && i < from + count &&
					     gw_bitmap_test(&map, i));
		gw_bitmap_deinit(&seen);
	}
	gw_bitmap_deinit(&map);
}

Test(bitmap, taking_returns_the_bits_and_clears_them)
{
	struct gw_bitmap map;
	uint64_t mask[8];

	cr_assert_eq(gw_bitmap_init(&map, N_BITS), 0);
	gw_bitmap_set_range(&map, 3, 130);
	cr_assert_eq(gw_bitmap_take(&map, 0, 512, mask), 130);
	cr_assert_eq(mask[0], ~0ULL << 3);
	cr_assert_eq(mask[1], ~0ULL);
	cr_assert_eq(mask[2], 0x1f);
	for (int i = 3; i < 8; i++)
		cr_assert_eq(mask[i], 0);
	cr_assert_eq(gw_bitmap_count(&map), 0);
	cr_assert_eq(gw_bitmap_take(&map, 0, 512, mask), 0);
	gw_bitmap_deinit(&map);
}

Test(bitmap, the_end_of_the_bitmap_can_be_taken)
{
	struct gw_bitmap map;
	uint64_t mask[1];

	cr_assert_eq(gw_bitmap_init(&map, N_BITS), 0);
	gw_bitmap_set_range(&map, N_BITS - 1, 1);
	cr_assert_eq(gw_bitmap_take(&map, 1280, N_BITS - 1280, mask), 1);
	cr_assert_eq(mask[0], 1ULL << (N_BITS - 1 - 1280));
	gw_bitmap_deinit(&map);
}

#define SHARED_BITS (1U << 18)

struct taker {
	struct gw_bitmap *map;
	uint64_t n;
	uint8_t *times; /* how often this thread got each bit */
};

static void *take_everything(void *arg)
{
	struct taker *taker = arg;
	uint64_t mask[8];

	for (int pass = 0; pass < 4; pass++) {
		for (uint64_t first = 0; first < SHARED_BITS; first += 512) {
			taker->n += gw_bitmap_take(taker->map, first, 512, mask);
			for (unsigned int i = 0; i < 512; i++)
				taker->times[first + i] += mask[i / 64] >> (i % 64) & 1;
		}
	}
	return NULL;
}

Test(bitmap, two_threads_take_every_bit_exactly_once)
{
	struct gw_bitmap map;
	struct taker takers[2];
	pthread_t threads[2];

	cr_assert_eq(gw_bitmap_init(&map, SHARED_BITS), 0);
	gw_bitmap_set_range(&map, 0, SHARED_BITS);
	for (int i = 0; i < 2; i++) {
		takers[i] = (struct taker){.map = &map, .times = calloc(1, SHARED_BITS)};
		pthread_create(&threads[i], NULL, take_everything, &takers[i]);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	cr_assert_eq(takers[0].n + takers[1].n, SHARED_BITS);
	for (unsigned int i = 0; i < SHARED_BITS; i++)
		cr_assert_eq(takers[0].times[i] + takers[1].times[i], 1, "bit %u", i);
	free(takers[0].times);
	free(takers[1].times);
	gw_bitmap_deinit(&map);
}

static void *claim_bits(void *arg)
{
	struct taker *taker = arg;

	for (unsigned int i = 0; i < SHARED_BITS; i++)
		taker->n += !gw_bitmap_test_and_set(taker->map, i);
	return NULL;
}

Test(bitmap, two_threads_claim_every_single_bit_once)
{
	struct gw_bitmap map;
	struct taker takers[2];
	pthread_t threads[2];

	cr_assert_eq(gw_bitmap_init(&map, SHARED_BITS), 0);
	for (int i = 0; i < 2; i++) {
		takers[i] = (struct taker){.map = &map};
		pthread_create(&threads[i], NULL, claim_bits, &takers[i]);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	cr_assert_eq(takers[0].n + takers[1].n, SHARED_BITS);
	gw_bitmap_deinit(&map);
}

/* ---- claiming runs ---- */

/* What gw_bitmap_claim_run() is to return, with the run's start in *@first. */
static uint64_t model_claim(bool *model, const bool *of, uint64_t *first, uint64_t last)
{
	uint64_t at = *first, n = 0;

	while (at < last && (!of[at] || model[at]))
		at++;
	*first = at;
	for (; at < last && of[at] && !model[at]; at++, n++)
		model[at] = true;
	return n;
}

static void random_bits(struct gw_bitmap *map, bool *model, unsigned int ranges)
{
	uint64_t first, count;

	gw_bitmap_clear_all(map);
	memset(model, 0, N_BITS);
	for (unsigned int i = 0; i < ranges; i++) {
		random_range(&first, &count);
		gw_bitmap_set_range(map, first, count);
		memset(model + first, true, count);
	}
}

Test(bitmap, random_claims_match_a_naive_model)
{
	static bool model[N_BITS], of_model[N_BITS];
	struct gw_bitmap map, of;
	uint64_t first, count, n, at, model_at;

	cr_assert_eq(gw_bitmap_init(&map, N_BITS), 0);
	cr_assert_eq(gw_bitmap_init(&of, N_BITS), 0);
	for (int round = 0; round < 2000; round++) {
		random_bits(&map, model, (unsigned int)next_random(6));
		random_bits(&of, of_model, (unsigned int)next_random(6));
		random_range(&first, &count);
		at = first;
		do {
			model_at = at;
			n = gw_bitmap_claim_run(&map, &of, &at, first + count);
			cr_assert_eq(n, model_claim(model, of_model, &model_at,
						    first + count));
			cr_assert(!n || at == model_at, "%lu, not %lu", at, model_at);
			at += n;
		} while (n);
		for (uint64_t i = 0; i < N_BITS; i++) {
			cr_assert_eq(gw_bitmap_test(&map, i), model[i], "bit %lu", i);
			cr_assert_eq(gw_bitmap_test(&of, i), of_model[i], "bit %lu", i);
		}
	}
	gw_bitmap_deinit(&map);
	gw_bitmap_deinit(&of);
}

Test(bitmap, a_run_is_claimed_whole_across_words)
{
	struct gw_bitmap map, of;
	uint64_t first;

	cr_assert_eq(gw_bitmap_init(&map, N_BITS), 0);
	cr_assert_eq(gw_bitmap_init(&of, N_BITS), 0);
	gw_bitmap_set_range(&of, 60, 200); /* 60 to 259 */
	gw_bitmap_set_range(&of, N_BITS - 1, 1);
	first = 0;
	cr_assert_eq(gw_bitmap_claim_run(&map, &of, &first, N_BITS), 200);
	cr_assert_eq(first, 60);
	first = 60;
	cr_assert_eq(gw_bitmap_claim_run(&map, &of, &first, N_BITS), 1);
	cr_assert_eq(first, N_BITS - 1);
	cr_assert_eq(gw_bitmap_count(&map), 201);
	/* Of what is left nothing is claimed, nor beyond the bounds. */
	first = 0;
	cr_assert_eq(gw_bitmap_claim_run(&map, &of, &first, N_BITS), 0);
	gw_bitmap_clear_all(&map);
	first = 100;
	cr_assert_eq(gw_bitmap_claim_run(&map, &of, &first, 192), 92);
	cr_assert_eq(first, 100);
	cr_assert_eq(gw_bitmap_count(&map), 92);
	gw_bitmap_deinit(&map);
	gw_bitmap_deinit(&of);
}

/* Claims [@begin, @end) in a bitmap where bit @clash alone is claimed already. */
static void claim_around(uint64_t begin, uint64_t end, uint64_t clash)
{
	struct gw_bitmap map, of;
	uint64_t first = 0, n;

	cr_assert_eq(gw_bitmap_init(&map, N_BITS), 0);
	cr_assert_eq(gw_bitmap_init(&of, N_BITS), 0);
	gw_bitmap_set_range(&of, begin, end - begin);
	gw_bitmap_set_range(&map, clash, 1);
	if (clash > begin) {
		n = gw_bitmap_claim_run(&map, &of, &first, N_BITS);
		cr_assert_eq(first, begin);
		cr_assert_eq(n, clash - begin);
		/* What lies behind the clash is nobody's. */
		cr_assert_eq(gw_bitmap_count(&map), n + 1);
		first += n;
	}
	n = gw_bitmap_claim_run(&map, &of, &first, N_BITS);
	cr_assert_eq(n, end - clash - 1);
	cr_assert(!n || first == clash + 1);
	cr_assert_eq(gw_bitmap_count(&map), end - begin);
	cr_assert_eq(gw_bitmap_count_range(&map, begin, end - begin), end - begin);
	gw_bitmap_deinit(&map);
	gw_bitmap_deinit(&of);
}

Test(bitmap, a_claim_stops_before_what_is_claimed_and_goes_on_behind_it)
{
	/* within a word, a whole one, up to its end, from its start, over three */
	static const struct {
		uint64_t begin, end;
	} runs[] = {{70, 90}, {64, 128}, {100, 128}, {64, 80}, {50, 200}, {127, 129}};

	for (size_t i = 0; i < GW_ARRAY_SIZE(runs); i++)
		for (uint64_t clash = runs[i].begin; clash < runs[i].end; clash++)
			claim_around(runs[i].begin, runs[i].end, clash);
}

#define CLAIMERS   4
#define CLAIM_BITS (1U << 17)

struct claimer {
	struct gw_bitmap *map, *of;
	pthread_barrier_t *begin;
	uint8_t *times;	    /* how often each bit was claimed by anybody; atomic */
	uint64_t piece;	    /* bits that are looked at in one go */
	uint64_t stride;    /* odd: pieces from one to the next */
	bool clears;	    /* bits of @of when they are claimed, as a pager does */
	unsigned int waits; /* other threads get in between: every so many runs */
};

static void claim_piece(const struct claimer *claimer, uint64_t first)
{
	uint64_t last = first + claimer->piece, n, runs = 0;

	while ((n = gw_bitmap_claim_run(claimer->map, claimer->of, &first, last))) {
		for (uint64_t i = first; i < first + n; i++)
			__atomic_fetch_add(&claimer->times[i], 1, __ATOMIC_RELAXED);
		if (claimer->waits && runs++ % claimer->waits == 0)
			sched_yield();
		if (claimer->clears)
			gw_bitmap_clear_range(claimer->of, first, n);
		first += n;
	}
}

static void *claim_pieces(void *arg)
{
	const struct claimer *claimer = arg;

	pthread_barrier_wait(claimer->begin);
	for (uint64_t i = 0; i < CLAIM_BITS / claimer->piece; i++)
		claim_piece(claimer, i * claimer->piece * claimer->stride % CLAIM_BITS);
	return NULL;
}

/* All claim all bits, in pieces of different sizes: each bit goes to one, once. */
static void claim_together(bool clears)
{
	/* Forward, forward, all over the place, backward. */
	static const uint64_t pieces[CLAIMERS] = {512, 64, 1, 512};
	static const uint64_t strides[CLAIMERS] = {1, 1, 40503, CLAIM_BITS / 512 - 1};
	GW_AUTO_FREE uint8_t *times = calloc(1, CLAIM_BITS);
	struct claimer claimers[CLAIMERS];
	pthread_t threads[CLAIMERS];
	pthread_barrier_t begin;
	struct gw_bitmap map, of;

	cr_assert_eq(gw_bitmap_init(&map, CLAIM_BITS), 0);
	cr_assert_eq(gw_bitmap_init(&of, CLAIM_BITS), 0);
	/* A bit that is nobody's to claim here and there makes runs of all lengths. */
	gw_bitmap_set_range(&of, 0, CLAIM_BITS);
	for (uint64_t i = next_random(300); i < CLAIM_BITS; i += 1 + next_random(300)) {
		gw_bitmap_clear_range(&of, i, 1);
		times[i] = 1;
	}
	pthread_barrier_init(&begin, NULL, CLAIMERS);
	for (unsigned int i = 0; i < CLAIMERS; i++) {
		claimers[i] = (struct claimer){
			.map = &map,
			.of = &of,
			.begin = &begin,
			.times = times,
			.piece = pieces[i],
			.stride = strides[i],
			.clears = clears,
			.waits = i * 16,
		};
		pthread_create(&threads[i], NULL, claim_pieces, &claimers[i]);
	}
	for (unsigned int i = 0; i < CLAIMERS; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&begin);
	for (unsigned int i = 0; i < CLAIM_BITS; i++)
		cr_assert_eq(times[i], 1, "bit %u: %u times", i, times[i]);
	if (clears)
		cr_assert_eq(gw_bitmap_count(&of), 0);
	else
		cr_assert_eq(gw_bitmap_count(&map), gw_bitmap_count(&of));
	gw_bitmap_deinit(&map);
	gw_bitmap_deinit(&of);
}

Test(bitmap, several_threads_claim_every_bit_exactly_once, .timeout = 60)
{
	for (int round = 0; round < 100; round++)
		claim_together(false);
}

Test(bitmap, no_bit_is_claimed_again_or_lost_when_claimed_ones_are_cleared, .timeout = 60)
{
	for (int round = 0; round < 100; round++)
		claim_together(true);
}

/* ---- sizes ---- */

Test(bitmap, an_empty_bitmap_takes_every_question)
{
	struct gw_bitmap map;
	uint64_t first = 0;

	cr_assert_eq(gw_bitmap_init(&map, 0), 0);
	gw_bitmap_clear_all(&map);
	gw_bitmap_set_range(&map, 0, 0);
	cr_assert_eq(gw_bitmap_bytes(&map), 0);
	cr_assert_eq(gw_bitmap_count(&map), 0);
	cr_assert_eq(gw_bitmap_next_set(&map, 0, 0), 0);
	cr_assert_eq(gw_bitmap_claim_run(&map, &map, &first, 0), 0);
	gw_bitmap_deinit(&map);
}

Test(bitmap, clearing_all)
{
	struct gw_bitmap map;

	cr_assert_eq(gw_bitmap_init(&map, N_BITS), 0);
	gw_bitmap_set_range(&map, 0, 20);
	gw_bitmap_clear_all(&map);
	cr_assert_eq(gw_bitmap_count(&map), 0);
	gw_bitmap_deinit(&map);
}

Test(bitmap, a_terabyte_of_guest_costs_no_memory_until_touched)
{
	struct gw_bitmap map;

	cr_assert_eq(gw_bitmap_init(&map, (1ULL << 40) / GW_UNIT_SIZE), 0);
	cr_assert_eq(gw_bitmap_bytes(&map), 32ULL << 20);
	cr_assert(!gw_bitmap_test_and_set(&map, (1ULL << 28) - 1));
	gw_bitmap_deinit(&map);
}
