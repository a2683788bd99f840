/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The write-tracking scanner.
 *
 * Happy path: memory is registered for asynchronous write-protection: a write
 * to a protected page lifts its protection in the kernel and nobody waits.
 * Each collect asks PAGEMAP_SCAN for the pages that are not protected and
 * protects them in the same step. "Not protected" includes pages that have
 * just no page-table entry (swapped out, dropped, never looked at): they cannot
 * be told from written ones, so they count as written.
 *
 * For that reason holes of the file must not be scanned: all of them would be
 * reported, and protecting them costs a page table for every 2 MiB. So a
 * bitmap says which units have data ("backed"), and a collect first brings it
 * up to date from the file: units newly backed are written by definition,
 * whatever the scan says, and units newly holes read as zeroes now. That rule
 * is also what makes the steps free of races: a unit that gets data after the
 * file was asked is not in the bitmap, is not reported, and is newly backed at
 * the next collect.
 *
 * Asking the file takes time (6 ms for each GiB of 4 KiB pages), much more
 * than the scan. New data is looked for only where holes were; holes are looked
 * for only when the file has another number of blocks than the bitmap has bits.
 *
 * Failure modes: a failed collect may have protected pages that it did not
 * report; the caller has to give up or start anew.
 *
 * Limits: a page that is punched out and then only *read* between two collects
 * has become zeroes without a write; the kernel keeps its protection and it
 * goes unseen. Writes that do not go through the process's page tables (write()
 * to the file, another process) are never seen.
 *
 * Threads: one at a time. Ownership: the descriptor and the bitmap are the
 * tracker's, the files are borrowed.
 */
#include "userfault/track.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "userfault/maps.h"
#include "userfault/register.h"
#include "userfault/uapi.h"

#define REGIONS_MAX 512 /* of one scan: 12 KiB of stack */
/* Holes up to this are scanned over: within one page table they cost nothing. */
#define BRIDGE_UNITS 512
#define STAT_BLOCK   512 /* bytes, what st_blocks counts */

/* A range and what is known of the file behind it. */
struct watched {
	struct gw_track_range range;
	uint64_t first, end; /* units, in the caller's numbering */
	bool has_holes;	     /* false on hugetlbfs, which cannot tell */
};

struct gw_track {
	struct gw_uffd uffd;
	int pagemap;
	size_t n;
	struct watched *watched;
	struct gw_bitmap backed;
};

/* What one collect works on. */
struct collect {
	struct gw_track *track;
	const struct watched *watched;
	struct gw_bitmap *dirty;
	struct gw_err *err;
	uint64_t reported;
};

static uint64_t unit_address(const struct watched *w, uint64_t unit)
{
	return w->range.address + ((unit - w->first) << GW_UNIT_SHIFT);
}

static uint64_t address_unit(const struct watched *w, uint64_t address)
{
	return w->first + ((address - w->range.address) >> GW_UNIT_SHIFT);
}

static void report(struct collect *c, uint64_t first, uint64_t end)
{
	c->reported += end - first - gw_bitmap_count_range(c->dirty, first, end - first);
	gw_bitmap_set_range(c->dirty, first, end - first);
}

/* ---- what the file has ---- */

/*
 * The first unit at or after @unit that has data (SEEK_DATA) or is a hole
 * (SEEK_HOLE), at most @w's end: 0 or negative errno. Moves no file position
 * that anybody relies on: guest memory is mapped, not read.
 */
static int seek_unit(const struct watched *w, uint64_t unit, int whence, uint64_t *ret)
{
	off_t from = (off_t)(w->range.offset + ((unit - w->first) << GW_UNIT_SHIFT));
	off_t at = lseek(w->range.fd, from, whence);
	uint64_t bytes;

	/* No data up to the end of the file, or @unit is past it: a hole. */
	if (at < 0 && errno == ENXIO) {
		*ret = whence == SEEK_DATA ? w->end : unit;
		return 0;
	}
	if (at < 0)
		return -errno;
	bytes = (uint64_t)at - w->range.offset;
	/* The last page of a file belongs to its data whole. */
	bytes = whence == SEEK_DATA ? bytes : gw_align_up(bytes, GW_UNIT_SIZE);
	*ret = GW_MIN(w->first + (bytes >> GW_UNIT_SHIFT), w->end);
	return 0;
}

/*
 * The end of the data that starts at @unit, at most @limit. Where other data
 * follows after @limit SEEK_HOLE would walk through all of that, so the pages
 * are asked one by one.
 */
static int data_end(const struct watched *w, uint64_t unit, uint64_t limit, uint64_t *ret)
{
	uint64_t next;
	int r;

	if (limit == w->end) {
		r = seek_unit(w, unit, SEEK_HOLE, &next);
		if (r)
			return r;
		/* Punched meanwhile: the next collect finds out. */
		*ret = GW_MAX(next, unit + 1);
		return 0;
	}
	for (unit++; unit < limit; unit++) {
		r = seek_unit(w, unit, SEEK_DATA, &next);
		if (r)
			return r;
		if (next != unit)
			break;
	}
	*ret = unit;
	return 0;
}

