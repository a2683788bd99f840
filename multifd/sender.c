/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bulk side of the source: a worker thread for each channel.
 *
 * Happy path: gw_sender_round() publishes a round and wakes all workers. Each
 * takes the next extent by an atomic add on the cursor, takes the extent's bits
 * out of the bitmap, sends them, and at the end of memory sends the barrier.
 * Whoever is last tells gw_sender_wait().
 *
 * Failure modes: a channel fails: its worker reports once, and goes on to the
 * end of its life without sending; the round is then never done, and whoever
 * waits hears of the failure instead.
 *
 * Threads: `lock` protects the round's number, the count of busy workers and
 * the order to stop. The cursor is an atomic; the bits are atomics.
 *
 * Ownership: channels, bitmaps and limiter are borrowed.
 */
#include "multifd/sender.h"

#include <assert.h>
#include <string.h>

#include "base/priority.h"

/* From a barrier's last byte to the worker's next wait: no time at all. */
#define IDLE_SECONDS 5

struct worker {
	struct gw_sender *sender;
	struct gw_packer packer;
	pthread_t thread;
	unsigned int index;
	bool started;
};

struct gw_sender {
	struct gw_sender_config config;
	pthread_mutex_t lock;  /* a leaf */
	pthread_cond_t wake;   /* a round begins, or the end */
	pthread_cond_t idle;   /* the last worker has sent its barrier */
	struct gw_round round; /* under lock to publish; constant within a round */
	uint64_t rounds_begun; /* under lock */
	unsigned int busy;     /* workers that have not sent the barrier; under lock */
	bool stop;	       /* under lock */
	uint64_t cursor;       /* next unit to take, a multiple of an extent; atomic */
	unsigned int n_workers;
	struct worker workers[];
};

static unsigned int region_of(const struct gw_memory *memory, uint64_t unit)
{
	unsigned int i = memory->n_regions - 1;

	while (memory->regions[i].first_unit > unit)
		i--;
	return i;
}

/* The next extent's first bit; false at the end. What is hot goes first. */
static bool claim(struct gw_sender *sender, uint64_t *ret_first)
{
	if (sender->round.hot && gw_queue_take(sender->round.hot, ret_first))
		return true;
	*ret_first =
		__atomic_fetch_add(&sender->cursor, GW_EXTENT_UNITS, __ATOMIC_RELAXED);
	return *ret_first < sender->config.memory->units;
}

/*
 * A hole is named once, however long: the extent that finds itself in it takes
 * all that follow (a second worker may have the next one by then and name the
 * rest again). Saying that a hole is zero is right for every unit in it, asked
 * for or not; @taken of them have been taken before.
 */
static int send_hole(struct worker *worker, unsigned int r, uint64_t first, uint64_t end,
		     uint64_t taken)
{
	struct gw_sender *sender = worker->sender;
	const struct gw_memory_region *region = &sender->config.memory->regions[r];

	taken += gw_bitmap_take_range(sender->round.todo, first, end - first);
	__atomic_fetch_add(&sender->config.counters->zero_units, taken, __ATOMIC_RELAXED);
	return gw_packer_send_bare(&worker->packer, GW_FRAME_ZERO, r,
				   first - region->first_unit, end - first);
}

static int send_extent(struct worker *worker, uint64_t first)
{
	struct gw_sender *sender = worker->sender;
	const struct gw_round *round = &sender->round;
	unsigned int r = region_of(sender->config.memory, first);
	const struct gw_memory_region *region = &sender->config.memory->regions[r];
	uint64_t region_end = region->first_unit + region->units, hole_end;
	uint64_t data[GW_MASK_WORDS] = {0}, zero[GW_MASK_WORDS] = {0};
	unsigned int count =
		(unsigned int)GW_MIN((uint64_t)GW_EXTENT_UNITS, region_end - first);
	uint64_t taken;

	/* Bits past a region's end are never set, so whole words may be taken. */
	taken = gw_bitmap_take(round->todo, first, GW_EXTENT_UNITS, data);
	if (!taken)
		return 0;
	hole_end = gw_bitmap_next_set(round->backed, first, region_end);
	if (hole_end >= first + count) {
		hole_end = hole_end == region_end
				   ? region_end
				   : gw_align_down(hole_end, GW_EXTENT_UNITS);
		return send_hole(worker, r, first, hole_end, taken);
	}
	for (unsigned int i = 0; i < GW_MASK_WORDS; i++) {
		uint64_t backed = round->backed->words[first / 64 + i];

		zero[i] = data[i] & ~backed;
		data[i] &= backed;
	}
	return gw_packer_send(&worker->packer, r, first - region->first_unit, data, zero);
}

