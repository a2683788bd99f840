/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest memory as the page path sees it: our own second mapping of every
 * region, and one numbering of units over all of them for the bitmaps.
 */
#pragma once

#include <stdbool.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/util.h"

struct gw_memory_region {
	char name[64];
	uint8_t *base;	    /* our mapping */
	int fd;		    /* borrowed from the guest */
	uint64_t offset;    /* in that file */
	uint64_t address;   /* in the guest's process */
	uint64_t page_size; /* of the backing; a multiple of GW_UNIT_SIZE */
	bool larger_pages;  /* the file system gives larger ones where it can */
	uint64_t units;
	uint64_t first_unit; /* in the bitmaps; a multiple of GW_EXTENT_UNITS */
};

struct gw_memory {
	unsigned int n_regions;
	struct gw_memory_region *regions;
	uint64_t units; /* bits in a bitmap: all regions, each rounded up to extents */
	uint64_t bytes; /* of guest memory */
};

/* Opens a region whose name, fd, offset, size, address and page size are given. */
struct gw_memory_spec {
	const char *name;
	int fd;
	uint64_t offset, size, address, page_size;
};

int gw_memory_init(struct gw_memory *memory, const struct gw_memory_spec *specs,
		   unsigned int n, struct gw_err *err);
void gw_memory_deinit(struct gw_memory *memory);
/*
 * Puts region @name at place @index: the numbering of units is the source's, so
 * the destination takes over its order. -ENOENT: no such region from there on.
 */
int gw_memory_put_at(struct gw_memory *memory, unsigned int index, const char *name);

static inline uint8_t *gw_memory_at(const struct gw_memory_region *region, uint64_t unit)
{
	return region->base + (unit << GW_UNIT_SHIFT);
}

/* Units of the backing's page: requests and installs are whole pages. */
static inline uint64_t gw_memory_page_units(const struct gw_memory_region *region)
{
	return region->page_size >> GW_UNIT_SHIFT;
}

/*
 * Sets in @backed the units that are no hole, in all regions; bits of holes are
 * cleared. Where the file system cannot tell, everything counts as backed.
 */
void gw_memory_find_backed(const struct gw_memory *memory, struct gw_bitmap *backed);
/*
 * The same of one region, but bits that are set stay set: it costs no more than
 * what has no bit yet.
 */
void gw_memory_find_more(const struct gw_memory_region *region, struct gw_bitmap *backed);
/* Whether one unit is backed, now: a question to the file system. */
bool gw_memory_is_backed(const struct gw_memory_region *region, uint64_t unit);

/* Sets the bits of all units of all regions (not of the rounding between them). */
void gw_memory_set_all(const struct gw_memory *memory, struct gw_bitmap *map);