/* Units that were holes and have data now. */
static int find_filled(struct collect *c)
{
	const struct watched *w = c->watched;
	struct gw_bitmap *backed = &c->track->backed;
	uint64_t unit = gw_bitmap_next_clear(backed, w->first, w->end), limit = 0;

	while (unit < w->end) {
		uint64_t data, end;
		int r = seek_unit(w, unit, SEEK_DATA, &data);

		/* The next known data; good for as long as we have not come to it. */
		if (limit <= unit)
			limit = gw_bitmap_next_set(backed, unit, w->end);
		if (r)
			return r;
		if (data >= w->end)
			break;
		if (data < limit) {
			r = data_end(w, data, limit, &end);
			if (r)
				return r;
			gw_bitmap_set_range(backed, data, end - data);
			report(c, data, end);
			data = end;
		}
		unit = gw_bitmap_next_clear(backed, data, w->end);
	}
	return 0;
}

/* Units of [@unit, @end) that had data and are holes now. */
static int find_punched_run(struct collect *c, uint64_t unit, uint64_t end)
{
	const struct watched *w = c->watched;
	uint64_t hole, data;
	int r;

	while (unit < end) {
		r = seek_unit(w, unit, SEEK_HOLE, &hole);
		if (r)
			return r;
		if (hole >= end)
			break;
		r = seek_unit(w, hole, SEEK_DATA, &data);
		if (r)
			return r;
		unit = GW_MIN(GW_MAX(data, hole + 1), end);
		gw_bitmap_clear_range(&c->track->backed, hole, unit - hole);
		report(c, hole, unit);
	}
	return 0;
}

/*
 * Whether the file has as many pages as we know of, so that none can have been
 * punched. A page filled since we looked may hide one that was punched; it is
 * found at the next collect and then the numbers differ. Only where the range is the
 * whole file; preallocated pages that were never written make them differ too.
 */
static bool same_blocks(const struct collect *c)
{
	const struct watched *w = c->watched;
	struct stat st;

	if (w->range.offset || fstat(w->range.fd, &st) ||
	    (uint64_t)st.st_size > w->range.size)
		return false;
	return (uint64_t)st.st_blocks * STAT_BLOCK >> GW_UNIT_SHIFT ==
	       gw_bitmap_count_range(&c->track->backed, w->first, w->end - w->first);
}

static int find_punched(struct collect *c)
{
	int r = 0;

	if (same_blocks(c))
		return 0;
	gw_bitmap_for_each_run(&c->track->backed, c->watched->first, c->watched->end,
			       first, end) {
		r = find_punched_run(c, first, end);
		if (r)
			break;
	}
	return r;
}

static int update_backed(struct collect *c)
{
	const struct watched *w = c->watched;
	int r;

	if (!w->has_holes) {
		gw_bitmap_set_range(&c->track->backed, w->first, w->end - w->first);
		return 0;
	}
	r = find_filled(c);
	if (!r)
		r = find_punched(c);
	if (r)
		return gw_err_errno(c->err, r,
				    "cannot ask the memory file for its holes");
	return 0;
}

/* ---- what was written ---- */

/* Reports what of the written [@start, @end) is backed. */
static void report_region(struct collect *c, uint64_t start, uint64_t end)
{
	uint64_t from = address_unit(c->watched, start);
	uint64_t to = address_unit(c->watched, end);

	gw_bitmap_for_each_run(&c->track->backed, from, to, first, last)
		report(c, first, last);
}

static int scan_failed(struct collect *c, int code)
{
	const struct gw_track_range *range = &c->watched->range;

	if (code == -EPERM)
		return gw_err_set(
			c->err, code,
			"process %d has replaced memory in %#" PRIx64 "-%#" PRIx64
			" by another mapping: its writes can no longer be seen",
			c->track->uffd.pid, range->address, range->address + range->size);
	return gw_err_errno(c->err, code,
			    "cannot scan memory %#" PRIx64 "-%#" PRIx64 " of process %d",
			    range->address, range->address + range->size,
			    c->track->uffd.pid);
}

/* Reports and protects again the units [@first, @end). */
static int scan(struct collect *c, uint64_t first, uint64_t end)
{
	struct page_region regions[REGIONS_MAX];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = unit_address(c->watched, first),
		.end = unit_address(c->watched, end),
		.vec = (uint64_t)(uintptr_t)regions,
		.vec_len = REGIONS_MAX,
		/* Exactly this mask: then entries that are not there count too. */
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};

	while (arg.start < arg.end) {
		int n = ioctl(c->track->pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return scan_failed(c, -errno);
		for (int i = 0; i < n; i++)
			report_region(c, regions[i].start, regions[i].end);
		/* Less than the end when the vector was full. */
		if (arg.walk_end <= arg.start)
			return scan_failed(c, -EIO);
		arg.start = arg.walk_end;
	}
	return 0;
}

