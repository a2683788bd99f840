/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A bounded queue of 64-bit values between threads, which never waits. */
#include "base/queue.h"

#include "base/util.h"

int gw_queue_init(struct gw_queue *queue, uint32_t capacity)
{
	*queue = (struct gw_queue){.capacity = capacity};
	queue->slots = calloc(capacity, sizeof(*queue->slots));
	if (!queue->slots)
		return -ENOMEM;
	pthread_mutex_init(&queue->lock, NULL);
	return 0;
}

void gw_queue_deinit(struct gw_queue *queue)
{
	if (!queue->slots)
		return;
	free(queue->slots);
	queue->slots = NULL;
	pthread_mutex_destroy(&queue->lock);
}

bool gw_queue_put(struct gw_queue *queue, uint64_t value)
{
	bool room;

	pthread_mutex_lock(&queue->lock);
	room = queue->used < queue->capacity;
	if (room) {
		uint32_t slot = (queue->head + queue->used) % queue->capacity;

		queue->slots[slot] = value;
		__atomic_store_n(&queue->used, queue->used + 1, __ATOMIC_RELAXED);
	} else {
		queue->refused++;
	}
	pthread_mutex_unlock(&queue->lock);
	return room;
}

bool gw_queue_take(struct gw_queue *queue, uint64_t *ret_value)
{
	bool any;

	/* The usual answer is "nothing", and it must not cost a lock. */
	if (!__atomic_load_n(&queue->used, __ATOMIC_RELAXED))
		return false;
	pthread_mutex_lock(&queue->lock);
	any = queue->used > 0;
	if (any) {
		*ret_value = queue->slots[queue->head];
		queue->head = (queue->head + 1) % queue->capacity;
		__atomic_store_n(&queue->used, queue->used - 1, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&queue->lock);
	return any;
}
