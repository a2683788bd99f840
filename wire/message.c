/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages of the control channel: encode, decode, check; no I/O. */
#include "wire/message.h"

#include <assert.h>
#include <errno.h>

#include "wire/cursor.h"

#define RUNS_HEADER_LEN 8
#define RUN_MAX_LEN	20 /* two varints of ten bytes */

#define PROGRESS_HEADER_LEN 26
#define HIST_STEP_MAX_LEN   7 /* a varint of two bytes and one of five */

static const char *const message_names[] = {
	[0] = "(none)",
	[GW_MSG_SETUP] = "SETUP",
	[GW_MSG_SETUP_OK] = "SETUP_OK",
	[GW_MSG_ROUND_DONE] = "ROUND_DONE",
	[GW_MSG_MISSING] = "MISSING",
	[GW_MSG_MISSING_END] = "MISSING_END",
	[GW_MSG_ARMED] = "ARMED",
	[GW_MSG_STATE] = "STATE",
	[GW_MSG_STATE_END] = "STATE_END",
	[GW_MSG_LOADED] = "LOADED",
	[GW_MSG_COMMIT] = "COMMIT",
	[GW_MSG_RUNNING] = "RUNNING",
	[GW_MSG_PROGRESS] = "PROGRESS",
	[GW_MSG_COMPLETE] = "COMPLETE",
	[GW_MSG_ABORT] = "ABORT",
};
static_assert(sizeof(message_names) / sizeof(message_names[0]) == GW_N_MESSAGES,
	      "a name for every message");

const char *gw_message_name(unsigned int type)
{
	return type < GW_N_MESSAGES ? message_names[type] : "(unknown)";
}

static int finish(const struct gw_reader *r)
{
	return r->bad || r->left ? -EPROTO : 0;
}

static size_t written(const struct gw_writer *w)
{
	assert(!w->bad);
	return GW_MESSAGE_MAX - w->left;
}

void gw_message_header_encode(const struct gw_message_header *header,
			      uint8_t buf[GW_MESSAGE_HEADER_LEN])
{
	struct gw_writer w = gw_writer_of(buf, GW_MESSAGE_HEADER_LEN);

	gw_put_u16(&w, header->type);
	gw_put_u16(&w, 0);
	gw_put_u32(&w, header->length);
}

int gw_message_header_decode(const uint8_t buf[GW_MESSAGE_HEADER_LEN],
			     struct gw_message_header *ret)
{
	struct gw_reader r = gw_reader_of(buf, GW_MESSAGE_HEADER_LEN);
	struct gw_message_header header;
	uint16_t reserved;

	header.type = gw_get_u16(&r);
	reserved = gw_get_u16(&r);
	header.length = gw_get_u32(&r);
	if (!header.type || header.type >= GW_N_MESSAGES || reserved ||
	    header.length > GW_MESSAGE_MAX)
		return -EPROTO;
	*ret = header;
	return 0;
}

size_t gw_setup_encode(const struct gw_setup *setup, uint8_t *buf)
{
	struct gw_writer w = gw_writer_of(buf, GW_MESSAGE_MAX);

	gw_put_u8(&w, setup->mode);
	gw_put_u8(&w, setup->compress);
	gw_put_u16(&w, setup->channels);
	gw_put_u16(&w, setup->n_regions);
	for (unsigned int i = 0; i < setup->n_regions; i++) {
		gw_put_text(&w, setup->regions[i].name, GW_SETUP_NAME_LEN);
		gw_put_u64(&w, setup->regions[i].size);
		gw_put_u64(&w, setup->regions[i].page_size);
	}
	return written(&w);
}

