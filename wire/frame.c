/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Frames and page requests: encode, decode, check; no I/O. */
#include "wire/frame.h"

#include <assert.h>

#include "wire/cursor.h"

static void put_mask(struct gw_writer *w, const uint64_t mask[GW_MASK_WORDS])
{
	for (unsigned int i = 0; i < GW_MASK_WORDS; i++)
		gw_put_u64(w, mask[i]);
}

static void get_mask(struct gw_reader *r, uint64_t mask[GW_MASK_WORDS])
{
	for (unsigned int i = 0; i < GW_MASK_WORDS; i++)
		mask[i] = gw_get_u64(r);
}

void gw_frame_encode(const struct gw_frame *frame, uint8_t buf[GW_FRAME_LEN])
{
	struct gw_writer w = gw_writer_of(buf, GW_FRAME_LEN);

	gw_put_u8(&w, frame->type);
	gw_put_u8(&w, frame->encoding);
	gw_put_u16(&w, frame->region);
	gw_put_u32(&w, frame->payload);
	gw_put_u64(&w, frame->unit);
	gw_put_u64(&w, frame->count);
	put_mask(&w, frame->data);
	put_mask(&w, frame->zero);
	assert(!w.bad && !w.left);
}

unsigned int gw_mask_count(const uint64_t mask[GW_MASK_WORDS])
{
	unsigned int sum = 0;

	for (unsigned int i = 0; i < GW_MASK_WORDS; i++)
		sum += (unsigned int)__builtin_popcountll(mask[i]);
	return sum;
}

static unsigned int next_bit(const uint64_t mask[GW_MASK_WORDS], unsigned int from,
			     uint64_t flip)
{
	while (from < GW_EXTENT_UNITS) {
		uint64_t bits = (mask[from / 64] ^ flip) >> (from % 64);

		if (bits)
			return from + (unsigned int)__builtin_ctzll(bits);
		from = (from / 64 + 1) * 64;
	}
	return GW_EXTENT_UNITS;
}

unsigned int gw_mask_next_run(const uint64_t mask[GW_MASK_WORDS], unsigned int *first)
{
	*first = next_bit(mask, *first, 0);
	return next_bit(mask, *first, ~0ULL) - *first;
}

static bool masks_valid(const struct gw_frame *frame)
{
	for (unsigned int i = 0; i < GW_MASK_WORDS; i++) {
		uint64_t both = frame->data[i] | frame->zero[i];
		uint64_t units = frame->count > i * 64ULL ? frame->count - i * 64ULL : 0;

		if (frame->data[i] & frame->zero[i])
			return false;
		if (units < 64 && both >> units)
			return false;
	}
	return true;
}

static bool pages_valid(const struct gw_frame *frame)
{
	unsigned int units = gw_mask_count(frame->data);

	if (!frame->count || frame->count > GW_EXTENT_UNITS ||
	    frame->unit % GW_EXTENT_UNITS || !masks_valid(frame))
		return false;
	switch (frame->encoding) {
	case GW_ENCODING_RAW:
		return frame->payload == units * GW_UNIT_SIZE;
	case GW_ENCODING_LZ4:
		/* Worth it only when smaller: the buffer never needs more. */
		return units && units <= GW_FRAME_LZ4_UNITS && frame->payload &&
		       frame->payload < units * GW_UNIT_SIZE;
	default:
		return false;
	}
}

static bool bare_valid(const struct gw_frame *frame)
{
	return !frame->payload && !frame->encoding && !gw_mask_count(frame->data) &&
	       !gw_mask_count(frame->zero);
}

int gw_frame_decode(const uint8_t buf[GW_FRAME_LEN], struct gw_frame *ret)
{
	struct gw_reader r = gw_reader_of(buf, GW_FRAME_LEN);
	struct gw_frame frame;
	bool valid;

	frame.type = gw_get_u8(&r);
	frame.encoding = gw_get_u8(&r);
	frame.region = gw_get_u16(&r);
	frame.payload = gw_get_u32(&r);
	frame.unit = gw_get_u64(&r);
	frame.count = gw_get_u64(&r);
	get_mask(&r, frame.data);
	get_mask(&r, frame.zero);
	assert(!r.bad && !r.left);

	switch (frame.type) {
	case GW_FRAME_PAGES:
		valid = pages_valid(&frame);
		break;
	case GW_FRAME_ZERO:
		valid = bare_valid(&frame) && frame.count;
		break;
	case GW_FRAME_BARRIER:
		valid = bare_valid(&frame) && !frame.unit && !frame.region;
		break;
	default:
		valid = false;
	}
	if (!valid)
		return -EPROTO;
	*ret = frame;
	return 0;
}

void gw_request_encode(const struct gw_request *request, uint8_t buf[GW_REQUEST_LEN])
{
	struct gw_writer w = gw_writer_of(buf, GW_REQUEST_LEN);

	gw_put_u16(&w, request->region);
	gw_put_u16(&w, 0);
	gw_put_u32(&w, 0);
	gw_put_u64(&w, request->unit);
	assert(!w.bad && !w.left);
}

int gw_request_decode(const uint8_t buf[GW_REQUEST_LEN], struct gw_request *ret)
{
	struct gw_reader r = gw_reader_of(buf, GW_REQUEST_LEN);
	struct gw_request request;

	request.region = gw_get_u16(&r);
	if (gw_get_u16(&r) || gw_get_u32(&r))
		return -EPROTO;
	request.unit = gw_get_u64(&r);
	*ret = request;
	return 0;
}
