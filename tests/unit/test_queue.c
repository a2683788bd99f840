/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The bounded queue: order, fullness, and two threads at it. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>

#include "base/queue.h"
#include "base/util.h"

Test(queue, values_come_out_in_order)
{
	struct gw_queue queue;
	uint64_t value;

	cr_assert_eq(gw_queue_init(&queue, 5), 0);
	/* Around the ring several times, at every fill level. */
	for (uint64_t i = 0; i < 100; i++) {
		for (uint64_t k = 0; k < i % 5 + 1; k++)
			cr_assert(gw_queue_put(&queue, i * 10 + k));
		for (uint64_t k = 0; k < i % 5 + 1; k++) {
			cr_assert(gw_queue_take(&queue, &value));
			cr_assert_eq(value, i * 10 + k);
		}
		cr_assert_not(gw_queue_take(&queue, &value));
	}
	gw_queue_deinit(&queue);
}

Test(queue, an_empty_queue_gives_nothing)
{
	struct gw_queue queue;
	uint64_t value = 42;

	cr_assert_eq(gw_queue_init(&queue, 3), 0);
	cr_assert_not(gw_queue_take(&queue, &value));
	cr_assert_eq(value, 42);
	gw_queue_deinit(&queue);
}

Test(queue, a_full_queue_refuses_and_counts_it)
{
	struct gw_queue queue;
	uint64_t value;

	cr_assert_eq(gw_queue_init(&queue, 3), 0);
	for (uint64_t i = 0; i < 3; i++)
		cr_assert(gw_queue_put(&queue, i));
	cr_assert_not(gw_queue_put(&queue, 99));
	cr_assert_not(gw_queue_put(&queue, 99));
	cr_assert_eq(queue.refused, 2);
	for (uint64_t i = 0; i < 3; i++) {
		cr_assert(gw_queue_take(&queue, &value));
		cr_assert_eq(value, i);
	}
	cr_assert_not(gw_queue_take(&queue, &value));
	gw_queue_deinit(&queue);
}

Test(queue, it_may_be_torn_down_twice)
{
	struct gw_queue queue;

	cr_assert_eq(gw_queue_init(&queue, 3), 0);
	gw_queue_deinit(&queue);
	gw_queue_deinit(&queue);
}

#define VALUES 50000U

struct worker {
	struct gw_queue *queue;
	uint64_t first, taken, sum;
	unsigned int *running; /* putters that are not done; atomic */
};

static void *put_values(void *arg)
{
	struct worker *worker = arg;

	for (uint64_t i = 0; i < VALUES; i++)
		while (!gw_queue_put(worker->queue, worker->first + i))
			sched_yield();
	__atomic_fetch_sub(worker->running, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void *take_values(void *arg)
{
	struct worker *worker = arg;
	uint64_t value;
	bool last;

	for (;;) {
		/* Read before the queue: when it says 0, all values are in. */
		last = !__atomic_load_n(worker->running, __ATOMIC_ACQUIRE);
		if (gw_queue_take(worker->queue, &value)) {
			worker->taken++;
			worker->sum += value;
		} else if (last) {
			return NULL;
		} else {
			sched_yield();
		}
	}
}

Test(queue, threads_lose_and_double_nothing)
{
	unsigned int running = 2;
	struct gw_queue queue;
	struct worker workers[4];
	pthread_t threads[4];
	uint64_t n = 2 * VALUES;

	cr_assert_eq(gw_queue_init(&queue, 64), 0);
	for (unsigned int i = 0; i < 4; i++) {
		workers[i] = (struct worker){
			.queue = &queue, .first = i * VALUES, .running = &running};
		pthread_create(&threads[i], NULL, i < 2 ? put_values : take_values,
			       &workers[i]);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	cr_assert_eq(workers[2].taken + workers[3].taken, n);
	cr_assert_eq(workers[2].sum + workers[3].sum, n * (n - 1) / 2);
	gw_queue_deinit(&queue);
}