int gw_setup_decode(const uint8_t *buf, size_t len, struct gw_setup *ret)
{
	struct gw_reader r = gw_reader_of(buf, len);
	struct gw_setup setup = {0};

	setup.mode = gw_get_u8(&r);
	setup.compress = gw_get_u8(&r);
	setup.channels = gw_get_u16(&r);
	setup.n_regions = gw_get_u16(&r);
	if (!setup.n_regions || setup.n_regions > GW_SETUP_REGIONS_MAX)
		return -EPROTO;
	for (unsigned int i = 0; i < setup.n_regions; i++) {
		gw_get_text(&r, setup.regions[i].name, GW_SETUP_NAME_LEN);
		setup.regions[i].size = gw_get_u64(&r);
		setup.regions[i].page_size = gw_get_u64(&r);
	}
	if (finish(&r))
		return -EPROTO;
	*ret = setup;
	return 0;
}

size_t gw_number_encode(uint64_t number, uint8_t *buf)
{
	struct gw_writer w = gw_writer_of(buf, GW_MESSAGE_MAX);

	gw_put_u64(&w, number);
	return written(&w);
}

int gw_number_decode(const uint8_t *buf, size_t len, uint64_t *ret)
{
	struct gw_reader r = gw_reader_of(buf, len);
	uint64_t number = gw_get_u64(&r);

	if (finish(&r))
		return -EPROTO;
	*ret = number;
	return 0;
}

size_t gw_missing_end_encode(const struct gw_missing_end *end, uint8_t *buf)
{
	struct gw_writer w = gw_writer_of(buf, GW_MESSAGE_MAX);

	gw_put_u64(&w, end->units);
	gw_put_u64(&w, end->data);
	return written(&w);
}

int gw_missing_end_decode(const uint8_t *buf, size_t len, struct gw_missing_end *ret)
{
	struct gw_reader r = gw_reader_of(buf, len);
	struct gw_missing_end end;

	end.units = gw_get_u64(&r);
	end.data = gw_get_u64(&r);
	if (finish(&r))
		return -EPROTO;
	*ret = end;
	return 0;
}

size_t gw_state_end_encode(const struct gw_state_end *end, uint8_t *buf)
{
	struct gw_writer w = gw_writer_of(buf, GW_MESSAGE_MAX);

	gw_put_u64(&w, end->length);
	gw_put_u64(&w, end->hash);
	return written(&w);
}

int gw_state_end_decode(const uint8_t *buf, size_t len, struct gw_state_end *ret)
{
	struct gw_reader r = gw_reader_of(buf, len);
	struct gw_state_end end;

	end.length = gw_get_u64(&r);
	end.hash = gw_get_u64(&r);
	if (finish(&r))
		return -EPROTO;
	*ret = end;
	return 0;
}

static_assert(PROGRESS_HEADER_LEN + GW_HIST_STEPS * HIST_STEP_MAX_LEN <= GW_MESSAGE_MAX,
	      "the fullest histogram fits a message");

static uint16_t filled_steps(const struct gw_hist *hist)
{
	uint16_t n = 0;

	for (unsigned int i = 0; i < GW_HIST_STEPS; i++)
		n += hist->steps[i] != 0;
	return n;
}

/* Of each step that is not empty the gap before it and the count. */
static void put_hist(struct gw_writer *w, const struct gw_hist *hist)
{
	unsigned int next = 0;

	gw_put_u64(w, hist->sum);
	gw_put_u64(w, hist->max);
	gw_put_u16(w, filled_steps(hist));
	for (unsigned int i = 0; i < GW_HIST_STEPS; i++) {
		if (!hist->steps[i])
			continue;
		gw_put_varint(w, i - next);
		gw_put_varint(w, hist->steps[i]);
		next = i + 1;
	}
}

static void get_hist(struct gw_reader *r, struct gw_hist *hist)
{
	uint64_t next = 0, gap, count;
	unsigned int n;

	hist->sum = gw_get_u64(r);
	hist->max = gw_get_u64(r);
	n = gw_get_u16(r);
	for (unsigned int i = 0; i < n; i++) {
		gap = gw_get_varint(r);
		count = gw_get_varint(r);
		if (gap >= GW_HIST_STEPS - next || !count || count > UINT32_MAX)
			r->bad = true;
		if (r->bad)
			return;
		hist->steps[next + gap] = (uint32_t)count;
		hist->count += count;
		next += gap + 1;
	}
}

