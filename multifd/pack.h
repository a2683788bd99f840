/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From guest memory to frames on a channel: what bulk workers and the urgent
 * lane have in common.
 */
#pragma once

#include <sys/uio.h>

#include "multifd/memory.h"
#include "transport/chan.h"
#include "wire/frame.h"

/* Counted by many workers, read by anybody. */
struct gw_page_counters {
	uint64_t data_units;
	uint64_t zero_units;
};

/* One sender's tools; used by one thread. */
struct gw_packer {
	const struct gw_memory *memory;
	struct gw_chan *chan;
	struct gw_page_counters *counters;
	bool lz4;
	uint8_t *gathered;   /* GW_FRAME_LZ4_MAX bytes; with lz4 alone */
	uint8_t *compressed; /* as large: what does not fit goes raw; with lz4 alone */
	struct iovec iov[GW_EXTENT_UNITS + 1];
};

int gw_packer_init(struct gw_packer *packer, const struct gw_memory *memory,
		   struct gw_chan *chan, struct gw_page_counters *counters, bool lz4);
void gw_packer_deinit(struct gw_packer *packer);

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
