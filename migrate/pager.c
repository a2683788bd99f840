/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest memory at the destination.
 *
 * Happy path, pre-copy: place() says where the memory of a run of units is, and
 * the channel's thread receives into it; or, for new memory, that the bytes are
 * to be handed to install(), which has the kernel make pages of them. At the
 * switch drop() notes what is named missing, and arm() registers userfaultfd on
 * the extents around it and makes sure that the guest's process has none of it
 * mapped: from then on whatever the process touches there waits. serve() starts
 * the fault thread, which asks for what the guest touches. install() writes whole
 * pages through our own mapping, where the process does not see them yet, and
 * then has the kernel map them; for holes it has the kernel make pages and map
 * them at once. Memory that was there before the switch is used again.
 *
 * What a unit is:
 *   missing clear		the guest's own: here, or a hole that reads as zero
 *   missing set		it will come; a fault on it is sent to the source
 *   missing and requested	it has been asked for on the urgent channel
 *   missing and busy		until arm(): not looked at yet; later: a thread is
 *				writing it, and whoever else brings it drops it
 * `missing` goes from set to clear once, by the thread that made it busy. A
 * thread is busy for the time of a copy: it never waits for the network then, so
 * an urgent page never waits behind a bulk one. Zero units of the bulk channels
 * are not installed where there is a hole, merely not missing any more, unless
 * somebody has asked: zero() clears `missing` before it looks at `requested`,
 * and the fault thread sets `requested` after it looked at `missing`, so either
 * zero() sees the request and installs, or the request reaches the source, and
 * its answer makes sure that the page is mapped and wakes the thread.
 *
 * Failure modes: the file system is full (populate() finds out before a byte is
 * written: no SIGBUS); a page is there already (woken, dropped: the source's
 * memory holds still, so it is the same); the process is gone.
 *
 * Threads: the driver drops, arms and stops; channels' threads install; the
 * fault thread belongs to this object. `hist_lock` is a leaf.
 */
#include "migrate/pager.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/event.h"
#include "base/priority.h"
#include "base/util.h"
#include "base/zero.h"
#include "userfault/fault.h"
#include "userfault/filler.h"
#include "userfault/mapped.h"
#include "wire/frame.h"

/* Faults read in one go. */
#define FAULT_BATCH 64
/* Requests whose time is taken; beyond it (more vCPUs than this) some are not. */
#define TIMED_REQUESTS 1024
/* Registered pieces of memory each cost the VMM a mapping; it may have 65,530. */
#define RANGES_MAX 2048
/* Before a hole that does not become one is an error. */
#define PUNCH_TRIES 100
/* Before a page that others discard and fill all the time is an error. */
#define SHOW_TRIES 100
/* A piece so long is unmapped by the process itself, which keeps the memory, ... */
#define FORGET_UNITS (16 * GW_EXTENT_UNITS)
/* ... when at least one page of so many in it was dropped. */
#define FORGET_SHARE 4
/* A run so long is entered into our page tables by one call, not by faults. */
#define POPULATE_UNITS 16
/* As much at a time: the process's thread is held for about a quarter of a second. */
#define FORGET_MAX (16ULL << 30)

struct timed_request {
	uint64_t unit;	/* global number plus one; 0: free */
	uint64_t since; /* ns */
};

struct gw_pager {
	struct gw_pager_config config;
	struct gw_bitmap populated; /* has memory in the file */
	struct gw_bitmap missing;   /* will come */
	struct gw_bitmap requested; /* asked for */
	struct gw_bitmap busy;	    /* being worked on: see "What a unit is" */
	uint64_t n_missing;	    /* atomic */
	bool postcopy;		    /* atomic: set by the first drop */
	struct gw_uffd uffd;
	struct gw_filler *fillers; /* by region; those without base are not used */
	struct gw_mapped mapped;
	struct gw_chan *urgent;
	struct gw_event stop;
	pthread_t thread;
	bool started;
	pthread_mutex_t hist_lock;
	struct gw_hist hist;			    /* under hist_lock */
	struct timed_request timed[TIMED_REQUESTS]; /* under hist_lock */
};

static const struct gw_memory_region *region_at(const struct gw_pager *pager,
						unsigned int region)
{
	return &pager->config.memory->regions[region];
}

/*
 * Whether new memory is had best by copying to it: pages of one size, which are
 * not cleared then. Where the file system can give larger ones we ask for those.
 */
static bool new_by_copy(const struct gw_memory_region *region)
{
	return !region->larger_pages;
}

/* ---- life ---- */

static int init_bitmaps(struct gw_pager *pager)
{
	uint64_t units = pager->config.memory->units;
	int r = gw_bitmap_init(&pager->populated, units);

	if (!r)
		r = gw_bitmap_init(&pager->missing, units);
	if (!r)
		r = gw_bitmap_init(&pager->requested, units);
	if (!r)
		r = gw_bitmap_init(&pager->busy, units);
	return r;
}