size_t gw_progress_encode(const struct gw_progress *progress, uint8_t *buf)
{
	struct gw_writer w = gw_writer_of(buf, GW_MESSAGE_MAX);

	gw_put_u64(&w, progress->missing_units);
	put_hist(&w, &progress->faults);
	return written(&w);
}

int gw_progress_decode(const uint8_t *buf, size_t len, struct gw_progress *ret)
{
	struct gw_reader r = gw_reader_of(buf, len);
	struct gw_progress progress = {0};

	progress.missing_units = gw_get_u64(&r);
	get_hist(&r, &progress.faults);
	if (finish(&r))
		return -EPROTO;
	*ret = progress;
	return 0;
}

size_t gw_abort_encode(const struct gw_abort *msg, uint8_t *buf)
{
	struct gw_writer w = gw_writer_of(buf, GW_MESSAGE_MAX);

	gw_put_u32(&w, (uint32_t)msg->code);
	gw_put_text(&w, msg->text, GW_ABORT_TEXT_LEN);
	return written(&w);
}

int gw_abort_decode(const uint8_t *buf, size_t len, struct gw_abort *ret)
{
	struct gw_reader r = gw_reader_of(buf, len);
	struct gw_abort msg;

	msg.code = (int32_t)gw_get_u32(&r);
	gw_get_text(&r, msg.text, GW_ABORT_TEXT_LEN);
	if (finish(&r) || msg.code >= 0 || msg.code < -4095)
		return -EPROTO;
	*ret = msg;
	return 0;
}

void gw_runs_begin(struct gw_runs_writer *w, uint8_t *buf, uint16_t region)
{
	struct gw_writer out = gw_writer_of(buf, RUNS_HEADER_LEN);

	gw_put_u16(&out, region);
	gw_put_u16(&out, 0);
	gw_put_u32(&out, 0);
	*w = (struct gw_runs_writer){.buf = buf, .used = RUNS_HEADER_LEN};
}

bool gw_runs_add(struct gw_runs_writer *w, uint64_t first, uint64_t count)
{
	struct gw_writer out = gw_writer_of(w->buf + w->used, GW_MESSAGE_MAX - w->used);

	assert(count && first >= w->next);
	if (out.left < RUN_MAX_LEN)
		return false;
	gw_put_varint(&out, first - w->next);
	gw_put_varint(&out, count);
	w->used = GW_MESSAGE_MAX - out.left;
	w->next = first + count;
	return true;
}

int gw_runs_region(const uint8_t *buf, size_t len, uint16_t *ret_region)
{
	struct gw_reader r = gw_reader_of(buf, len);
	uint16_t region = gw_get_u16(&r);

	if (gw_get_u16(&r) || gw_get_u32(&r) || r.bad)
		return -EPROTO;
	*ret_region = region;
	return 0;
}

void gw_runs_open(struct gw_runs_reader *r, const uint8_t *buf, size_t len,
		  uint64_t units_of_region)
{
	assert(len >= RUNS_HEADER_LEN);
	*r = (struct gw_runs_reader){
		.at = buf + RUNS_HEADER_LEN,
		.left = len - RUNS_HEADER_LEN,
		.units = units_of_region,
	};
}

int gw_runs_next(struct gw_runs_reader *r, uint64_t *ret_first, uint64_t *ret_count)
{
	struct gw_reader in = gw_reader_of(r->at, r->left);
	uint64_t gap, count;

	if (!r->left)
		return 0;
	gap = gw_get_varint(&in);
	count = gw_get_varint(&in);
	/* In this order, since each subtraction makes the next one safe. */
	if (in.bad || !count || gap > r->units - r->next ||
	    count > r->units - r->next - gap)
		return -EPROTO;
	*ret_first = r->next + gap;
	*ret_count = count;
	r->next = *ret_first + count;
	r->at = in.at;
	r->left = in.left;
	return 1;
}
