/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest memory as the page path sees it: second mappings and unit numbers. */
#include "multifd/memory.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static int map_region(struct gw_memory_region *region, const struct gw_memory_spec *spec,
		      struct gw_err *err)
{
	struct stat st;
	void *base;

	if (spec->page_size > GW_EXTENT_SIZE)
		return gw_err_set(err, -EOPNOTSUPP,
				  "region '%s': pages of %llu bytes are not supported: "
				  "back it with pages of 2 MiB or less",
				  spec->name, (unsigned long long)spec->page_size);
	base = mmap(NULL, spec->size, PROT_READ | PROT_WRITE, MAP_SHARED, spec->fd,
		    (off_t)spec->offset);

	if (base == MAP_FAILED)
		return gw_err_errno(err, -errno, "region '%s': mapping %llu bytes",
				    spec->name, (unsigned long long)spec->size);
	snprintf(region->name, sizeof(region->name), "%s", spec->name);
	region->base = base;
	region->fd = spec->fd;
	region->offset = spec->offset;
	region->address = spec->address;
	region->page_size = spec->page_size;
	region->larger_pages =
		!fstat(spec->fd, &st) && (uint64_t)st.st_blksize > spec->page_size;
	region->units = spec->size >> GW_UNIT_SHIFT;
	return 0;
}

static void renumber(struct gw_memory *memory)
{
	memory->units = 0;
	for (unsigned int i = 0; i < memory->n_regions; i++) {
		memory->regions[i].first_unit = memory->units;
		memory->units += gw_align_up(memory->regions[i].units, GW_EXTENT_UNITS);
	}
}

int gw_memory_init(struct gw_memory *memory, const struct gw_memory_spec *specs,
		   unsigned int n, struct gw_err *err)
{
	*memory = (struct gw_memory){0};
	memory->regions = calloc(n, sizeof(*memory->regions));
	if (!memory->regions)
		return gw_err_set(err, -ENOMEM, "out of memory for %u regions", n);
	for (unsigned int i = 0; i < n; i++) {
		struct gw_memory_region *region = &memory->regions[i];
		int r = map_region(region, &specs[i], err);

		if (r) {
			gw_memory_deinit(memory);
			return r;
		}
		memory->bytes += specs[i].size;
		memory->n_regions++;
	}
	renumber(memory);
	return 0;
}

void gw_memory_deinit(struct gw_memory *memory)
{
	for (unsigned int i = 0; i < memory->n_regions; i++)
		munmap(memory->regions[i].base,
		       memory->regions[i].units << GW_UNIT_SHIFT);
	free(memory->regions);
	*memory = (struct gw_memory){0};
}

int gw_memory_put_at(struct gw_memory *memory, unsigned int index, const char *name)
{
	for (unsigned int i = index; i < memory->n_regions; i++) {
		struct gw_memory_region swap = memory->regions[i];

		if (strcmp(swap.name, name))
			continue;
		memory->regions[i] = memory->regions[index];
		memory->regions[index] = swap;
		renumber(memory);
		return 0;
	}
	return -ENOENT;
}

/* The next units with data, from @unit on; false: there are none. */
static bool next_data(const struct gw_memory_region *region, uint64_t unit,
		      const struct gw_bitmap *known, uint64_t *ret_start,
		      uint64_t *ret_end)
{
	uint64_t end = region->offset + (region->units << GW_UNIT_SHIFT);
	off_t at = (off_t)(region->offset + (unit << GW_UNIT_SHIFT));
	off_t start = lseek(region->fd, at, SEEK_DATA), stop;

	if (start < 0 && errno == ENXIO)
		return false;
	if (start < 0) { /* the file system cannot tell */
		*ret_start = unit;
		*ret_end = region->units;
		return true;
	}
	if ((uint64_t)start >= end)
		return false;
	*ret_start = *ret_end = ((uint64_t)start - region->offset) >> GW_UNIT_SHIFT;
	if (gw_bitmap_test(known, region->first_unit + *ret_start))
		return true;
	stop = lseek(region->fd, start, SEEK_HOLE);
	if (stop < 0 || (uint64_t)stop > end)
		stop = (off_t)end;
	*ret_end = ((uint64_t)stop - region->offset + GW_UNIT_SIZE - 1) >> GW_UNIT_SHIFT;
	return true;
}

/*
 * SEEK_HOLE walks through the data it passes, so it is asked where unknown data
 * begins and nowhere else: each page is passed once.
 */
void gw_memory_find_more(const struct gw_memory_region *region, struct gw_bitmap *backed)
{
	uint64_t base = region->first_unit, end = base + region->units;
	uint64_t at = gw_bitmap_next_clear(backed, base, end);
	uint64_t start, stop;

	while (at < end && next_data(region, at - base, backed, &start, &stop)) {
		gw_bitmap_set_range(backed, base + start, stop - start);
		at = gw_bitmap_next_clear(backed, base + stop, end);
	}
}

void gw_memory_find_backed(const struct gw_memory *memory, struct gw_bitmap *backed)
{
	gw_bitmap_clear_all(backed);
	for (unsigned int i = 0; i < memory->n_regions; i++)
		gw_memory_find_more(&memory->regions[i], backed);
}

bool gw_memory_is_backed(const struct gw_memory_region *region, uint64_t unit)
{
	uint64_t at = region->offset + (unit << GW_UNIT_SHIFT);
	off_t data = lseek(region->fd, (off_t)at, SEEK_DATA);

	assert(unit < region->units);
	if (data < 0)
		return errno != ENXIO;
	return (uint64_t)data < at + GW_UNIT_SIZE;
}

void gw_memory_set_all(const struct gw_memory *memory, struct gw_bitmap *map)
{
	for (unsigned int i = 0; i < memory->n_regions; i++)
		gw_bitmap_set_range(map, memory->regions[i].first_unit,
				    memory->regions[i].units);
}