/* Pre-copy lands in place where this does not work. */
static void init_fillers(struct gw_pager *pager)
{
	for (unsigned int i = 0; i < pager->config.memory->n_regions; i++) {
		const struct gw_memory_region *region = region_at(pager, i);
		struct gw_err err = {0};

		if (new_by_copy(region) && gw_memory_page_units(region) == 1 &&
		    gw_filler_init(&pager->fillers[i], region->fd, region->offset,
				   region->units << GW_UNIT_SHIFT, &err))
			gw_debug(pager->config.log,
				 "region '%s': new pages are cleared first: %s",
				 region->name, err.text);
	}
}

int gw_pager_new(const struct gw_pager_config *config, struct gw_err *err,
		 struct gw_pager **ret)
{
	struct gw_pager *pager = calloc(1, sizeof(*pager));
	int r;

	if (!pager)
		return gw_err_set(err, -ENOMEM, "out of memory");
	pager->config = *config;
	pager->uffd.fd = pager->uffd.remote_fd = -1;
	pager->mapped.pagemap = -1;
	pager->stop.fd = -1;
	pthread_mutex_init(&pager->hist_lock, NULL);
	pager->fillers = calloc(config->memory->n_regions, sizeof(*pager->fillers));
	r = pager->fillers ? init_bitmaps(pager) : -ENOMEM;
	if (!r)
		r = gw_event_init(&pager->stop);
	if (r) {
		gw_pager_free(pager);
		return gw_err_errno(err, r, "preparing the page server");
	}
	gw_memory_find_backed(config->memory, &pager->populated);
	init_fillers(pager);
	*ret = pager;
	return 0;
}

int gw_pager_attach(struct gw_pager *pager, struct gw_err *err)
{
	int r = gw_mapped_init(&pager->mapped, pager->config.pid, err);

	return r ? r
		 : gw_uffd_attach(pager->config.pid, GW_UFFD_FAULTS, true,
				  pager->config.log, err, &pager->uffd);
}

void gw_pager_set_urgent(struct gw_pager *pager, struct gw_chan *urgent)
{
	pager->urgent = urgent;
}

struct gw_pager *gw_pager_free(struct gw_pager *pager)
{
	if (!pager)
		return NULL;
	assert(!pager->started);
	if (pager->uffd.fd >= 0)
		gw_uffd_detach(&pager->uffd);
	for (unsigned int i = 0; pager->fillers && i < pager->config.memory->n_regions;
	     i++)
		gw_filler_deinit(&pager->fillers[i]);
	free(pager->fillers);
	gw_mapped_deinit(&pager->mapped);
	gw_event_deinit(&pager->stop);
	gw_bitmap_deinit(&pager->busy);
	gw_bitmap_deinit(&pager->requested);
	gw_bitmap_deinit(&pager->missing);
	gw_bitmap_deinit(&pager->populated);
	pthread_mutex_destroy(&pager->hist_lock);
	free(pager);
	return NULL;
}

uint64_t gw_pager_bitmap_bytes(const struct gw_pager *pager)
{
	return 4 * gw_bitmap_bytes(&pager->populated);
}

/* Of unit @unit of @region in the guest's process. */
static uint64_t address_of(const struct gw_memory_region *region, uint64_t unit)
{
	return region->address + (unit << GW_UNIT_SHIFT);
}

/* A page is missing, and comes, as a whole: whatever the peer says. */
static bool whole_pages(const struct gw_memory_region *region, uint64_t unit,
			uint64_t count)
{
	return (unit | count) % gw_memory_page_units(region) == 0;
}

/* ---- pre-copy: landing in place ---- */

/*
 * Writing to memory that a full tmpfs cannot give is SIGBUS; populating it first
 * is an error code, and enters the whole run into our page tables at once, also
 * where the memory is there.
 */
static int populate(struct gw_pager *pager, const struct gw_memory_region *region,
		    uint64_t first, uint64_t count)
{
	uint64_t unit = first - region->first_unit;

	if (madvise(gw_memory_at(region, unit), count << GW_UNIT_SHIFT,
		    MADV_POPULATE_WRITE))
		return errno == EFAULT ? -ENOSPC : -errno;
	gw_bitmap_set_range(&pager->populated, first, count);
	return 0;
}

int gw_pager_place(struct gw_pager *pager, unsigned int index, uint64_t unit,
		   uint64_t count, void **ret)
{
	const struct gw_memory_region *region = region_at(pager, index);
	uint64_t at = region->first_unit + unit;
	bool backed;

	if (__atomic_load_n(&pager->postcopy, __ATOMIC_ACQUIRE))
		return GW_PLACE_RUNNING;
	backed = gw_bitmap_next_clear(&pager->populated, at, at + count) == at + count;
	if (!backed && pager->fillers[index].base)
		return GW_PLACE_LATER;
	/* A short run that has memory is entered by a fault or two: no call. */
	if (!backed || count >= POPULATE_UNITS) {
		int r = populate(pager, region, at, count);

		if (r)
			return r;
	}
	*ret = gw_memory_at(region, unit);
	return GW_PLACE_HERE;
}

