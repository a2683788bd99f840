/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From guest memory to frames on a channel. */
#include "multifd/pack.h"

#include <lz4.h>
#include <string.h>

#include "base/zero.h"

/* Compression has to save an eighth, or the receiver's time is wasted on it. */
#define WORTH_IT(raw) ((raw) - (raw) / 8)
/* A sample's size: large enough for LZ4's start not to count, and cheap. */
#define SAMPLE_UNITS 16U
/* More than that is left unsent at a frame's end only where the network is slow. */
#define BACKLOG (128U << 10)

int gw_packer_init(struct gw_packer *packer, const struct gw_memory *memory,
		   struct gw_chan *chan, struct gw_page_counters *counters,
		   struct gw_limiter *limiter, enum gw_compress compress)
{
	packer->memory = memory;
	packer->chan = chan;
	packer->counters = counters;
	packer->limiter = limiter;
	packer->limited_ns = packer->peer_ns = 0;
	packer->compress = compress;
	gw_adapt_init(&packer->adapt);
	packer->gathered = packer->compressed = NULL;
	if (compress == GW_COMPRESS_NONE)
		return 0;
	/* Untouched, and so no memory, until something is compressed. */
	packer->gathered = malloc(GW_FRAME_LZ4_MAX);
	packer->compressed = malloc(GW_FRAME_LZ4_MAX);
	if (packer->gathered && packer->compressed)
		return 0;
	gw_packer_deinit(packer);
	return -ENOMEM;
}

void gw_packer_begin(struct gw_packer *packer)
{
	gw_adapt_begin(&packer->adapt);
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

static int send_limited(struct gw_packer *packer, unsigned int n, size_t bytes)
{
	packer->limited_ns = 0;
	if (packer->limiter && gw_limiter_rate(packer->limiter)) {
		uint64_t began = gw_now();

		gw_limiter_take(packer->limiter, bytes);
		packer->limited_ns = gw_now() - began;
	}
	return gw_chan_sendv(packer->chan, packer->iov, n);
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
	return send_limited(packer, n, sizeof(header) + frame->payload);
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

static int send_lz4(struct gw_packer *packer, struct gw_frame *frame, uint32_t len)
{
	uint8_t header[GW_FRAME_LEN];
	struct gw_page_counters *counters = packer->counters;

	frame->encoding = GW_ENCODING_LZ4;
	frame->payload = len;
	gw_frame_encode(frame, header);
	packer->iov[0] = (struct iovec){.iov_base = header, .iov_len = sizeof(header)};
	packer->iov[1] = (struct iovec){.iov_base = packer->compressed, .iov_len = len};
	count(packer, frame);
	__atomic_fetch_add(&counters->lz4_units, gw_mask_count(frame->data),
			   __ATOMIC_RELAXED);
	__atomic_fetch_add(&counters->lz4_bytes, sizeof(header) + len, __ATOMIC_RELAXED);
	return send_limited(packer, 2, sizeof(header) + len);
}

static int send_compressed(struct gw_packer *packer, struct gw_frame *frame)
{
	uint64_t began = gw_now(), packed;
	int raw = gather(packer, frame);
	int len = LZ4_compress_default((const char *)packer->gathered,
				       (char *)packer->compressed, raw, WORTH_IT(raw));
	int r;

	packed = gw_now();
	r = len > 0 ? send_lz4(packer, frame, (uint32_t)len) : send_raw(packer, frame);
	gw_adapt_sent_lz4(&packer->adapt, (uint64_t)raw, frame->payload + GW_FRAME_LEN,
			  packed - began, gw_now() - packed);
	return r;
}

/* Was it the network that the last frame, which took @ns, waited for? */
static bool held_by_network(struct gw_packer *packer, uint64_t ns)
{
	struct gw_chan_backlog backlog;
	bool peer_waited;

	if (packer->limited_ns > ns / 2)
		return true;
	if (!gw_chan_backlog(packer->chan, &backlog))
		return false;
	peer_waited = backlog.peer_ns != packer->peer_ns;
	packer->peer_ns = backlog.peer_ns;
	return backlog.unsent >= BACKLOG && !peer_waited;
}

static int send_plain(struct gw_packer *packer, struct gw_frame *frame)
{
	uint64_t began, ns;
	int r;

	/* Zero pages alone are too short to tell anything. */
	if (packer->compress != GW_COMPRESS_AUTO || !gw_mask_count(frame->data))
		return send_raw(packer, frame);
	began = gw_now();
	r = send_raw(packer, frame);
	ns = gw_now() - began;
	gw_adapt_sent(&packer->adapt, frame->payload, ns, held_by_network(packer, ns));
	return r;
}

/* Moves the next units, @max at most, into @piece. */
static bool next_piece(uint64_t data[GW_MASK_WORDS], unsigned int max,
		       uint64_t piece[GW_MASK_WORDS])
{
	unsigned int n = 0;

	memset(piece, 0, GW_MASK_WORDS * sizeof(*piece));
	for (unsigned int i = 0; i < GW_MASK_WORDS; i++) {
		for (; data[i] && n < max; n++) {
			uint64_t lowest = data[i] & -data[i];

			data[i] &= ~lowest;
			piece[i] |= lowest;
		}
	}
	return n > 0;
}

/* How many units the next compressed piece may have; 0: do not compress. */
static unsigned int piece_units(const struct gw_packer *packer,
				const uint64_t data[GW_MASK_WORDS])
{
	const struct gw_adapt *adapt = &packer->adapt;

	if (packer->compress == GW_COMPRESS_LZ4 || adapt->packing)
		return GW_FRAME_LZ4_UNITS;
	if (packer->compress == GW_COMPRESS_AUTO && gw_adapt_wants_lz4(adapt) &&
	    gw_mask_count(data) >= SAMPLE_UNITS)
		return SAMPLE_UNITS;
	return 0;
}

/* Piece by piece while compressing is wanted, then the rest at once. */
static int send_pieces(struct gw_packer *packer, struct gw_frame *frame,
		       uint64_t data[GW_MASK_WORDS])
{
	unsigned int max;

	while ((max = piece_units(packer, data)) && next_piece(data, max, frame->data)) {
		int r = send_compressed(packer, frame);

		if (r || !gw_mask_count(data))
			return r;
		/* The zero units went with the first piece. */
		memset(frame->zero, 0, sizeof(frame->zero));
	}
	memcpy(frame->data, data, sizeof(frame->data));
	return send_plain(packer, frame);
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
	/* A huge page is installed whole, and a compressed frame does not hold one. */
	if (gw_memory_page_units(where) == 1)
		return send_pieces(packer, &frame, data);
	memcpy(frame.data, data, sizeof(frame.data));
	return send_plain(packer, &frame);
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
