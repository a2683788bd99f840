/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From guest memory to frames on a channel. */
#include "multifd/pack.h"

#include <lz4.h>
#include <string.h>

#include "base/zero.h"

/* Compression has to save an eighth, or the receiver's time is wasted on it. */
#define WORTH_IT(raw) ((raw) - (raw) / 8)

int gw_packer_init(struct gw_packer *packer, const struct gw_memory *memory,
		   struct gw_chan *chan, struct gw_page_counters *counters, bool lz4)
{
	packer->memory = memory;
	packer->chan = chan;
	packer->counters = counters;
	packer->lz4 = lz4;
	packer->gathered = packer->compressed = NULL;
	if (!lz4)
		return 0;
	packer->gathered = malloc(GW_FRAME_LZ4_MAX);
	packer->compressed = malloc(GW_FRAME_LZ4_MAX);
	if (packer->gathered && packer->compressed)
		return 0;
	gw_packer_deinit(packer);
	return -ENOMEM;
}

void gw_packer_deinit(struct gw_packer *packer)
{
	free(packer->gathered);
	free(packer->compressed);
	packer->gathered = packer->compressed = NULL;
}

static void count(struct gw_packer *packer, const struct gw_frame *frame)
{
	__atomic_fetch_add(&packer->counters->data_units, gw_mask_count(frame->data),
			   __ATOMIC_RELAXED);
	__atomic_fetch_add(&packer->counters->zero_units, gw_mask_count(frame->zero),
			   __ATOMIC_RELAXED);
}

/*
 * Moves the bits of all-zero units from @data to @zero. The guest may be
 * writing meanwhile: then the unit is dirty again and a later round sends it.
 */
static void sort_out_zeroes(const struct gw_memory_region *region, uint64_t unit,
			    uint64_t data[GW_MASK_WORDS], uint64_t zero[GW_MASK_WORDS])
{
	/* A huge page is installed whole: it must not come in two kinds. */
	if (gw_memory_page_units(region) > 1)
		return;
	for (unsigned int i = 0; i < GW_MASK_WORDS; i++) {
		for (uint64_t bits = data[i]; bits; bits &= bits - 1) {
			unsigned int bit = (unsigned int)__builtin_ctzll(bits);

			if (!gw_unit_is_zero(gw_memory_at(region, unit + i * 64 + bit)))
				continue;
			data[i] &= ~(1ULL << bit);
			zero[i] |= 1ULL << bit;
		}
	}
}

static int send_raw(struct gw_packer *packer, struct gw_frame *frame)
{
	const struct gw_memory_region *region = &packer->memory->regions[frame->region];
	uint8_t header[GW_FRAME_LEN];
	unsigned int n = 1, first = 0, len;

	frame->encoding = GW_ENCODING_RAW;
	frame->payload = gw_mask_count(frame->data) * (uint32_t)GW_UNIT_SIZE;
	gw_frame_encode(frame, header);
	packer->iov[0] = (struct iovec){.iov_base = header, .iov_len = sizeof(header)};
	while ((len = gw_mask_next_run(frame->data, &first))) {
		packer->iov[n++] = (struct iovec){
			.iov_base = gw_memory_at(region, frame->unit + first),
			.iov_len = len * GW_UNIT_SIZE,
		};
		first += len;
	}
	count(packer, frame);
	return gw_chan_sendv(packer->chan, packer->iov, n);
}

/*
 * LZ4 looks at its input more than once: fed with memory that a guest writes
 * meanwhile it makes blocks that do not decode to a length anybody expects. It
 * gets a copy.
 */
static int gather(struct gw_packer *packer, const struct gw_frame *frame)
{
	const struct gw_memory_region *region = &packer->memory->regions[frame->region];
	unsigned int first = 0, len;
	size_t used = 0;

	while ((len = gw_mask_next_run(frame->data, &first))) {
		memcpy(packer->gathered + used, gw_memory_at(region, frame->unit + first),
		       len * GW_UNIT_SIZE);
		used += len * GW_UNIT_SIZE;
		first += len;
	}
	return (int)used;
}

static int send_compressed(struct gw_packer *packer, struct gw_frame *frame)
{
	uint8_t header[GW_FRAME_LEN];
	int raw = gather(packer, frame);
	int len = LZ4_compress_default((const char *)packer->gathered,
				       (char *)packer->compressed, raw, WORTH_IT(raw));

	if (len <= 0)
		return send_raw(packer, frame);
	frame->encoding = GW_ENCODING_LZ4;
	frame->payload = (uint32_t)len;
	gw_frame_encode(frame, header);
	packer->iov[0] = (struct iovec){.iov_base = header, .iov_len = sizeof(header)};
	packer->iov[1] =
		(struct iovec){.iov_base = packer->compressed, .iov_len = (size_t)len};
	count(packer, frame);
	return gw_chan_sendv(packer->chan, packer->iov, 2);
}

/* Moves the next units, as many as a compressed frame may hold, into @piece. */
static bool next_piece(uint64_t data[GW_MASK_WORDS], uint64_t piece[GW_MASK_WORDS])
{
	unsigned int n = 0;

	memset(piece, 0, GW_MASK_WORDS * sizeof(*piece));
	for (unsigned int i = 0; i < GW_MASK_WORDS; i++) {
		for (; data[i] && n < GW_FRAME_LZ4_UNITS; n++) {
			uint64_t lowest = data[i] & -data[i];

			data[i] &= ~lowest;
			piece[i] |= lowest;
		}
	}
	return n > 0;
}

static int send_pieces(struct gw_packer *packer, struct gw_frame *frame,
		       uint64_t data[GW_MASK_WORDS])
{
	while (next_piece(data, frame->data)) {
		int r = send_compressed(packer, frame);

		if (r)
			return r;
		/* The zero units went with the first piece. */
		memset(frame->zero, 0, sizeof(frame->zero));
	}
	return 0;
}

int gw_packer_send(struct gw_packer *packer, unsigned int region, uint64_t unit,
		   uint64_t data[GW_MASK_WORDS], uint64_t zero[GW_MASK_WORDS])
{
	const struct gw_memory_region *where = &packer->memory->regions[region];
	struct gw_frame frame = {
		.type = GW_FRAME_PAGES,
		.region = (uint16_t)region,
		.unit = unit,
		.count = GW_MIN((uint64_t)GW_EXTENT_UNITS, where->units - unit),
	};

	sort_out_zeroes(where, unit, data, zero);
	memcpy(frame.zero, zero, sizeof(frame.zero));
	if (packer->lz4 && gw_mask_count(data) && gw_memory_page_units(where) == 1)
		return send_pieces(packer, &frame, data);
	memcpy(frame.data, data, sizeof(frame.data));
	return send_raw(packer, &frame);
}

int gw_packer_send_bare(struct gw_packer *packer, enum gw_frame_type type,
			unsigned int region, uint64_t unit, uint64_t units)
{
	struct gw_frame frame = {
		.type = (uint8_t)type,
		.region = (uint16_t)region,
		.unit = unit,
		.count = units,
	};
	uint8_t header[GW_FRAME_LEN];

	gw_frame_encode(&frame, header);
	return gw_chan_send(packer->chan, header, sizeof(header));
}