/* Into new memory of the file, before the guest runs. */
static int store(struct gw_pager *pager, unsigned int index, uint64_t unit,
		 uint64_t count, const uint8_t *data)
{
	const struct gw_memory_region *region = region_at(pager, index);
	uint64_t at = unit << GW_UNIT_SHIFT, end = (unit + count) << GW_UNIT_SHIFT;

	while (at < end) {
		int64_t n = gw_filler_fill(&pager->fillers[index], at, data, end - at);

		if (n < 0)
			return (int)n;
		/* There already: new contents for old. */
		if (!n) {
			int r = populate(pager, region,
					 region->first_unit + (at >> GW_UNIT_SHIFT), 1);

			if (r)
				return r;
			memcpy(region->base + at, data, GW_UNIT_SIZE);
			n = GW_UNIT_SIZE;
		}
		at += (uint64_t)n;
		data += n;
	}
	gw_bitmap_set_range(&pager->populated, region->first_unit + unit, count);
	return 0;
}

/* Memory that is zero already is not written. */
static void clear(uint8_t *memory, uint64_t units)
{
	for (uint64_t i = 0; i < units; i++, memory += GW_UNIT_SIZE)
		if (!gw_unit_is_zero(memory))
			memset(memory, 0, GW_UNIT_SIZE);
}

/* A hole is zero already. */
static void zero_in_place(struct gw_pager *pager, const struct gw_memory_region *region,
			  uint64_t unit, uint64_t count)
{
	uint64_t at = region->first_unit + unit, end = at + count;

	gw_bitmap_for_each_run(&pager->populated, at, end, first, last)
		clear(gw_memory_at(region, first - region->first_unit), last - first);
}

/* ---- the switch ---- */

int gw_pager_drop(struct gw_pager *pager, unsigned int index, uint64_t unit,
		  uint64_t count, struct gw_err *err)
{
	const struct gw_memory_region *region = region_at(pager, index);
	uint64_t at = region->first_unit + unit, fresh;

	if (!whole_pages(region, unit, count))
		return gw_err_set(err, -EPROTO,
				  "region '%s': part of a huge page is named missing",
				  region->name);
	__atomic_store_n(&pager->postcopy, true, __ATOMIC_RELEASE);
	fresh = count - gw_bitmap_count_range(&pager->missing, at, count);
	gw_bitmap_set_range(&pager->missing, at, count);
	gw_bitmap_set_range(&pager->busy, at, count);
	__atomic_fetch_add(&pager->n_missing, fresh, __ATOMIC_ACQ_REL);
	return 0;
}

static int punch(const struct gw_memory_region *region, uint64_t unit, uint64_t count)
{
	return fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)(region->offset + (unit << GW_UNIT_SHIFT)),
			 (off_t)(count << GW_UNIT_SHIFT))
		       ? -errno
		       : 0;
}

/* Whether units are a hole, as far as the file system can tell. */
static bool is_hole(const struct gw_memory_region *region, uint64_t unit, uint64_t count)
{
	uint64_t at = region->offset + (unit << GW_UNIT_SHIFT);
	off_t data = lseek(region->fd, (off_t)at, SEEK_DATA);

	if (data < 0)
		return errno == ENXIO;
	return (uint64_t)data >= at + (count << GW_UNIT_SHIFT) ||
	       gw_memory_page_units(region) > 1;
}

/*
 * A page that stays mapped would be taken for one that has come, so it is looked
 * whether the hole is one: the kernel zeroes instead of freeing where a large
 * folio does not split, which another reference to it can cause for a moment.
 */
static int empty(const struct gw_memory_region *region, uint64_t unit, uint64_t count)
{
	for (int i = 0; i < PUNCH_TRIES; i++) {
		int r = punch(region, unit, count);

		if (r || is_hole(region, unit, count))
			return r;
		sched_yield();
	}
	return -EBUSY;
}

/*
 * Has the guest's process forget a long piece. What it will not forget (locked
 * memory) is punched out of the file.
 */
static void forget(struct gw_pager *pager, uint64_t address, uint64_t end)
{
	uint64_t start, stop, size;
	int r = 0;

	while (!r && address + (FORGET_UNITS << GW_UNIT_SHIFT) <= end) {
		if (gw_mapped_next(&pager->mapped, address, end, &start, &stop) <= 0)
			return;
		size = GW_MIN(end - start, FORGET_MAX);
		r = gw_mapped_forget(&pager->mapped, start, size, pager->config.log);
		address = start + size;
	}
	if (r)
		gw_debug(pager->config.log,
			 "process %d keeps its pages mapped: %s; they are punched out",
			 pager->config.pid, strerror(-r));
}

/* Punches what was dropped out of [@first, @last), which the process has mapped. */
static int punch_mapped(struct gw_pager *pager, const struct gw_memory_region *region,
			uint64_t first, uint64_t last)
{
	gw_bitmap_for_each_run(&pager->busy, first, last, from, to) {
		int r = empty(region, from - region->first_unit, to - from);

		if (r)
			return r;
		gw_bitmap_clear_range(&pager->populated, from, to - from);
	}
	return 0;
}

