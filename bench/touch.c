/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that is one thread.
 *
 * It chooses pages at random. One that the page table has already is passed
 * over; what it costs to touch any other is noted, however it came about: that
 * is what a vCPU would have stood still for. Between the look and the touch a
 * page may arrive by itself. That takes well under a microsecond, in which a
 * push of 4 GB/s brings one page of all.
 */
#include "bench/touch.h"

#include <fcntl.h>

#include "base/util.h"

/* Looks at the destination's state are not free: between so many touches. */
#define LOOK_EVERY 8U
/* So many pages in a row that were there: hardly any is missing. */
#define PRESENT_MAX 4096U

#define PAGEMAP_PRESENT (1ULL << 63)

/* Whether a touch of @page would fault; what cannot be found out counts as there. */
static bool absent(int pagemap, const uint8_t *page)
{
	uint64_t entry = PAGEMAP_PRESENT;
	off_t at = (off_t)((uintptr_t)page / GW_UNIT_SIZE * sizeof(entry));

	if (pread(pagemap, &entry, sizeof(entry), at) != sizeof(entry))
		return false;
	return !(entry & PAGEMAP_PRESENT);
}

/* The guest is told to run a moment before the state is POSTCOPY. */
static bool still_missing(struct bench_toucher *toucher)
{
	struct godwit_stats stats;

	godwit_dest_stats(toucher->dest, &stats, sizeof(stats));
	switch (stats.state) {
	case GODWIT_STATE_SWITCHOVER:
	case GODWIT_STATE_UNDECIDED:
	case GODWIT_STATE_POSTCOPY:
		return true;
	default:
		return false;
	}
}

/* False: it was there. */
static bool touch_one(struct bench_toucher *toucher, int pagemap)
{
	uint64_t units = toucher->memory->size >> GW_UNIT_SHIFT;
	volatile uint8_t *page = toucher->memory->map +
				 (bench_rng_below(&toucher->rng, units) << GW_UNIT_SHIFT);
	uint64_t started;

	if (!absent(pagemap, (const uint8_t *)page))
		return false;
	started = gw_now();
	(void)*page;
	gw_hist_record(&toucher->hist, gw_now() - started);
	return true;
}

static void touch_all(struct bench_toucher *toucher, int pagemap)
{
	uint64_t want = toucher->touches ?: UINT64_MAX;
	unsigned int present = 0;

	for (uint64_t i = 0; toucher->hist.count < want && present < PRESENT_MAX; i++) {
		if (i % LOOK_EVERY == 0 && !still_missing(toucher))
			break;
		present = touch_one(toucher, pagemap) ? 0 : present + 1;
	}
}

static void *toucher_main(void *opaque)
{
	struct bench_toucher *toucher = opaque;
	GW_AUTO_CLOSE int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	touch_all(toucher, pagemap);
	toucher->rested(toucher->opaque);
	return NULL;
}

int bench_toucher_start(struct bench_toucher *toucher)
{
	int r = -pthread_create(&toucher->thread, NULL, toucher_main, toucher);

	toucher->started = !r;
	return r;
}

void bench_toucher_join(struct bench_toucher *toucher)
{
	if (toucher->started)
		pthread_join(toucher->thread, NULL);
	toucher->started = false;
}
