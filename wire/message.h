/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages of the control channel: a header of eight bytes, then the payload.
 * Who sends what, in order, is in docs/wire-format.md.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hist.h"

#define GW_MESSAGE_HEADER_LEN 8
#define GW_MESSAGE_MAX	      65536 /* payload bytes */

enum gw_message_type {
	GW_MSG_SETUP = 1,	/* s→d: mode, channels, region table */
	GW_MSG_SETUP_OK = 2,	/* d→s: the same regions are here */
	GW_MSG_ROUND_DONE = 3,	/* d→s: all channels have passed the round's barrier */
	GW_MSG_MISSING = 4,	/* s→d: runs of units that come after the switch */
	GW_MSG_MISSING_END = 5, /* s→d: all are named; drop them and arm */
	GW_MSG_ARMED = 6,	/* d→s: dropped, registered, faults are served */
	GW_MSG_STATE = 7,	/* s→d: a piece of the device state */
	GW_MSG_STATE_END = 8,	/* s→d: its length and hash; load it */
	GW_MSG_LOADED = 9,	/* d→s: loaded; ready to run */
	GW_MSG_COMMIT = 10,	/* s→d: the guest is yours */
	GW_MSG_RUNNING = 11,	/* d→s: it runs */
	GW_MSG_PROGRESS = 12,	/* d→s: what is missing still, how faults went */
	GW_MSG_COMPLETE = 13,	/* d→s: as PROGRESS, the last: nothing is missing */
	GW_MSG_ABORT = 14,	/* either: ends the session; code and a line of text */
	GW_N_MESSAGES,
};

const char *gw_message_name(unsigned int type);

struct gw_message_header {
	uint16_t type;
	uint32_t length;
};

void gw_message_header_encode(const struct gw_message_header *header,
			      uint8_t buf[GW_MESSAGE_HEADER_LEN]);
/* 0 or -EPROTO: unknown type, reserved bits, longer than GW_MESSAGE_MAX. */
int gw_message_header_decode(const uint8_t buf[GW_MESSAGE_HEADER_LEN],
			     struct gw_message_header *ret);

/*
 * Payload codecs. Encoders return the payload's length, which fits
 * GW_MESSAGE_MAX by construction; decoders 0 or -EPROTO.
 */

#define GW_SETUP_REGIONS_MAX 64
#define GW_SETUP_NAME_LEN    64

struct gw_setup {
	uint8_t mode; /* enum gw_mode of migrate/, checked there */
	uint8_t compress;
	uint16_t channels; /* bulk; the urgent one comes on top */
	uint16_t n_regions;
	struct gw_setup_region {
		char name[GW_SETUP_NAME_LEN];
		uint64_t size, page_size;
	} regions[GW_SETUP_REGIONS_MAX];
};

size_t gw_setup_encode(const struct gw_setup *setup, uint8_t *buf);
int gw_setup_decode(const uint8_t *buf, size_t len, struct gw_setup *ret);

/* ROUND_DONE: the round. ARMED: units missing. RUNNING: time. */
size_t gw_number_encode(uint64_t number, uint8_t *buf);
int gw_number_decode(const uint8_t *buf, size_t len, uint64_t *ret);

struct gw_missing_end {
	uint64_t units; /* named since the last MISSING_END */
	uint64_t data;	/* of all that were ever named, how many are no hole, about */
};

size_t gw_missing_end_encode(const struct gw_missing_end *end, uint8_t *buf);
int gw_missing_end_decode(const uint8_t *buf, size_t len, struct gw_missing_end *ret);

struct gw_state_end {
	uint64_t length; /* of the device state, bytes */
	uint64_t hash;	 /* XXH3, 64 bits */
};

size_t gw_state_end_encode(const struct gw_state_end *end, uint8_t *buf);
int gw_state_end_decode(const uint8_t *buf, size_t len, struct gw_state_end *ret);

struct gw_progress {
	uint64_t missing_units;
	struct gw_hist faults; /* event read to page installed */
};

size_t gw_progress_encode(const struct gw_progress *progress, uint8_t *buf);
int gw_progress_decode(const uint8_t *buf, size_t len, struct gw_progress *ret);

#define GW_ABORT_TEXT_LEN 400

struct gw_abort {
	int32_t code; /* negative errno */
	char text[GW_ABORT_TEXT_LEN];
};

size_t gw_abort_encode(const struct gw_abort *msg, uint8_t *buf);
int gw_abort_decode(const uint8_t *buf, size_t len, struct gw_abort *ret);

/*
 * MISSING: a region and runs of units in rising order, each as two varints: the
 * gap since the end of the last run and the length, which is never 0.
 */
struct gw_runs_writer {
	uint8_t *buf;
	size_t used;
	uint64_t next; /* unit after the last run */
};

void gw_runs_begin(struct gw_runs_writer *w, uint8_t *buf, uint16_t region);
/* False when the message is full: send it, begin another, add again. */
bool gw_runs_add(struct gw_runs_writer *w, uint64_t first, uint64_t count);

struct gw_runs_reader {
	const uint8_t *at;
	size_t left;
	uint64_t next, units;
};

/* @units_of_region bounds every run; the region itself was looked up by the caller. */
int gw_runs_region(const uint8_t *buf, size_t len, uint16_t *ret_region);
void gw_runs_open(struct gw_runs_reader *r, const uint8_t *buf, size_t len,
		  uint64_t units_of_region);
/* 1: a run; 0: the end; -EPROTO: malformed or outside the region. */
int gw_runs_next(struct gw_runs_reader *r, uint64_t *ret_first, uint64_t *ret_count);