/* Registered by now, so nothing new is mapped while we look. */
static int unmap(struct gw_pager *pager, const struct gw_memory_region *region,
		 uint64_t first, uint64_t last)
{
	uint64_t at = address_of(region, first - region->first_unit);
	uint64_t end = address_of(region, last - region->first_unit), start, stop;
	uint64_t dropped = gw_bitmap_count_range(&pager->busy, first, last - first);
	int r;

	/* What is here is forgotten along with the rest: the guest has it by a fault. */
	if (last - first >= FORGET_UNITS && dropped >= (last - first) / FORGET_SHARE)
		forget(pager, at, end);
	while ((r = gw_mapped_next(&pager->mapped, at, end, &start, &stop)) > 0) {
		uint64_t unit = (start - region->address) >> GW_UNIT_SHIFT;
		uint64_t count = (stop - start) >> GW_UNIT_SHIFT;

		r = punch_mapped(pager, region, region->first_unit + unit,
				 region->first_unit + unit + count);
		if (r)
			return r;
		at = stop;
	}
	return r;
}

/*
 * The first piece, of whole grains of @grain units, from *@first on that has a bit
 * in @map in each: its end, or 0 when there is none.
 */
static uint64_t next_piece(const struct gw_memory_region *region,
			   const struct gw_bitmap *map, uint64_t grain, uint64_t *first)
{
	uint64_t base = region->first_unit, end = base + region->units, last;

	last = gw_bitmap_next_set(map, *first, end);
	if (last >= end)
		return 0;
	*first = last = base + gw_align_down(last - base, grain);
	while (last < end) {
		uint64_t next = GW_MIN(last + grain, end);

		if (gw_bitmap_next_set(map, last, next) == next)
			break;
		last = next;
	}
	return last;
}

/* Closes what was dropped since the last time, and learns what memory it has. */
static int close_dropped(struct gw_pager *pager, unsigned int index, uint64_t grain,
			 struct gw_err *err)
{
	const struct gw_memory_region *region = region_at(pager, index);
	uint64_t first = region->first_unit, last;

	for (; (last = next_piece(region, &pager->busy, grain, &first)); first = last) {
		int r = unmap(pager, region, first, last);

		if (r)
			return gw_err_errno(err, r, "region '%s': dropping pages",
					    region->name);
		gw_bitmap_clear_range(&pager->busy, first, last - first);
	}
	/* hugetlbfs cannot tell holes; there what was punched is what we know of. */
	if (gw_memory_page_units(region) == 1)
		gw_memory_find_more(region, &pager->populated);
	return 0;
}

/*
 * Registration is by pieces of @grain units around missing ones. Returns the
 * number of pieces; with @apply it registers them (again, where they are already:
 * the kernel passes over those).
 */
static int register_pieces(struct gw_pager *pager, unsigned int index, uint64_t grain,
			   bool apply, struct gw_err *err)
{
	const struct gw_memory_region *region = region_at(pager, index);
	uint64_t base = region->first_unit, first = base, last;
	int pieces = 0;

	for (; (last = next_piece(region, &pager->missing, grain, &first));
	     first = last) {
		pieces++;
		if (apply &&
		    gw_fault_register(&pager->uffd, address_of(region, first - base),
				      (last - first) << GW_UNIT_SHIFT, err))
			return err ? err->code : -EIO;
	}
	return pieces;
}

/* Bytes that are missing, and have no memory, in all regions on the file system @dev. */
static uint64_t missing_on(struct gw_pager *pager, dev_t dev)
{
	uint64_t units = 0;
	struct stat st;

	for (unsigned int i = 0; i < pager->config.memory->n_regions; i++) {
		const struct gw_memory_region *region = region_at(pager, i);

		uint64_t at = region->first_unit, end = at + region->units;

		if (fstat(region->fd, &st) || st.st_dev != dev)
			continue;
		gw_bitmap_for_each_run(&pager->missing, at, end, first, last)
			units += last - first -
				 gw_bitmap_count_range(&pager->populated, first,
						       last - first);
	}
	return units << GW_UNIT_SHIFT;
}

/*
 * A page that finds no room after COMMIT stops the guest for good, so this is
 * asked before.
 */
static int check_room(struct gw_pager *pager, uint64_t data_units, struct gw_err *err)
{
	for (unsigned int i = 0; i < pager->config.memory->n_regions; i++) {
		const struct gw_memory_region *region = region_at(pager, i);
		uint64_t need, room;
		struct statvfs fs;
		struct stat st;

		/* Without a size: a memfd, or a tmpfs without limit. */
		if (fstat(region->fd, &st) || fstatvfs(region->fd, &fs) || !fs.f_blocks)
			continue;
		need = GW_MIN(missing_on(pager, st.st_dev), data_units << GW_UNIT_SHIFT);
		room = (uint64_t)fs.f_bavail * fs.f_frsize;
		if (need > room)
			return gw_err_set(
				err, -ENOSPC,
				"region '%s': no space for post-copy: %llu MiB are "
				"to come and its file system has %llu MiB left: "
				"enlarge it (mount -o remount,size=SIZE)",
				region->name, (unsigned long long)need >> 20,
				(unsigned long long)room >> 20);
	}
	return 0;
}

