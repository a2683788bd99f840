/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The urgent lane at the source: one thread that reads page requests from a
 * channel of its own and answers each at once, whatever the bulk channels do.
 * Before a page has left, it shares nothing with them but the bitmap.
 */
#pragma once

#include "base/queue.h"
#include "multifd/pack.h"

struct gw_urgent_config {
	const struct gw_memory *memory;
	struct gw_chan *chan;	/* borrowed */
	struct gw_bitmap *todo; /* bits of answered pages are cleared: bulk skips them */
	struct gw_queue *hot;	/* gets the extents around requests */
	struct gw_page_counters *counters;
	/* Called once, from the thread, when the channel fails or the peer lies. */
	void (*failed)(void *opaque, const struct gw_err *err);
	void *opaque;
};

struct gw_urgent;

int gw_urgent_start(const struct gw_urgent_config *config, struct gw_err *err,
		    struct gw_urgent **ret);
/* Shut the channel down first. Takes NULL, returns NULL. */
struct gw_urgent *gw_urgent_free(struct gw_urgent *urgent);
