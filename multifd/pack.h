/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From guest memory to frames on a channel: what bulk workers and the urgent
 * lane have in common.
 */
#pragma once

#include <sys/uio.h>

#include "multifd/adapt.h"
#include "multifd/limiter.h"
#include "multifd/memory.h"
#include "transport/chan.h"
#include "wire/frame.h"

/* Counted by many workers, read by anybody. */
struct gw_page_counters {
	uint64_t data_units;
	uint64_t zero_units;
	uint64_t lz4_units; /* of the data units, those that went compressed */
	uint64_t lz4_bytes; /* what they were on the wire, headers included */
};

/* One sender's tools; used by one thread. */
struct gw_packer {
	const struct gw_memory *memory;
	struct gw_chan *chan;
	struct gw_page_counters *counters;
	struct gw_limiter *limiter; /* NULL: nothing waits */
	enum gw_compress compress;
	struct gw_adapt adapt; /* with GW_COMPRESS_AUTO */
	uint64_t limited_ns;   /* the last frame waited so long for the limiter */
	uint64_t peer_ns;      /* struct gw_chan_backlog's, when it was last asked for */
	uint8_t *gathered;     /* GW_FRAME_LZ4_MAX bytes; NULL without compression */
	uint8_t *compressed;   /* as large: what does not fit goes raw; or NULL */
	struct iovec iov[GW_EXTENT_UNITS + 1];
};

/* All pointers are borrowed; @limiter (may be NULL) counts bytes on the wire. */
int gw_packer_init(struct gw_packer *packer, const struct gw_memory *memory,
		   struct gw_chan *chan, struct gw_page_counters *counters,
		   struct gw_limiter *limiter, enum gw_compress compress);
void gw_packer_deinit(struct gw_packer *packer);

/* Sending begins after a pause: what was learnt of the link's speed needs to know. */
void gw_packer_begin(struct gw_packer *packer);

/*
 * Sends the units of the extent that starts at @unit of @region: those in
 * @data, as bytes unless they turn out to be zero, and those in @zero, which
 * are not touched. Changes both masks. 0 or the channel's error.
 */
int gw_packer_send(struct gw_packer *packer, unsigned int region, uint64_t unit,
		   uint64_t data[GW_MASK_WORDS], uint64_t zero[GW_MASK_WORDS]);
/* Sends one frame without payload: a zero range or a barrier. */
int gw_packer_send_bare(struct gw_packer *packer, enum gw_frame_type type,
			unsigned int region, uint64_t unit, uint64_t count);
