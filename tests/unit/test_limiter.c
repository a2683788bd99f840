/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The token bucket: as fast as allowed, no faster, and never a trap. */
#include <criterion/criterion.h>
#include <pthread.h>

#include "base/util.h"
#include "multifd/limiter.h"

#define MS  1000000ULL
#define MIB (1ULL << 20)

struct taker {
	pthread_t thread;
	struct gw_limiter *limiter;
	uint64_t bytes; /* at a time */
	unsigned int times;
};

static void *take(void *arg)
{
	struct taker *taker = arg;

	for (unsigned int i = 0; i < taker->times; i++)
		gw_limiter_take(taker->limiter, taker->bytes);
	return NULL;
}

static void start(struct taker *taker, struct gw_limiter *limiter, uint64_t bytes,
		  unsigned int times)
{
	*taker = (struct taker){.limiter = limiter, .bytes = bytes, .times = times};
	cr_assert_eq(pthread_create(&taker->thread, NULL, take, taker), 0);
}

/* How long one taker that found no room waits: long enough to be found waiting. */
static void settle(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 50 * MS}, NULL);
}

Test(limiter, one_taker_gets_its_rate_within_a_tenth)
{
	struct gw_limiter limiter;
	uint64_t begun, took;

	gw_limiter_init(&limiter, 100 * MIB);
	begun = gw_now();
	for (unsigned int i = 0; i < 50; i++)
		gw_limiter_take(&limiter, MIB);
	took = gw_now() - begun;
	cr_assert(took > 450 * MS && took < 550 * MS, "%llu ms for 500 ms worth",
		  (unsigned long long)(took / MS));
	gw_limiter_deinit(&limiter);
}

Test(limiter, many_takers_share_one_rate)
{
	struct gw_limiter limiter;
	struct taker takers[7];
	uint64_t begun, took;

	gw_limiter_init(&limiter, 140 * MIB);
	begun = gw_now();
	for (unsigned int i = 0; i < GW_ARRAY_SIZE(takers); i++)
		start(&takers[i], &limiter, MIB / 2, 20);
	for (unsigned int i = 0; i < GW_ARRAY_SIZE(takers); i++)
		pthread_join(takers[i].thread, NULL);
	took = gw_now() - begun;
	cr_assert(took > 450 * MS && took < 550 * MS, "%llu ms for 500 ms worth",
		  (unsigned long long)(took / MS));
	gw_limiter_deinit(&limiter);
}

Test(limiter, a_piece_larger_than_the_bucket_is_paid_for_in_full)
{
	struct gw_limiter limiter;
	uint64_t begun = gw_now(), took;

	gw_limiter_init(&limiter, 10 * MIB);
	gw_limiter_take(&limiter, 3 * MIB);
	took = gw_now() - begun;
	cr_assert(took > 270 * MS && took < 350 * MS, "%llu ms",
		  (unsigned long long)(took / MS));
	gw_limiter_deinit(&limiter);
}

Test(limiter, an_idle_second_is_not_paid_back_as_a_burst)
{
	struct gw_limiter limiter;
	uint64_t begun, took;

	gw_limiter_init(&limiter, 100 * MIB);
	nanosleep(&(struct timespec){.tv_nsec = 600 * MS}, NULL);
	begun = gw_now();
	for (unsigned int i = 0; i < 30; i++)
		gw_limiter_take(&limiter, MIB);
	took = gw_now() - begun;
	/* A tenth of a second is in the bucket, the other 20 MiB take their time. */
	cr_assert(took > 180 * MS && took < 250 * MS, "%llu ms",
		  (unsigned long long)(took / MS));
	gw_limiter_deinit(&limiter);
}

Test(limiter, without_a_rate_nobody_waits)
{
	struct gw_limiter limiter;
	uint64_t begun = gw_now();

	gw_limiter_init(&limiter, 0);
	cr_assert_eq(gw_limiter_rate(&limiter), 0);
	for (unsigned int i = 0; i < 1000; i++)
		gw_limiter_take(&limiter, UINT64_MAX / 2);
	cr_assert_lt(gw_now() - begun, 100 * MS);
	gw_limiter_deinit(&limiter);
}

Test(limiter, a_stop_wakes_who_waits_and_lets_everybody_through)
{
	struct gw_limiter limiter;
	struct taker taker;
	uint64_t begun = gw_now();

	gw_limiter_init(&limiter, 1);
	start(&taker, &limiter, MIB, 3);
	settle();
	gw_limiter_stop(&limiter);
	pthread_join(taker.thread, NULL);
	gw_limiter_take(&limiter, MIB);
	cr_assert_lt(gw_now() - begun, 1000 * MS);
	gw_limiter_deinit(&limiter);
}

Test(limiter, a_new_rate_holds_for_who_waits_already)
{
	struct gw_limiter limiter;
	struct taker taker;
	uint64_t begun = gw_now();

	gw_limiter_init(&limiter, 1);
	start(&taker, &limiter, MIB, 2);
	settle();
	gw_limiter_set_rate(&limiter, 100 * MIB);
	cr_assert_eq(gw_limiter_rate(&limiter), 100 * MIB);
	pthread_join(taker.thread, NULL);
	cr_assert_lt(gw_now() - begun, 1000 * MS);
	gw_limiter_deinit(&limiter);
}

Test(limiter, lifting_the_limit_lets_who_waits_go)
{
	struct gw_limiter limiter;
	struct taker taker;
	uint64_t begun = gw_now();

	gw_limiter_init(&limiter, 1);
	start(&taker, &limiter, MIB, 2);
	settle();
	gw_limiter_set_rate(&limiter, 0);
	pthread_join(taker.thread, NULL);
	cr_assert_lt(gw_now() - begun, 1000 * MS);
	gw_limiter_deinit(&limiter);
}

Test(limiter, a_limit_set_while_running_holds_from_then_on)
{
	struct gw_limiter limiter;
	uint64_t begun, took;

	gw_limiter_init(&limiter, 0);
	gw_limiter_take(&limiter, 1ULL << 40);
	gw_limiter_set_rate(&limiter, 100 * MIB);
	begun = gw_now();
	for (unsigned int i = 0; i < 20; i++)
		gw_limiter_take(&limiter, MIB);
	took = gw_now() - begun;
	cr_assert(took > 180 * MS && took < 250 * MS, "%llu ms",
		  (unsigned long long)(took / MS));
	gw_limiter_deinit(&limiter);
}
