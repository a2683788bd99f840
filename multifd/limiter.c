/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A token bucket that all bulk channels share. */
#include "multifd/limiter.h"

#include "base/util.h"

/* How much of a second the bucket holds. */
#define BUCKET_SECONDS 0.1

void gw_limiter_init(struct gw_limiter *limiter, uint64_t rate)
{
	pthread_condattr_t attr;

	*limiter = (struct gw_limiter){.rate = rate, .filled_at = gw_now()};
	pthread_mutex_init(&limiter->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&limiter->changed, &attr);
	pthread_condattr_destroy(&attr);
}

void gw_limiter_deinit(struct gw_limiter *limiter)
{
	pthread_cond_destroy(&limiter->changed);
	pthread_mutex_destroy(&limiter->lock);
}

void gw_limiter_set_rate(struct gw_limiter *limiter, uint64_t rate)
{
	pthread_mutex_lock(&limiter->lock);
	__atomic_store_n(&limiter->rate, rate, __ATOMIC_RELAXED);
	limiter->tokens = 0;
	limiter->filled_at = gw_now();
	pthread_cond_broadcast(&limiter->changed);
	pthread_mutex_unlock(&limiter->lock);
}

uint64_t gw_limiter_rate(struct gw_limiter *limiter)
{
	return __atomic_load_n(&limiter->rate, __ATOMIC_RELAXED);
}

static void fill(struct gw_limiter *limiter)
{
	uint64_t now = gw_now();
	double rate = (double)limiter->rate;

	limiter->tokens += rate * (double)(now - limiter->filled_at) / (double)GW_NSEC;
	limiter->tokens = GW_MIN(limiter->tokens, rate * BUCKET_SECONDS);
	limiter->filled_at = now;
}

static void wait_for_tokens(struct gw_limiter *limiter)
{
	uint64_t until = gw_now() + (uint64_t)(-limiter->tokens / (double)limiter->rate *
					       (double)GW_NSEC);
	struct timespec ts = {
		.tv_sec = (time_t)(until / GW_NSEC),
		.tv_nsec = (long)(until % GW_NSEC),
	};

	pthread_cond_timedwait(&limiter->changed, &limiter->lock, &ts);
}

void gw_limiter_take(struct gw_limiter *limiter, uint64_t bytes)
{
	/* The unlimited case must not meet in a lock. */
	if (!gw_limiter_rate(limiter))
		return;
	pthread_mutex_lock(&limiter->lock);
	fill(limiter);
	limiter->tokens -= (double)bytes;
	while (limiter->rate && !limiter->stopped && limiter->tokens < 0) {
		wait_for_tokens(limiter);
		fill(limiter);
	}
	pthread_mutex_unlock(&limiter->lock);
}

void gw_limiter_stop(struct gw_limiter *limiter)
{
	pthread_mutex_lock(&limiter->lock);
	limiter->stopped = true;
	pthread_cond_broadcast(&limiter->changed);
	pthread_mutex_unlock(&limiter->lock);
}
