/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one core does to pages: looking for zeroes, compressing. */
#include <lz4.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "base/zero.h"
#include "bench/raw.h"
#include "bench/run.h"
#include "wire/frame.h"

/* Compression looks at so much of the memory: it is slow, and no slower for more. */
#define LZ4_SAMPLE (64ULL << 20)

/* ---- zero pages ---- */

/* Bytes a second. */
static double scan_once(const struct bench_memory *memory, uint64_t *ret_zero)
{
	uint64_t started = gw_now();

	*ret_zero = 0;
	for (uint64_t at = 0; at < memory->size; at += GW_UNIT_SIZE)
		*ret_zero += gw_unit_is_zero(memory->map + at);
	return (double)memory->size / bench_seconds_since(started);
}

/* The first half to the second: what is read and what is written both count once. */
static double copy_once(const struct bench_memory *memory)
{
	uint64_t half = memory->size / 2, started = gw_now();

	memcpy(memory->map + half, memory->map, half);
	return (double)half / bench_seconds_since(started);
}

int bench_run_zero(struct bench *bench, struct gw_err *err)
{
	struct bench_runs scans = {0}, reads = {0}, copies = {0};
	const struct bench_memory *memory = &bench->memory;
	uint64_t zero;
	int r;

	bench_say(bench, "zero");
	bench_pages_fill(BENCH_PAGES_ZERO, 0, memory->map, memory->size);
	for (unsigned int i = 0; i < bench->config->repeat; i++) {
		bench_runs_add(&reads, (double)memory->size / bench_raw_read(memory, 1));
		bench_runs_add(&scans, scan_once(memory, &zero));
		if (zero != memory->size >> GW_UNIT_SHIFT)
			return gw_err_set(err, -EIO, "zero pages were not found");
	}
	/* apart: the caches write back what it wrote while the next one reads */
	for (unsigned int i = 0; i < bench->config->repeat; i++)
		bench_runs_add(&copies, copy_once(memory));
	r = bench_report(bench, "zero", json_object(), "scan", "bytes/s", &scans,
			 "reading memory, 1 thread", &reads);
	return r ? r
		 : bench_report(bench, "zero", json_object(), "memcpy", "bytes/s",
				&copies, NULL, NULL);
}

/* ---- LZ4 ---- */

struct lz4_runs {
	struct bench_runs compress, decompress, ratio;
};

/* A packed copy of memory, in blocks as the engine makes them. */
struct packed {
	uint8_t *bytes;
	int *lengths; /* one a block */
	uint64_t n;
	uint64_t total;
};

static void pack(const struct bench_memory *memory, struct packed *packed)
{
	int bound = LZ4_compressBound(GW_FRAME_LZ4_MAX);

	packed->total = 0;
	for (uint64_t i = 0; i < packed->n; i++) {
		packed->lengths[i] = LZ4_compress_default(
			(const char *)memory->map + i * GW_FRAME_LZ4_MAX,
			(char *)packed->bytes + packed->total, GW_FRAME_LZ4_MAX, bound);
		packed->total += (uint64_t)packed->lengths[i];
	}
}

/* Whether all of it came out again. */
static bool unpack(const struct packed *packed, char *block)
{
	uint64_t at = 0;

	for (uint64_t i = 0; i < packed->n; i++) {
		int n = LZ4_decompress_safe((const char *)packed->bytes + at, block,
					    packed->lengths[i], GW_FRAME_LZ4_MAX);

		if (n != (int)GW_FRAME_LZ4_MAX)
			return false;
		at += (uint64_t)packed->lengths[i];
	}
	return true;
}

static int lz4_once(const struct bench_memory *memory, struct packed *packed, char *block,
		    struct lz4_runs *runs, struct gw_err *err)
{
	double size = (double)(packed->n * GW_FRAME_LZ4_MAX);
	uint64_t started = gw_now();

	pack(memory, packed);
	bench_runs_add(&runs->compress, size / bench_seconds_since(started));
	started = gw_now();
	if (!unpack(packed, block))
		return gw_err_set(err, -EIO, "what was compressed does not come out");
	bench_runs_add(&runs->decompress, size / bench_seconds_since(started));
	bench_runs_add(&runs->ratio, size / (double)packed->total);
	return 0;
}

static int lz4_report(struct bench *bench, enum bench_pages pages,
		      const struct lz4_runs *runs)
{
	const char *name = bench_pages_name(pages);
	int r = bench_report(bench, "lz4", json_pack("{s:s}", "pages", name), "compress",
			     "bytes/s", &runs->compress, NULL, NULL);

	if (!r)
		r = bench_report(bench, "lz4", json_pack("{s:s}", "pages", name),
				 "decompress", "bytes/s", &runs->decompress, NULL, NULL);
	if (!r)
		r = bench_report(bench, "lz4", json_pack("{s:s}", "pages", name),
				 "compression", "ratio", &runs->ratio, NULL, NULL);
	return r;
}

static int lz4_measure(struct bench *bench, enum bench_pages pages, struct packed *packed,
		       struct gw_err *err)
{
	char *block = malloc(GW_FRAME_LZ4_MAX);
	struct lz4_runs unmeasured = {0}, runs = {0};
	int r;

	if (!block)
		return -ENOMEM;
	bench_say(bench, "lz4, %s", bench_pages_name(pages));
	bench_pages_fill(pages, bench->config->seed, bench->memory.map,
			 packed->n * GW_FRAME_LZ4_MAX);
	r = lz4_once(&bench->memory, packed, block, &unmeasured, err);
	for (unsigned int i = 0; !r && i < bench->config->repeat; i++)
		r = lz4_once(&bench->memory, packed, block, &runs, err);
	free(block);
	return r ? r : lz4_report(bench, pages, &runs);
}

int bench_run_lz4(struct bench *bench, struct gw_err *err)
{
	uint64_t n = GW_MIN(bench->memory.size, LZ4_SAMPLE) / GW_FRAME_LZ4_MAX;
	struct packed packed = {
		.n = n,
		.bytes = malloc(n * (uint64_t)LZ4_compressBound(GW_FRAME_LZ4_MAX)),
		.lengths = calloc(n, sizeof(*packed.lengths)),
	};
	int r = packed.bytes && packed.lengths ? 0 : -ENOMEM;

	for (unsigned int i = 0; !r && i < BENCH_N_PAGES; i++)
		if (bench->config->pages & 1U << i)
			r = lz4_measure(bench, (enum bench_pages)i, &packed, err);
	free(packed.bytes);
	free(packed.lengths);
	return r;
}
