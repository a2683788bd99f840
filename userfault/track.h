/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The write-tracking scanner: which units of a running process's memory have
 * been written since the last look.
 */
#pragma once

#include <stdint.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "userfault/attach.h"

/* One shared mapping to watch. */
struct gw_track_range {
	uint64_t address;    /* in the process */
	uint64_t size;	     /* bytes */
	int fd;		     /* the file behind it, borrowed: asked for its holes */
	uint64_t offset;     /* where the range starts in the file */
	uint64_t first_unit; /* its first bit in the caller's bitmaps */
};

struct gw_track;

/*
 * Registers asynchronous write-protection on @ranges in @uffd's process and
 * takes over @uffd. Copies @ranges. The first collect reports every unit that
 * has data.
 */
int gw_track_new(struct gw_uffd *uffd, const struct gw_track_range *ranges, size_t n,
		 struct gw_err *err, struct gw_track **ret);

/*
 * Sets in @dirty every unit that was written since the last collect (bits that
 * are set stay set) and watches it again, in one step for each page: a write
 * after it is seen by the next collect. A unit that was data at the last
 * collect and is a hole now is reported too: it reads as zeroes now.
 * Returns the number of units newly reported, or negative errno with @err
 * (-ESRCH: the process is gone); after an error the record has gaps: give up.
 * Not seen: a page punched out and then only read between two collects, and
 * writes that do not go through the process's page tables.
 */
int64_t gw_track_collect(struct gw_track *track, struct gw_bitmap *dirty,
			 struct gw_err *err);

/*
 * Units that had data (were no hole) at the last collect. Borrowed, in the
 * caller's numbering. A unit that is not in it reads as zeroes and must not be
 * touched: reading a hole through a mapping allocates it.
 */
const struct gw_bitmap *gw_track_backed(const struct gw_track *track);

/* Unregisters, which lifts the protection; takes NULL, returns NULL. */
struct gw_track *gw_track_free(struct gw_track *track);
