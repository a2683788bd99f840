/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames: what travels on bulk channels and, as answers, on the urgent one. A
 * header of fixed size, then the payload. Memory is counted in units of 4096
 * bytes, whatever the guest's page size, and sent by the extent: up to 512
 * units with one bit each in two masks.
 */
#pragma once

#include <stdint.h>

#include "base/util.h"

#define GW_FRAME_LEN  152
#define GW_MASK_WORDS (GW_EXTENT_UNITS / 64)
/* Compressed frames carry at most so many units: it bounds both sides' buffers. */
#define GW_FRAME_LZ4_UNITS 64
#define GW_FRAME_LZ4_MAX   (GW_FRAME_LZ4_UNITS * GW_UNIT_SIZE)

enum gw_frame_type {
	GW_FRAME_PAGES = 1,   /* units of one extent: data and zero, by mask */
	GW_FRAME_ZERO = 2,    /* units [unit, unit + count) are zero; no payload */
	GW_FRAME_BARRIER = 3, /* the end of a round on this channel; count: its number */
};

enum gw_encoding {
	GW_ENCODING_RAW = 0, /* the data units' bytes in order */
	GW_ENCODING_LZ4 = 1, /* one LZ4 block that holds them */
};

struct gw_frame {
	uint8_t type;
	uint8_t encoding;
	uint16_t region;
	uint32_t payload; /* bytes that follow the header */
	uint64_t unit;	/* PAGES: first of the extent, a multiple of 512 in its region */
	uint64_t count; /* PAGES: units in the extent, 1 to 512 */
	uint64_t data[GW_MASK_WORDS];
	uint64_t zero[GW_MASK_WORDS];
};

void gw_frame_encode(const struct gw_frame *frame, uint8_t buf[GW_FRAME_LEN]);

/*
 * Decodes and checks everything that can be checked without the region table:
 * type, masks within the count and disjoint, payload length. 0 or -EPROTO.
 */
int gw_frame_decode(const uint8_t buf[GW_FRAME_LEN], struct gw_frame *ret);

/* Bits set in a mask. */
unsigned int gw_mask_count(const uint64_t mask[GW_MASK_WORDS]);
/* The next run of set bits at or after *@first: its length, 0 at the end. */
unsigned int gw_mask_next_run(const uint64_t mask[GW_MASK_WORDS], unsigned int *first);

/* A page request, destination to source, on the urgent channel. */
#define GW_REQUEST_LEN 16

struct gw_request {
	uint16_t region;
	uint64_t unit;
};

void gw_request_encode(const struct gw_request *request, uint8_t buf[GW_REQUEST_LEN]);
int gw_request_decode(const uint8_t buf[GW_REQUEST_LEN], struct gw_request *ret);