static int run_round(struct worker *worker)
{
	struct gw_sender *sender = worker->sender;
	uint64_t first;
	int r = 0;

	/* Post-copy: who asks for a page goes first. It is the last round. */
	if (sender->round.hot)
		gw_priority_lower();
	gw_packer_begin(&worker->packer);
	while (!r && claim(sender, &first))
		r = send_extent(worker, first);
	if (!r)
		r = gw_packer_send_bare(&worker->packer, GW_FRAME_BARRIER, 0, 0,
					sender->round.number);
	return r;
}

static void report(struct worker *worker, int code)
{
	struct gw_err err = {0};

	gw_err_errno(&err, code, "bulk channel %u (%s): sending pages in round %llu",
		     worker->index, worker->packer.chan->name,
		     (unsigned long long)worker->sender->round.number);
	worker->sender->config.failed(worker->sender->config.opaque, &err);
}

/* Waits for a round after the @seen-th; false: the end. */
static bool next_round(struct gw_sender *sender, uint64_t *seen)
{
	bool stop;

	pthread_mutex_lock(&sender->lock);
	while (!sender->stop && sender->rounds_begun == *seen)
		pthread_cond_wait(&sender->wake, &sender->lock);
	*seen = sender->rounds_begun;
	stop = sender->stop;
	pthread_mutex_unlock(&sender->lock);
	return !stop;
}

static void end_round(struct gw_sender *sender)
{
	pthread_mutex_lock(&sender->lock);
	if (--sender->busy == 0)
		pthread_cond_signal(&sender->idle);
	pthread_mutex_unlock(&sender->lock);
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	uint64_t seen = 0;

	while (next_round(worker->sender, &seen)) {
		int r = run_round(worker);

		if (r) {
			report(worker, r);
			return NULL;
		}
		end_round(worker->sender);
	}
	return NULL;
}

static int start_worker(struct gw_sender *sender, unsigned int index)
{
	const struct gw_sender_config *config = &sender->config;
	struct worker *worker = &sender->workers[index];
	int r;

	worker->sender = sender;
	worker->index = index;
	r = gw_packer_init(&worker->packer, config->memory, config->chans[index],
			   config->counters, config->limiter, config->compress);
	if (r)
		return r;
	sender->n_workers++;
	r = -pthread_create(&worker->thread, NULL, worker_main, worker);
	worker->started = !r;
	return r;
}

int gw_sender_start(const struct gw_sender_config *config, struct gw_err *err,
		    struct gw_sender **ret)
{
	struct gw_sender *sender;
	int r = 0;

	sender = calloc(1, sizeof(*sender) + config->n_chans * sizeof(struct worker));
	if (!sender)
		return gw_err_set(err, -ENOMEM, "out of memory for %u bulk channels",
				  config->n_chans);
	sender->config = *config;
	pthread_mutex_init(&sender->lock, NULL);
	pthread_cond_init(&sender->wake, NULL);
	pthread_cond_init(&sender->idle, NULL);
	for (unsigned int i = 0; i < config->n_chans && !r; i++)
		r = start_worker(sender, i);
	if (r) {
		gw_sender_free(sender);
		return gw_err_errno(err, r, "starting %u bulk channels", config->n_chans);
	}
	*ret = sender;
	return 0;
}

void gw_sender_round(struct gw_sender *sender, const struct gw_round *round)
{
	pthread_mutex_lock(&sender->lock);
	assert(!sender->busy);
	sender->round = *round;
	sender->cursor = 0;
	sender->busy = sender->n_workers;
	sender->rounds_begun++;
	pthread_cond_broadcast(&sender->wake);
	pthread_mutex_unlock(&sender->lock);
}

void gw_sender_cut(struct gw_sender *sender)
{
	__atomic_store_n(&sender->cursor, sender->config.memory->units, __ATOMIC_RELAXED);
}

int gw_sender_wait(struct gw_sender *sender)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += IDLE_SECONDS;
	pthread_mutex_lock(&sender->lock);
	while (sender->busy && !r)
		r = pthread_cond_timedwait(&sender->idle, &sender->lock, &until);
	pthread_mutex_unlock(&sender->lock);
	return -r;
}

struct gw_sender *gw_sender_free(struct gw_sender *sender)
{
	if (!sender)
		return NULL;
	pthread_mutex_lock(&sender->lock);
	sender->stop = true;
	pthread_cond_broadcast(&sender->wake);
	pthread_mutex_unlock(&sender->lock);
	for (unsigned int i = 0; i < sender->n_workers; i++) {
		if (sender->workers[i].started)
			pthread_join(sender->workers[i].thread, NULL);
		gw_packer_deinit(&sender->workers[i].packer);
	}
	pthread_cond_destroy(&sender->idle);
	pthread_cond_destroy(&sender->wake);
	pthread_mutex_destroy(&sender->lock);
	free(sender);
	return NULL;
}