static int scan_backed(struct collect *c)
{
	const struct gw_bitmap *backed = &c->track->backed;
	const struct watched *w = c->watched;
	uint64_t first = gw_bitmap_next_set(backed, w->first, w->end), end, next;
	int r = 0;

	while (!r && first < w->end) {
		end = gw_bitmap_next_clear(backed, first, w->end);
		next = gw_bitmap_next_set(backed, end, w->end);
		while (next < w->end && next - end <= BRIDGE_UNITS) {
			end = gw_bitmap_next_clear(backed, next, w->end);
			next = gw_bitmap_next_set(backed, end, w->end);
		}
		r = scan(c, first, end);
		first = next;
	}
	return r;
}

int64_t gw_track_collect(struct gw_track *track, struct gw_bitmap *dirty,
			 struct gw_err *err)
{
	struct collect c = {.track = track, .dirty = dirty, .err = err};
	int r = 0;

	for (size_t i = 0; !r && i < track->n; i++) {
		c.watched = &track->watched[i];
		r = update_backed(&c);
		if (!r)
			r = scan_backed(&c);
	}
	/* Of a process that is gone the scan finds nothing, without a word. */
	if (gw_uffd_gone(&track->uffd))
		return gw_err_set(err, -ESRCH, "process %d has ended", track->uffd.pid);
	return r ? r : (int64_t)c.reported;
}

const struct gw_bitmap *gw_track_backed(const struct gw_track *track)
{
	return &track->backed;
}

/* ---- making and ending ---- */

static int watched_init(struct watched *w, const struct gw_track_range *range,
			struct gw_err *err)
{
	uint64_t page, unaligned;
	int r = gw_maps_page_size(range->fd, err, &page);

	if (r < 0)
		return r;
	unaligned = (range->address | range->size | range->offset) & (page - 1);
	if (!range->size || unaligned)
		return gw_err_set(err, -EINVAL,
				  "memory range %#" PRIx64 " + %#" PRIx64
				  " is not made of whole pages of %" PRIu64 " bytes",
				  range->address, range->size, page);
	*w = (struct watched){
		.range = *range,
		.first = range->first_unit,
		.end = range->first_unit + (range->size >> GW_UNIT_SHIFT),
		.has_holes = page == GW_UNIT_SIZE,
	};
	return 0;
}

static int open_pagemap(struct gw_track *track, struct gw_err *err)
{
	struct pm_scan_arg arg = {.size = sizeof(arg)};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", track->uffd.pid);
	track->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (track->pagemap < 0)
		return gw_err_errno(err, errno == ENOENT ? -ESRCH : -errno,
				    "cannot open the page map of process %d",
				    track->uffd.pid);
	/* Nothing to scan: just whether the kernel knows the request. */
	if (ioctl(track->pagemap, PAGEMAP_SCAN, &arg) < 0 && errno == ENOTTY)
		return gw_err_set(
			err, -ENOSYS,
			"this kernel has no PAGEMAP_SCAN: tracking the writes of a "
			"running guest needs Linux 6.7 or newer");
	return 0;
}

static int track_init(struct gw_track *track, const struct gw_track_range *ranges,
		      size_t n, struct gw_err *err)
{
	uint64_t units = 0;
	int r;

	track->watched = calloc(n, sizeof(*track->watched));
	if (!track->watched)
		return gw_err_errno(err, -ENOMEM, "cannot start tracking");
	for (size_t i = 0; i < n; i++) {
		r = watched_init(&track->watched[i], &ranges[i], err);
		if (r < 0)
			return r;
		units = GW_MAX(units, track->watched[i].end);
	}
	/* Whole extents, since callers look at it by the word. */
	if (gw_bitmap_init(&track->backed, gw_align_up(units, GW_EXTENT_UNITS)))
		return gw_err_errno(err, -ENOMEM, "cannot start tracking");
	r = open_pagemap(track, err);
	/* What is registered already is counted in n, for the end to undo. */
	for (size_t i = 0; !r && i < n; i++) {
		r = gw_uffd_register(&track->uffd, ranges[i].address, ranges[i].size,
				     UFFDIO_REGISTER_MODE_WP, err);
		track->n += !r;
	}
	return r;
}

/* All but the userfaultfd. */
static void track_deinit(struct gw_track *track)
{
	for (size_t i = 0; i < track->n; i++)
		gw_uffd_unregister(&track->uffd, track->watched[i].range.address,
				   track->watched[i].range.size);
	gw_close(&track->pagemap);
	gw_bitmap_deinit(&track->backed);
	free(track->watched);
	free(track);
}

int gw_track_new(struct gw_uffd *uffd, const struct gw_track_range *ranges, size_t n,
		 struct gw_err *err, struct gw_track **ret)
{
	struct gw_track *track = calloc(1, sizeof(*track));
	int r;

	if (!track)
		return gw_err_errno(err, -ENOMEM, "cannot start tracking");
	track->uffd = *uffd;
	track->pagemap = -1;
	r = track_init(track, ranges, n, err);
	if (r < 0) {
		track_deinit(track);
		return r;
	}
	uffd->fd = -1;
	uffd->remote_fd = -1;
	*ret = track;
	return 0;
}

struct gw_track *gw_track_free(struct gw_track *track)
{
	struct gw_uffd uffd;

	if (!track)
		return NULL;
	uffd = track->uffd;
	track_deinit(track);
	gw_uffd_release(&uffd, NULL);
	return NULL;
}
