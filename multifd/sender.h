/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bulk side of the source: one worker thread for each channel, which takes
 * extents from a shared bitmap and sends them. There is no dispatcher: taking
 * is one atomic add for the next extent and one exchange for each of its words.
 */
#pragma once

#include "base/queue.h"
#include "multifd/limiter.h"
#include "multifd/pack.h"

struct gw_sender_config {
	const struct gw_memory *memory;
	struct gw_chan *const *chans; /* borrowed */
	unsigned int n_chans;
	enum gw_compress compress;
	struct gw_limiter *limiter;
	struct gw_page_counters *counters;
	/* Called by a worker, once each, when its channel fails. */
	void (*failed)(void *opaque, const struct gw_err *err);
	void *opaque;
};

/* What the workers go over. All pointers stay valid until the round is done. */
struct gw_round {
	struct gw_bitmap *todo;		/* units to send; taken bit by bit */
	const struct gw_bitmap *backed; /* the others read as zero and are not touched */
	uint64_t number;		/* told to the peer in the barrier */
	struct gw_queue
		*hot; /* NULL, or extents (numbers of their first bit) to do first */
};

struct gw_sender;

int gw_sender_start(const struct gw_sender_config *config, struct gw_err *err,
		    struct gw_sender **ret);
/* Begins a round; the last one must be done. */
void gw_sender_round(struct gw_sender *sender, const struct gw_round *round);
/* Lets the workers leave the rest of the round in its bitmap and send the barrier. */
void gw_sender_cut(struct gw_sender *sender);
/*
 * Waits for the end of a round whose barriers the peer says it has: 0, or
 * -ETIMEDOUT when the workers are not there within seconds.
 */
int gw_sender_wait(struct gw_sender *sender);
/*
 * Ends the workers and joins them; takes NULL, returns NULL. Between rounds it
 * is orderly; within one, shut the channels down first.
 */
struct gw_sender *gw_sender_free(struct gw_sender *sender);
