/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bulk side of the destination: a thread for each channel.
 *
 * Happy path: receive a header, check it against the region table, ask the sink
 * where the runs go, receive the payload there. Nothing is copied in pre-copy;
 * in post-copy the bytes rest in a buffer small enough to stay in the cache
 * until they are installed.
 *
 * Failure modes: a header that lies ends the session (nothing of it has been
 * used by then); a channel that ends in the middle leaves units that the sink
 * was told of half-written, which is harmless before COMMIT and cannot happen
 * after it, where only whole pages are installed.
 *
 * Threads: everything here belongs to the channel's thread.
 *
 * Ownership: channel and sink are borrowed, buffers are its own.
 */
#include "multifd/receiver.h"

#include <lz4.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/priority.h"

/* Pages that are received before they are installed: fits a second-level cache. */
#define BUFFER_UNITS 64U

struct gw_receiver {
	struct gw_receiver_config config;
	pthread_t thread;
	uint8_t *buffer; /* buffer_units */
	unsigned int buffer_units;
	bool background;     /* this thread has stepped back behind the guest's */
	uint8_t *compressed; /* GW_FRAME_LZ4_MAX; with lz4 alone */
	char what[160];	     /* of the last failure */
	struct iovec iov[GW_EXTENT_UNITS];
};

static int explain(struct gw_receiver *rx, int code, const char *what)
{
	if (code < 0)
		snprintf(rx->what, sizeof(rx->what), "%s", what);
	return code;
}

static int explain_units(struct gw_receiver *rx, int code, const char *what,
			 unsigned int region, uint64_t unit, uint64_t count)
{
	if (code < 0)
		snprintf(rx->what, sizeof(rx->what), "%s '%s' bytes 0x%llx to 0x%llx",
			 what, rx->config.memory->regions[region].name,
			 (unsigned long long)(unit << GW_UNIT_SHIFT),
			 (unsigned long long)((unit + count) << GW_UNIT_SHIFT));
	return code;
}

/* An end of stream within a frame is as bad as a reset. */
static int recv_all(struct gw_receiver *rx, void *buf, size_t len)
{
	int r = gw_chan_recv(rx->config.chan, buf, len);

	return explain(rx, r == GW_CHAN_EOF ? -EPIPE : r, "receiving pages");
}

static int install(struct gw_receiver *rx, unsigned int region, uint64_t unit,
		   uint64_t count, const void *data)
{
	int r = rx->config.sink->install(rx->config.opaque, region, unit, count, data,
					 rx->config.urgent);

	return explain_units(rx, r, "installing", region, unit, count);
}

static int place(struct gw_receiver *rx, unsigned int region, uint64_t unit,
		 uint64_t count, void **ret)
{
	int r = rx->config.sink->place(rx->config.opaque, region, unit, count, ret);

	return explain_units(rx, r, "allocating memory for", region, unit, count);
}

/* Runs of @mask from bit *@first on, at most @max units in all: cut into @piece. */
static unsigned int cut_piece(const uint64_t mask[GW_MASK_WORDS], unsigned int *first,
			      unsigned int max, uint64_t piece[GW_MASK_WORDS])
{
	unsigned int n = 0, len;

	memset(piece, 0, GW_MASK_WORDS * sizeof(*piece));
	while (n < max && (len = gw_mask_next_run(mask, first))) {
		len = GW_MIN(len, max - n);
		for (unsigned int i = *first; i < *first + len; i++)
			piece[i / 64] |= 1ULL << (i % 64);
		*first += len;
		n += len;
	}
	return n;
}

/* Lands the units of @mask from @data, which holds their bytes in order. */
static int land(struct gw_receiver *rx, const struct gw_frame *frame,
		const uint64_t mask[GW_MASK_WORDS], const uint8_t *data)
{
	unsigned int first = 0, len;

	while ((len = gw_mask_next_run(mask, &first))) {
		void *at;
		int r = place(rx, frame->region, frame->unit + first, len, &at);

		if (r == GW_PLACE_HERE)
			memcpy(at, data, len * GW_UNIT_SIZE);
		else if (r > 0)
			r = install(rx, frame->region, frame->unit + first, len, data);
		if (r)
			return r;
		data += len * GW_UNIT_SIZE;
		first += len;
	}
	return 0;
}

