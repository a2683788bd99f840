/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bulk side of the destination: one thread for each channel, which checks
 * frames and lands their pages. What landing means is the sink's business:
 * straight into memory during pre-copy, installed page by page in post-copy.
 */
#pragma once

#include "multifd/memory.h"
#include "multifd/pack.h"
#include "transport/chan.h"

enum gw_place {
	GW_PLACE_HERE,	  /* *@ret is where they belong: writing there cannot fail */
	GW_PLACE_LATER,	  /* they are received elsewhere and handed to @install */
	GW_PLACE_RUNNING, /* the same, and the guest runs here */
};

/* Where pages go. Called from all channels' threads at once; 0 or negative errno. */
struct gw_sink {
	/*
	 * Before the bytes of units [@unit, +@count) are received: enum gw_place, or
	 * negative errno. Sets *@ret with GW_PLACE_HERE.
	 */
	int (*place)(void *opaque, unsigned int region, uint64_t unit, uint64_t count,
		     void **ret);
	int (*install)(void *opaque, unsigned int region, uint64_t unit, uint64_t count,
		       const void *data, bool urgent);
	/* The units are zero, whatever they hold here now. */
	int (*zero)(void *opaque, unsigned int region, uint64_t unit, uint64_t count,
		    bool urgent);
	/* The channel has nothing more of round @number. */
	int (*barrier)(void *opaque, uint64_t number);
};

struct gw_receiver_config {
	const struct gw_memory *memory;
	struct gw_chan *chan; /* borrowed */
	unsigned int index;
	bool urgent; /* the urgent lane's answers; not a bulk channel */
	bool lz4;    /* compressed frames may come; else they are refused */
	const struct gw_sink *sink;
	struct gw_page_counters *counters;
	/* Called once, from the thread. EOF at a frame's edge is -ECONNRESET too. */
	void (*failed)(void *opaque, const struct gw_err *err);
	void *opaque; /* of sink and failed */
};

struct gw_receiver;

int gw_receiver_start(const struct gw_receiver_config *config, struct gw_err *err,
		      struct gw_receiver **ret);
/* Shut the channel down first. Takes NULL, returns NULL. */
struct gw_receiver *gw_receiver_free(struct gw_receiver *receiver);
