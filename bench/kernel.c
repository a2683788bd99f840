/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel does for us, asked as the engine asks: finding written pages,
 * installing missing ones, registering memory, mapping it a second time. All on
 * this process's own memory, which is as any other's.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "bench/run.h"
#include "userfault/fault.h"
#include "userfault/track.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define GIB ((double)(1ULL << 30))

/* One page of so many is written between two scans. */
#define DIRTY_ONE_OF 1000U

static uint64_t address_of(const struct bench_memory *memory)
{
	return (uint64_t)(uintptr_t)memory->map;
}

/* ---- what was written ---- */

/* Writes to as many different pages as it says. */
static uint64_t make_dirty(const struct bench_memory *memory, struct bench_rng *rng)
{
	uint64_t units = memory->size >> GW_UNIT_SHIFT;
	uint64_t stride = GW_MIN(DIRTY_ONE_OF, units), n = 0;

	/* one in each stretch, anywhere in it: never twice the same */
	for (uint64_t at = 0; at + stride <= units; at += stride, n++)
		memory->map[(at + bench_rng_below(rng, stride)) << GW_UNIT_SHIFT]++;
	return n;
}

static int dirty_once(struct gw_track *track, const struct bench_memory *memory,
		      struct gw_bitmap *dirty, struct bench_rng *rng,
		      struct bench_runs *ns, struct gw_err *err)
{
	uint64_t written, started;
	int64_t found;

	gw_bitmap_clear_all(dirty);
	written = make_dirty(memory, rng);
	started = gw_now();
	found = gw_track_collect(track, dirty, err);
	if (found < 0)
		return (int)found;
	bench_runs_add(ns, (double)(gw_now() - started));
	if ((uint64_t)found != written && (uint64_t)found < written)
		return gw_err_set(err, -EIO, "%lld of %llu written pages were found",
				  (long long)found, (unsigned long long)written);
	return 0;
}

static int dirty_report(struct bench *bench, const struct bench_runs *ns)
{
	double gib = (double)bench->memory.size / GIB;
	struct bench_runs each = {0};
	int r = bench_report(bench, "dirty", json_object(), "scan", "ns", ns, NULL, NULL);

	for (unsigned int i = 0; i < ns->n; i++)
		bench_runs_add(&each, ns->values[i] / 1e9 / gib);
	return r ? r
		 : bench_report(bench, "dirty", json_object(), "scan of 1 GiB", "s/GiB",
				&each, NULL, NULL);
}

static int dirty_measure(struct bench *bench, struct gw_track *track,
			 struct gw_bitmap *dirty, struct gw_err *err)
{
	struct bench_rng rng = {.state = bench->config->seed};
	struct bench_runs unmeasured = {0}, ns = {0};
	/* the first reports everything: it arms */
	int64_t first = gw_track_collect(track, dirty, err);
	int r = (int)GW_MIN(first, 0);

	if (!r)
		r = dirty_once(track, &bench->memory, dirty, &rng, &unmeasured, err);
	for (unsigned int i = 0; !r && i < bench->config->repeat; i++)
		r = dirty_once(track, &bench->memory, dirty, &rng, &ns, err);
	return r ? r : dirty_report(bench, &ns);
}

static int track_start(struct bench *bench, struct gw_err *err, struct gw_track **ret)
{
	struct gw_track_range range = {
		.address = address_of(&bench->memory),
		.size = bench->memory.size,
		.fd = bench->memory.fd,
	};
	struct gw_uffd uffd;
	int r = gw_uffd_attach(0, GW_UFFD_TRACK, false, NULL, err, &uffd);

	if (r)
		return r;
	r = gw_track_new(&uffd, &range, 1, err, ret);
	if (r)
		gw_uffd_detach(&uffd);
	return r;
}

int bench_run_dirty(struct bench *bench, struct gw_err *err)
{
	struct gw_track *track;
	struct gw_bitmap dirty;
	int r;

	bench_say(bench, "dirty");
	/* allocated alone, pages would still be holes to the tracker */
	memset(bench->memory.map, 1, bench->memory.size);
	r = track_start(bench, err, &track);
	if (r)
		return r;
	r = gw_bitmap_init(&dirty, bench->memory.size >> GW_UNIT_SHIFT);
	if (!r) {
		r = dirty_measure(bench, track, &dirty, err);
		gw_bitmap_deinit(&dirty);
	}
	gw_track_free(track);
	return r;
}

/* ---- installing ---- */

/* A way to have pages in place, and what has to be before it can be used. */
struct way {
	const char *name;
	int (*prepare)(struct bench_memory *memory, struct gw_err *err);
	int (*install)(const struct gw_uffd *uffd, uint64_t address, const void *source,
		       uint64_t size);
	bool copies; /* then copying to pages that are there is the ceiling */
};

/* All pages are in the file, and none in the page table. */
static int unmap_all(struct bench_memory *memory, struct gw_err *err)
{
	if (madvise(memory->map, memory->size, MADV_POPULATE_WRITE) ||
	    madvise(memory->map, memory->size, MADV_DONTNEED))
		return gw_err_errno(err, -errno, "cannot unmap memory (Linux 5.14)");
	return 0;
}

static int install_continue(const struct gw_uffd *uffd, uint64_t address,
			    const void *source, uint64_t size)
{
	return gw_fault_continue(uffd, address, size);
}

static const struct way ways[] = {
	{"copy", bench_memory_drop, gw_fault_copy, true},
	{"continue", unmap_all, install_continue, false},
};

static int install_pieces(const struct gw_uffd *uffd, const struct bench_memory *memory,
			  const struct way *way, uint64_t piece, const void *source)
{
	int r = 0;

	for (uint64_t at = 0; !r && at < memory->size; at += piece)
		r = way->install(uffd, address_of(memory) + at, source, piece);
	return r;
}