static int receive_compressed(struct gw_receiver *rx, const struct gw_frame *frame)
{
	int raw = (int)(gw_mask_count(frame->data) * GW_UNIT_SIZE);
	int r;

	if (!rx->config.lz4)
		return explain(rx, -EPROTO, "compressed pages, not agreed on");
	r = recv_all(rx, rx->compressed, frame->payload);

	if (r)
		return r;
	__atomic_fetch_add(&rx->config.counters->lz4_units, gw_mask_count(frame->data),
			   __ATOMIC_RELAXED);
	__atomic_fetch_add(&rx->config.counters->lz4_bytes, GW_FRAME_LEN + frame->payload,
			   __ATOMIC_RELAXED);
	if (LZ4_decompress_safe((const char *)rx->compressed, (char *)rx->buffer,
				(int)frame->payload, raw) != raw)
		return explain(rx, -EPROTO, "decompressing pages");
	return land(rx, frame, frame->data, rx->buffer);
}

/* Receives the units of @mask elsewhere, and has them installed. */
static int receive_buffered(struct gw_receiver *rx, const struct gw_frame *frame,
			    const uint64_t mask[GW_MASK_WORDS], unsigned int first)
{
	uint64_t piece[GW_MASK_WORDS];
	unsigned int n;

	while ((n = cut_piece(mask, &first, rx->buffer_units, piece))) {
		int r = recv_all(rx, rx->buffer, n * GW_UNIT_SIZE);

		if (!r)
			r = land(rx, frame, piece, rx->buffer);
		if (r)
			return r;
	}
	return 0;
}

/* Receives straight into memory, up to the first run that has no place yet. */
static int receive_raw(struct gw_receiver *rx, const struct gw_frame *frame)
{
	unsigned int first = 0, len, n = 0;
	int r = GW_PLACE_HERE;

	while (r == GW_PLACE_HERE && (len = gw_mask_next_run(frame->data, &first))) {
		void *at;

		r = place(rx, frame->region, frame->unit + first, len, &at);
		if (r < 0)
			return r;
		if (r != GW_PLACE_HERE)
			break;
		rx->iov[n++] =
			(struct iovec){.iov_base = at, .iov_len = len * GW_UNIT_SIZE};
		first += len;
	}
	if (r == GW_PLACE_RUNNING && !rx->background && !rx->config.urgent) {
		gw_priority_lower();
		rx->background = true;
	}
	if (n) {
		int got = gw_chan_recvv(rx->config.chan, rx->iov, n);

		if (explain(rx, got == GW_CHAN_EOF ? -EPIPE : got, "receiving pages"))
			return got == GW_CHAN_EOF ? -EPIPE : got;
	}
	return r == GW_PLACE_HERE ? 0 : receive_buffered(rx, frame, frame->data, first);
}

static int zero_run(struct gw_receiver *rx, unsigned int region, uint64_t unit,
		    uint64_t count)
{
	int r = rx->config.sink->zero(rx->config.opaque, region, unit, count,
				      rx->config.urgent);

	__atomic_fetch_add(&rx->config.counters->zero_units, count, __ATOMIC_RELAXED);
	return explain_units(rx, r, "zeroing", region, unit, count);
}

static int receive_pages(struct gw_receiver *rx, const struct gw_frame *frame)
{
	unsigned int first = 0, len;
	int r = 0;

	while (!r && (len = gw_mask_next_run(frame->zero, &first))) {
		r = zero_run(rx, frame->region, frame->unit + first, len);
		first += len;
	}
	if (r)
		return r;
	__atomic_fetch_add(&rx->config.counters->data_units, gw_mask_count(frame->data),
			   __ATOMIC_RELAXED);
	return frame->encoding == GW_ENCODING_LZ4 ? receive_compressed(rx, frame)
						  : receive_raw(rx, frame);
}

