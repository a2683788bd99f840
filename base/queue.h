/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bounded queue of 64-bit values between threads, which never waits: when it
 * is full the new value is refused, when it is empty there is nothing to take.
 * It carries hints (extents near a fault), so a refused one costs time, not
 * correctness; whoever puts must be able to live without.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct gw_queue {
	pthread_mutex_t lock; /* a leaf: nothing is called while it is held */
	uint64_t *slots;
	uint32_t capacity;
	uint32_t head;	  /* next to take, under lock */
	uint32_t used;	  /* under lock; read without it only as a hint */
	uint64_t refused; /* under lock */
};

int gw_queue_init(struct gw_queue *queue, uint32_t capacity);
void gw_queue_deinit(struct gw_queue *queue);
/* False when the queue is full and @value was refused. */
bool gw_queue_put(struct gw_queue *queue, uint64_t value);
/* False when there was nothing. */
bool gw_queue_take(struct gw_queue *queue, uint64_t *ret_value);