/* All of memory, out of one piece that stays in the cache: pages a second. */
static int install_all(struct bench *bench, const struct way *way, uint64_t piece,
		       const void *source, struct bench_runs *runs, struct gw_err *err)
{
	const struct bench_memory *memory = &bench->memory;
	struct gw_uffd uffd;
	uint64_t started;
	int r = way->prepare(&bench->memory, err);

	if (!r)
		r = gw_uffd_attach(0, GW_UFFD_FAULTS, false, NULL, err, &uffd);
	if (r)
		return r;
	r = gw_fault_register(&uffd, address_of(memory), memory->size, err);
	started = gw_now();
	if (!r) {
		r = install_pieces(&uffd, memory, way, piece, source);
		if (r < 0)
			gw_err_errno(err, r, "pages could not be installed");
		else if (r)
			r = gw_err_set(err, -EIO, "pages were there beforehand");
	}
	if (!r)
		bench_runs_add(runs, (double)(memory->size >> GW_UNIT_SHIFT) /
					     bench_seconds_since(started));
	gw_uffd_detach(&uffd);
	return r;
}

static void copy_all(const struct bench_memory *memory, uint64_t piece,
		     const void *source, struct bench_runs *runs)
{
	uint64_t started = gw_now();

	for (uint64_t at = 0; at < memory->size; at += piece)
		memcpy(memory->map + at, source, piece);
	bench_runs_add(runs, (double)(memory->size >> GW_UNIT_SHIFT) /
				     bench_seconds_since(started));
}

static int install_measure(struct bench *bench, const struct way *way, uint64_t piece,
			   const void *source, struct gw_err *err)
{
	struct bench_runs unmeasured = {0}, rate = {0}, copies = {0};
	int r;

	bench_say(bench, "install, by %s, pieces of %u KiB", way->name,
		  (unsigned int)(piece >> 10));
	r = install_all(bench, way, piece, source, &unmeasured, err);
	for (unsigned int i = 0; !r && i < bench->config->repeat; i++) {
		if (way->copies)
			copy_all(&bench->memory, piece, source, &copies);
		r = install_all(bench, way, piece, source, &rate, err);
	}
	if (r)
		return r;
	return bench_report(
		bench, "install",
		json_pack("{s:s, s:I}", "by", way->name, "piece", (json_int_t)piece),
		"install", "pages/s", &rate, "memcpy to present pages",
		way->copies ? &copies : NULL);
}

int bench_run_install(struct bench *bench, struct gw_err *err)
{
	static const uint64_t pieces[] = {4 << 10, 16 << 10, 64 << 10, 256 << 10,
					  512 << 10};
	void *source = aligned_alloc(GW_UNIT_SIZE, 512 << 10);
	int r = source ? 0 : -ENOMEM;

	if (source)
		bench_pages_fill(BENCH_PAGES_RANDOM, bench->config->seed, source,
				 512 << 10);
	for (size_t w = 0; w < GW_ARRAY_SIZE(ways); w++)
		for (size_t i = 0; !r && i < GW_ARRAY_SIZE(pieces); i++)
			r = install_measure(bench, &ways[w], pieces[i], source, err);
	free(source);
	return r;
}

/* ---- registering ---- */

/* What registering took, in s/GiB: of memory in the page table, or of none there. */
static int register_once(struct bench *bench, struct bench_runs *runs, struct gw_err *err)
{
	const struct bench_memory *memory = &bench->memory;
	struct gw_uffd uffd;
	uint64_t started;
	int r = gw_uffd_attach(0, GW_UFFD_FAULTS, false, NULL, err, &uffd);

	if (r)
		return r;
	started = gw_now();
	r = gw_fault_register(&uffd, address_of(memory), memory->size, err);
	if (!r)
		bench_runs_add(runs, bench_seconds_since(started) /
					     ((double)memory->size / GIB));
	gw_uffd_detach(&uffd);
	return r;
}

/* A second mapping as the engine has one, with its page table filled: bytes/s. */
static int populate_once(struct bench *bench, struct bench_runs *runs, struct gw_err *err)
{
	const struct bench_memory *memory = &bench->memory;
	void *second = mmap(NULL, memory->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    memory->fd, 0);
	uint64_t started;
	int r = 0;

	if (second == MAP_FAILED)
		return gw_err_errno(err, -errno, "cannot map the memory twice");
	started = gw_now();
	if (madvise(second, memory->size, MADV_POPULATE_WRITE))
		r = gw_err_errno(err, -errno, "cannot populate a mapping (Linux 5.14)");
	else
		bench_runs_add(runs, (double)memory->size / bench_seconds_since(started));
	munmap(second, memory->size);
	return r;
}

int bench_run_register(struct bench *bench, struct gw_err *err)
{
	struct bench_runs unmeasured = {0}, times = {0}, rates = {0};
	int r;

	bench_say(bench, "register");
	bench_pages_fill(BENCH_PAGES_RANDOM, bench->config->seed, bench->memory.map,
			 bench->memory.size);
	r = register_once(bench, &unmeasured, err);
	if (!r)
		r = populate_once(bench, &unmeasured, err);
	for (unsigned int i = 0; !r && i < bench->config->repeat; i++) {
		r = register_once(bench, &times, err);
		if (!r)
			r = populate_once(bench, &rates, err);
	}
	if (!r)
		r = bench_report(bench, "register",
				 json_pack("{s:s}", "what", "userfaultfd"), "register",
				 "s/GiB", &times, NULL, NULL);
	if (!r)
		r = bench_report(bench, "register",
				 json_pack("{s:s}", "what", "second mapping"), "populate",
				 "bytes/s", &rates, NULL, NULL);
	return r;
}
