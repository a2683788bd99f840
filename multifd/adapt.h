/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does compressing pay on this channel, now? A decision without I/O and without
 * a clock: it is told what was sent and how long that took, and asked before
 * each piece.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum gw_compress {
	GW_COMPRESS_NONE = 0,
	GW_COMPRESS_LZ4,  /* whatever it costs */
	GW_COMPRESS_AUTO, /* where it pays */
	GW_N_COMPRESS,
};

/* Of one channel; used by its thread alone. Rates are bytes a second. */
struct gw_adapt {
	bool packing;	      /* compress, until it does not pay */
	uint64_t settle;      /* bytes that an empty socket buffer may swallow */
	uint64_t raw, ns;     /* the window: guest bytes, and the time they took */
	uint64_t wire;	      /* the window: what they were on the wire */
	bool held;	      /* the window: the network held up each piece */
	bool network;	      /* the network held up the last window without LZ4 */
	double plain;	      /* guest bytes that go uncompressed; 0: not known */
	double packed;	      /* guest bytes that go compressed; 0: not known */
	uint64_t rest;	      /* ns of sending before the next sample */
	uint64_t sample_rest; /* ns to rest after a sample that would not have paid */
	uint64_t since;	      /* ns of sending since compressing began or ended */
	unsigned int failed;  /* how often in a row compressing did not pay */
	bool proven;	      /* it did pay, and only the link is being looked at */
	uint64_t probe_ns;    /* compress for so long before looking at the link again */
};

void gw_adapt_init(struct gw_adapt *adapt);
/* Sending begins after a pause: the socket's buffer may be empty. */
void gw_adapt_begin(struct gw_adapt *adapt);
/* Is the next piece to be compressed? */
bool gw_adapt_wants_lz4(const struct gw_adapt *adapt);
/*
 * @raw bytes went uncompressed; @ns includes waiting for the socket and the
 * limiter. @held: that the network (or the limiter), rather than this host or
 * the other one, was what took the time is known.
 */
void gw_adapt_sent(struct gw_adapt *adapt, uint64_t raw, uint64_t ns, bool held);
/*
 * @raw bytes were compressed within @pack_ns and went as @wire bytes (as many
 * as before, where they did not shrink) within @send_ns.
 */
void gw_adapt_sent_lz4(struct gw_adapt *adapt, uint64_t raw, uint64_t wire,
		       uint64_t pack_ns, uint64_t send_ns);