static int arm_region(struct gw_pager *pager, unsigned int index, struct gw_err *err)
{
	int most = GW_MAX(RANGES_MAX / (int)pager->config.memory->n_regions, 1);
	uint64_t grain = GW_EXTENT_UNITS;
	int r;

	while (register_pieces(pager, index, grain, false, NULL) > most)
		grain *= 2;
	r = register_pieces(pager, index, grain, true, err);
	if (r < 0)
		return gw_err_prefix(err, "region '%s'", region_at(pager, index)->name);
	/* In this order: a page that somebody touches in between goes as well. */
	return close_dropped(pager, index, grain, err);
}

int gw_pager_arm(struct gw_pager *pager, uint64_t data_units, struct gw_err *err)
{
	int r = 0;

	for (unsigned int i = 0; i < pager->config.memory->n_regions && !r; i++)
		r = arm_region(pager, i, err);
	return r ? r : check_room(pager, data_units, err);
}

static void *fault_main(void *arg);

int gw_pager_serve(struct gw_pager *pager, struct gw_err *err)
{
	if (pager->started)
		return 0;
	if (pthread_create(&pager->thread, NULL, fault_main, pager))
		return gw_err_set(err, -EAGAIN, "starting the fault thread");
	pager->started = true;
	return 0;
}

/* ---- post-copy: installing ---- */

static void take_time(struct gw_pager *pager, uint64_t unit)
{
	unsigned int slot = (unsigned int)(unit % TIMED_REQUESTS);

	pthread_mutex_lock(&pager->hist_lock);
	if (!pager->timed[slot].unit)
		pager->timed[slot] = (struct timed_request){
			.unit = unit + 1,
			.since = gw_now(),
		};
	pthread_mutex_unlock(&pager->hist_lock);
}

static void time_taken(struct gw_pager *pager, uint64_t unit)
{
	unsigned int slot = (unsigned int)(unit % TIMED_REQUESTS);

	pthread_mutex_lock(&pager->hist_lock);
	if (pager->timed[slot].unit == unit + 1) {
		gw_hist_record(&pager->hist, gw_now() - pager->timed[slot].since);
		pager->timed[slot].unit = 0;
	}
	pthread_mutex_unlock(&pager->hist_lock);
}

/* Takes @taken units off the count of missing ones; tells when none is left. */
static void count_down(struct gw_pager *pager, uint64_t taken)
{
	if (taken && __atomic_sub_fetch(&pager->n_missing, taken, __ATOMIC_ACQ_REL) == 0)
		pager->config.complete(pager->config.opaque);
}

typedef int (*show_fn)(const struct gw_uffd *uffd, uint64_t address, uint64_t size);

/*
 * One call may not cross from one of the VMM's mappings into the next; where a
 * region lies in several, page by page never does.
 */
