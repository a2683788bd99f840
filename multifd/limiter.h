/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A token bucket that all bulk channels share: `--bandwidth`. It holds a tenth
 * of a second's worth, so that an idle moment is not paid back as a burst.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct gw_limiter {
	pthread_mutex_t lock;	/* a leaf */
	pthread_cond_t changed; /* rate set, or stopped */
	uint64_t rate; /* bytes a second, 0: no limit; under lock, peeked at without */
	double tokens; /* bytes that may go now; negative: owed; under lock */
	uint64_t filled_at; /* ns; under lock */
	bool stopped;	    /* under lock */
};

void gw_limiter_init(struct gw_limiter *limiter, uint64_t rate);
void gw_limiter_deinit(struct gw_limiter *limiter);
void gw_limiter_set_rate(struct gw_limiter *limiter, uint64_t rate);
uint64_t gw_limiter_rate(struct gw_limiter *limiter);
/* Takes @bytes, then waits until they are paid for. At once after gw_limiter_stop(). */
void gw_limiter_take(struct gw_limiter *limiter, uint64_t bytes);
/* Lets everybody go, now and later: the session ends. */
void gw_limiter_stop(struct gw_limiter *limiter);