/* Everything a frame says about places, against the region table. */
static bool frame_fits(const struct gw_receiver *rx, const struct gw_frame *frame)
{
	const struct gw_memory *memory = rx->config.memory;
	uint64_t units;

	if (frame->type == GW_FRAME_BARRIER)
		return !rx->config.urgent;
	if (frame->region >= memory->n_regions)
		return false;
	units = memory->regions[frame->region].units;
	return frame->unit < units && frame->count <= units - frame->unit;
}

static int handle(struct gw_receiver *rx, const struct gw_frame *frame)
{
	if (!frame_fits(rx, frame))
		return explain(rx, -EPROTO, "a frame for memory that is not there");
	switch (frame->type) {
	case GW_FRAME_PAGES:
		return receive_pages(rx, frame);
	case GW_FRAME_ZERO:
		return zero_run(rx, frame->region, frame->unit, frame->count);
	default:
		return explain(rx,
			       rx->config.sink->barrier(rx->config.opaque, frame->count),
			       "a barrier out of turn");
	}
}

static int receive_frame(struct gw_receiver *rx)
{
	uint8_t header[GW_FRAME_LEN];
	struct gw_frame frame;
	int r = gw_chan_recv(rx->config.chan, header, sizeof(header));

	if (r == GW_CHAN_EOF)
		return explain(rx, -ECONNRESET, "closed by the source");
	if (r)
		return explain(rx, r, "receiving a frame");
	if (gw_frame_decode(header, &frame))
		return explain(rx, -EPROTO, "malformed frame");
	return handle(rx, &frame);
}

static void *receiver_main(void *arg)
{
	struct gw_receiver *rx = arg;
	struct gw_err err = {0};
	int r;

	if (rx->config.urgent)
		gw_priority_raise();
	do
		r = receive_frame(rx);
	while (!r);
	if (rx->config.urgent)
		gw_err_errno(&err, r, "urgent channel (%s): %s", rx->config.chan->name,
			     rx->what);
	else
		gw_err_errno(&err, r, "bulk channel %u (%s): %s", rx->config.index,
			     rx->config.chan->name, rx->what);
	rx->config.failed(rx->config.opaque, &err);
	return NULL;
}

/* A huge page is installed whole, so the buffer has to hold the largest. */
static unsigned int units_to_buffer(const struct gw_memory *memory)
{
	uint64_t units = BUFFER_UNITS;

	for (unsigned int i = 0; i < memory->n_regions; i++)
		units = GW_MAX(units, gw_memory_page_units(&memory->regions[i]));
	return (unsigned int)units;
}

static void free_buffers(struct gw_receiver *rx)
{
	free(rx->buffer);
	free(rx->compressed);
	free(rx);
}

int gw_receiver_start(const struct gw_receiver_config *config, struct gw_err *err,
		      struct gw_receiver **ret)
{
	struct gw_receiver *rx = calloc(1, sizeof(*rx));
	int r = -ENOMEM;

	if (!rx)
		return gw_err_set(err, -ENOMEM, "out of memory for a channel");
	rx->config = *config;
	rx->buffer_units = units_to_buffer(config->memory);
	/* Untouched unless needed: malloc() of such sizes costs no memory. */
	rx->buffer = aligned_alloc(GW_UNIT_SIZE, rx->buffer_units * GW_UNIT_SIZE);
	if (config->lz4)
		rx->compressed = malloc(GW_FRAME_LZ4_MAX);
	if (rx->buffer && (rx->compressed || !config->lz4))
		r = -pthread_create(&rx->thread, NULL, receiver_main, rx);
	if (r) {
		free_buffers(rx);
		return gw_err_errno(err, r, "starting a channel's thread");
	}
	*ret = rx;
	return 0;
}

struct gw_receiver *gw_receiver_free(struct gw_receiver *rx)
{
	if (!rx)
		return NULL;
	pthread_join(rx->thread, NULL);
	free_buffers(rx);
	return NULL;
}