static int show(struct gw_pager *pager, const struct gw_memory_region *region,
		uint64_t first, uint64_t last, show_fn fn)
{
	uint64_t address = address_of(region, first - region->first_unit);
	uint64_t size = (last - first) << GW_UNIT_SHIFT, step = region->page_size;
	int r = fn(&pager->uffd, address, size);

	if (r != -ENOENT || size == step)
		return r;
	for (uint64_t at = 0; at < size; at += step) {
		r = fn(&pager->uffd, address + at, step);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Pages were shown: those that were asked for have an end to their wait. */
static void stop_clocks(struct gw_pager *pager, uint64_t first, uint64_t last)
{
	gw_bitmap_for_each_run(&pager->requested, first, last, from, to)
		for (uint64_t i = from; i < to; i++)
			time_taken(pager, i);
}

/*
 * Makes pages busy from the first of [*@first, @last) on that is missing and
 * nobody else's: the units from *@first on, 0 when there are none.
 */
static uint64_t claim(struct gw_pager *pager, const struct gw_memory_region *region,
		      uint64_t *first, uint64_t last)
{
	uint64_t step = gw_memory_page_units(region), at = *first, n = 0;

	if (step == 1)
		return gw_bitmap_claim_run(&pager->busy, &pager->missing, first, last);
	/* A huge page is somebody's as a whole: its first unit stands for it. */
	for (; at < last; at += step) {
		bool ours = gw_bitmap_test(&pager->missing, at) &&
			    !gw_bitmap_test_and_set(&pager->busy, at);

		if (!ours && n)
			break;
		if (!ours)
			continue;
		if (!n)
			*first = at;
		n += step;
	}
	return n;
}

/*
 * Shows what is here already to a thread that waits for it: a page with memory,
 * or a hole that reads as zero, and then that page alone. The VMM may have given
 * it memory, or taken it away, behind our back: then it is the other one.
 */
static int show_present(struct gw_pager *pager, const struct gw_memory_region *region,
			uint64_t first, uint64_t last)
{
	int r = -EFAULT;

	if (gw_bitmap_test(&pager->populated, first))
		r = show(pager, region, first, last, gw_fault_continue);
	last = first + gw_memory_page_units(region);
	for (int i = 0; r == -EFAULT && i < SHOW_TRIES; i++) {
		r = show(pager, region, first, last, gw_fault_zero);
		if (r == GW_INSTALL_PRESENT)
			r = show(pager, region, first, last, gw_fault_continue);
	}
	return GW_MIN(r, 0);
}

/* As above, each page for itself. */
static int show_each(struct gw_pager *pager, const struct gw_memory_region *region,
		     uint64_t first, uint64_t last)
{
	uint64_t step = gw_memory_page_units(region);
	int r = 0;

	for (uint64_t at = first; at < last && !r; at += step)
		r = show_present(pager, region, at, at + step);
	return r;
}

/* Bytes for pages that are ours, through our own mapping; @data NULL: zeroes. */
static int overwrite(struct gw_pager *pager, const struct gw_memory_region *region,
		     uint64_t first, uint64_t last, const uint8_t *data)
{
	uint8_t *memory = gw_memory_at(region, first - region->first_unit);
	size_t size = (last - first) << GW_UNIT_SHIFT;
	int r = populate(pager, region, first, last - first);
	uint64_t taken;

	if (r)
		return r;
	if (data)
		memcpy(memory, data, size);
	else
		clear(memory, last - first);
	/* From here on who waits is served by us or by the fault thread, or both. */
	taken = gw_bitmap_take_range(&pager->missing, first, last - first);
	r = show(pager, region, first, last, gw_fault_continue);
	/* The VMM has discarded some of it since (a balloon, free page reporting). */
	if (r == -EFAULT)
		r = show_each(pager, region, first, last);
	if (r < 0)
		return r;
	stop_clocks(pager, first, last);
	count_down(pager, taken);
	return 0;
}

/* The kernel has filled new pages, and shown them in the same moment. */
static void note_filled(struct gw_pager *pager, const struct gw_memory_region *region,
			uint64_t first, uint64_t last)
{
	uint64_t taken;

	gw_bitmap_set_range(&pager->populated, first, last - first);
	taken = gw_bitmap_take_range(&pager->missing, first, last - first);
	/*
	 * Discarded and touched again before it was no longer missing: who waits
	 * now has been taken for one who waits for us. Again, he asks the fault thread.
	 */
	gw_bitmap_for_each_run(&pager->requested, first, last, from, to)
		gw_fault_wake(&pager->uffd, address_of(region, from - region->first_unit),
			      (to - from) << GW_UNIT_SHIFT);
	stop_clocks(pager, first, last);
	count_down(pager, taken);
}

/* Pages that are ours and a hole: the kernel needs not clear what it copies to. */
static int fill(struct gw_pager *pager, const struct gw_memory_region *region,
		uint64_t first, uint64_t last, const uint8_t *data)
{
	uint64_t page = gw_memory_page_units(region), at = first, most = last - first;

	while (at < last) {
		uint64_t n = GW_MIN(last - at, most);
		const uint8_t *from = data + ((at - first) << GW_UNIT_SHIFT);
		int64_t bytes = gw_fault_fill(&pager->uffd,
					      address_of(region, at - region->first_unit),
					      from, n << GW_UNIT_SHIFT);
		int r = 0;

		if (bytes > 0) {
			n = (uint64_t)bytes >> GW_UNIT_SHIFT;
			note_filled(pager, region, at, at + n);
		} else if (!bytes) {
			/* Somebody gave it memory behind our back. */
			n = page;
			r = overwrite(pager, region, at, at + n, from);
		} else if (bytes == -ENOENT && n > page) {
			/* One call may not cross from one mapping into the next. */
			n = 0;
			most = page;
		} else {
			r = (int)bytes;
		}
		if (r)
			return r;
		at += n;
	}
	return 0;
}

/* Bytes for pages that are ours: new pages for holes, or into the memory there is. */
static int land(struct gw_pager *pager, const struct gw_memory_region *region,
		uint64_t first, uint64_t last, const uint8_t *data)
{
	int r = 0;

	if (!new_by_copy(region))
		return overwrite(pager, region, first, last, data);
	for (uint64_t at = first, end; at < last && !r; at = end) {
		const uint8_t *from = data + ((at - first) << GW_UNIT_SHIFT);

		end = gw_bitmap_next_clear(&pager->populated, at, last);
		if (end > at) {
			r = overwrite(pager, region, at, end, from);
			continue;
		}
		end = gw_bitmap_next_set(&pager->populated, at, last);
		r = fill(pager, region, at, end, from);
	}
	return r;
}

/*
 * The answer to a request of which @landed units were needed. For the others:
 * who asked may have come too late to be woken by whoever was faster. One who is
 * still busy wakes by himself.
 */
static int answer_present(struct gw_pager *pager, const struct gw_memory_region *region,
			  uint64_t first, uint64_t last, uint64_t landed)
{
	uint64_t step = gw_memory_page_units(region);
	int r = 0;

	if (landed == last - first)
		return 0;
	for (uint64_t at = first; at < last && !r; at += step)
		if (!gw_bitmap_test(&pager->missing, at))
			r = show_present(pager, region, at, at + step);
	return r;
}

int gw_pager_install(struct gw_pager *pager, unsigned int index, uint64_t unit,
		     uint64_t count, const void *data, bool urgent)
{
	const struct gw_memory_region *region = region_at(pager, index);
	uint64_t begin = region->first_unit + unit, end = begin + count, at = begin;
	uint64_t landed = 0, n;
	int r = 0;

	if (!whole_pages(region, unit, count))
		return -EPROTO;
	if (!__atomic_load_n(&pager->postcopy, __ATOMIC_ACQUIRE))
		return urgent || !pager->fillers[index].base
			       ? -EPROTO
			       : store(pager, index, unit, count, data);
	while (!r && (n = claim(pager, region, &at, end))) {
		r = land(pager, region, at, at + n,
			 (const uint8_t *)data + ((at - begin) << GW_UNIT_SHIFT));
		at += n;
		landed += n;
	}
	if (r || !urgent)
		return r;
	return answer_present(pager, region, begin, end, landed);
}

/* See "What a unit is": clear `missing` first, then look for requests. */
static int zero_hole(struct gw_pager *pager, const struct gw_memory_region *region,
		     uint64_t first, uint64_t last)
{
	uint64_t page_units = gw_memory_page_units(region);
	uint64_t taken = gw_bitmap_take_range(&pager->missing, first, last - first);

	gw_bitmap_for_each_run(&pager->requested, first, last, from, to) {
		uint64_t page = gw_align_down(from, page_units);
		int r = show_each(pager, region, page, gw_align_up(to, page_units));

		if (r)
			return r;
	}
	stop_clocks(pager, first, last);
	count_down(pager, taken);
	return 0;
}

/* Zero pages that are ours: those with memory are cleared, holes stay holes. */
static int land_zero(struct gw_pager *pager, const struct gw_memory_region *region,
		     uint64_t first, uint64_t last)
{
	int r = 0;

	while (first < last && !r) {
		bool hole = !gw_bitmap_test(&pager->populated, first);
		uint64_t end =
			hole ? gw_bitmap_next_set(&pager->populated, first, last)
			     : gw_bitmap_next_clear(&pager->populated, first, last);

		r = hole ? zero_hole(pager, region, first, end)
			 : overwrite(pager, region, first, end, NULL);
		first = end;
	}
	return r;
}

int gw_pager_zero(struct gw_pager *pager, unsigned int index, uint64_t unit,
		  uint64_t count, bool urgent)
{
	const struct gw_memory_region *region = region_at(pager, index);
	uint64_t begin = region->first_unit + unit, end = begin + count, at = begin;
	uint64_t landed = 0, n;
	int r = 0;

	if (!__atomic_load_n(&pager->postcopy, __ATOMIC_ACQUIRE)) {
		zero_in_place(pager, region, unit, count);
		return 0;
	}
	if (!whole_pages(region, unit, count))
		return -EPROTO;
	/* By extents: nobody who asks for a page waits for a whole hole to be named. */
	for (uint64_t stop; at < end && !r; at = stop) {
		stop = GW_MIN(gw_align_down(at, GW_EXTENT_UNITS) + GW_EXTENT_UNITS, end);
		while (!r && (n = claim(pager, region, &at, stop))) {
			r = land_zero(pager, region, at, at + n);
			at += n;
			landed += n;
		}
	}
	if (r || !urgent)
		return r;
	return answer_present(pager, region, begin, end, landed);
}

/* ---- the fault thread ---- */

static const struct gw_memory_region *find_region(const struct gw_pager *pager,
						  uint64_t address, unsigned int *ret)
{
	const struct gw_memory *memory = pager->config.memory;

	for (unsigned int i = 0; i < memory->n_regions; i++) {
		const struct gw_memory_region *region = &memory->regions[i];

		if (address - region->address < region->units << GW_UNIT_SHIFT) {
			*ret = i;
			return region;
		}
	}
	return NULL;
}

static int request(struct gw_pager *pager, unsigned int index, uint64_t unit)
{
	struct gw_request msg = {.region = (uint16_t)index, .unit = unit};
	uint8_t buf[GW_REQUEST_LEN];

	gw_request_encode(&msg, buf);
	return gw_chan_send(pager->urgent, buf, sizeof(buf));
}

/*
 * The fault is on a page that is here. Its neighbours that are here too are
 * mapped along with it, as far as the extent goes: one fault instead of many.
 */
static int show_around(struct gw_pager *pager, const struct gw_memory_region *region,
		       uint64_t global)
{
	uint64_t end = GW_MIN(gw_align_down(global, GW_EXTENT_UNITS) + GW_EXTENT_UNITS,
			      region->first_unit + region->units);
	uint64_t last = gw_bitmap_next_set(&pager->missing, global, end);
	uint64_t page = gw_memory_page_units(region);
	int r;

	last = gw_bitmap_next_clear(&pager->populated, global, last);
	last = GW_MAX(last, global + page);
	r = show_present(pager, region, global, last);
	/* What is wrong with a neighbour is no reason to let this one wait. */
	if (r < 0 && r != -ESRCH)
		r = show_present(pager, region, global, global + page);
	return r;
}

static int serve(struct gw_pager *pager, const struct gw_fault *fault)
{
	unsigned int index;
	const struct gw_memory_region *region =
		find_region(pager, fault->address, &index);
	uint64_t unit, global;

	/* The VMM mapped something else there: not ours to serve, the kernel will. */
	if (!region)
		return 0;
	unit = gw_align_down((fault->address - region->address) >> GW_UNIT_SHIFT,
			     gw_memory_page_units(region));
	global = region->first_unit + unit;
	if (!gw_bitmap_test(&pager->missing, global))
		return show_around(pager, region, global);
	if (gw_bitmap_test_and_set(&pager->requested, global))
		return 0;
	take_time(pager, global);
	return request(pager, index, unit);
}

static int serve_batch(struct gw_pager *pager)
{
	struct gw_fault faults[FAULT_BATCH];
	int n = gw_fault_read(&pager->uffd, faults, FAULT_BATCH), r = 0;

	for (int i = 0; i < n && !r; i++)
		r = serve(pager, &faults[i]);
	return n < 0 ? n : r;
}

static void *fault_main(void *arg)
{
	struct gw_pager *pager = arg;
	struct pollfd fds[] = {
		{.fd = pager->stop.fd, .events = POLLIN},
		{.fd = pager->uffd.fd, .events = POLLIN},
	};
	struct gw_err err = {0};
	int r = 0;

	gw_priority_raise();
	while (!r) {
		if (poll(fds, GW_ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
			r = -errno;
		else if (fds[0].revents)
			return NULL;
		else
			r = serve_batch(pager);
	}
	gw_err_errno(&err, r, "serving page faults of process %d", pager->config.pid);
	pager->config.failed(pager->config.opaque, &err);
	return NULL;
}

/* ---- figures ---- */

uint64_t gw_pager_missing(struct gw_pager *pager)
{
	return __atomic_load_n(&pager->n_missing, __ATOMIC_ACQUIRE);
}

void gw_pager_progress(struct gw_pager *pager, struct gw_progress *ret)
{
	*ret = (struct gw_progress){.missing_units = gw_pager_missing(pager)};
	pthread_mutex_lock(&pager->hist_lock);
	gw_hist_add(&ret->faults, &pager->hist);
	pthread_mutex_unlock(&pager->hist_lock);
}

/* ---- the end ---- */

void gw_pager_stop(struct gw_pager *pager)
{
	if (!pager->started)
		return;
	gw_event_set(&pager->stop);
	pthread_join(pager->thread, NULL);
	pager->started = false;
}

/* Of an extent that lacks pages: those that are here. */
static void open_extent(struct gw_pager *pager, const struct gw_memory_region *region,
			uint64_t first, uint64_t last)
{
	uint64_t page = gw_memory_page_units(region), at = first;

	while (at < last) {
		uint64_t from = gw_bitmap_next_clear(&pager->missing, at, last);

		at = gw_bitmap_next_set(&pager->missing, from, last);
		for (uint64_t i = from; i < at; i += page)
			(void)show_present(pager, region, i, i + page);
	}
}

void gw_pager_open(struct gw_pager *pager)
{
	for (unsigned int i = 0; i < pager->config.memory->n_regions; i++) {
		const struct gw_memory_region *region = region_at(pager, i);
		uint64_t base = region->first_unit, end = base + region->units, stop;

		for (uint64_t at = base; at < end; at = stop) {
			stop = GW_MIN(at + GW_EXTENT_UNITS, end);
			if (gw_bitmap_next_set(&pager->missing, at, stop) < stop)
				open_extent(pager, region, at, stop);
			else
				(void)gw_fault_unregister(&pager->uffd,
							  address_of(region, at - base),
							  (stop - at) << GW_UNIT_SHIFT);
		}
	}
}

void gw_pager_let_go(struct gw_pager *pager)
{
	const struct gw_memory *memory = pager->config.memory;

	if (pager->uffd.fd < 0)
		return;
	/* Unregistered or never registered: both are fine. */
	for (unsigned int i = 0; i < memory->n_regions; i++)
		(void)gw_fault_unregister(&pager->uffd, memory->regions[i].address,
					  memory->regions[i].units << GW_UNIT_SHIFT);
}

void gw_pager_release(struct gw_pager *pager)
{
	struct gw_err err = {0};

	assert(!pager->started);
	if (pager->uffd.fd < 0)
		return;
	gw_pager_let_go(pager);
	if (gw_uffd_release(&pager->uffd, &err))
		gw_warn(pager->config.log,
			"a userfaultfd, no longer in use, stays open in process %d: %s",
			pager->config.pid, err.text);
}
