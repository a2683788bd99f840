/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which units of guest memory have memory in their file. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "multifd/memory.h"

TestSuite(memory, .timeout = 20);

#define UNITS 1000UL
/* The region begins so far into its file. */
#define BEFORE 10UL

struct fixture {
	int fd;
	struct gw_memory memory;
	struct gw_bitmap backed;
};

static void fixture_open(struct fixture *f, uint64_t units)
{
	struct gw_memory_spec spec = {.name = "ram",
				      .offset = BEFORE << GW_UNIT_SHIFT,
				      .size = units << GW_UNIT_SHIFT,
				      .page_size = GW_UNIT_SIZE};

	f->fd = spec.fd = memfd_create("test", MFD_CLOEXEC);
	cr_assert_geq(f->fd, 0);
	cr_assert_eq(
		ftruncate(f->fd, (off_t)((BEFORE + units + BEFORE) << GW_UNIT_SHIFT)), 0);
	cr_assert_eq(gw_memory_init(&f->memory, &spec, 1, NULL), 0);
	cr_assert_eq(gw_bitmap_init(&f->backed, f->memory.units), 0);
}

static void fixture_close(struct fixture *f)
{
	gw_bitmap_deinit(&f->backed);
	gw_memory_deinit(&f->memory);
	close(f->fd);
}

/* Unit numbers count from the region's start: those around it are negative or more. */
static void fill(const struct fixture *f, int64_t unit, uint64_t count)
{
	for (int64_t i = 0; i < (int64_t)count; i++)
		cr_assert_eq(pwrite(f->fd, "x", 1,
				    (off_t)((unit + i + (int64_t)BEFORE) *
					    (int64_t)GW_UNIT_SIZE)),
			     1);
}

static void punch(const struct fixture *f, uint64_t unit, uint64_t count)
{
	cr_assert_eq(fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)((unit + BEFORE) << GW_UNIT_SHIFT),
			       (off_t)(count << GW_UNIT_SHIFT)),
		     0);
}

static void assert_backed(const struct fixture *f, uint64_t first, uint64_t count)
{
	cr_assert_eq(gw_bitmap_count_range(&f->backed, first, count), count);
}

Test(memory, holes_are_told_from_data)
{
	struct fixture f;

	fixture_open(&f, UNITS);
	fill(&f, 0, 1);
	fill(&f, 100, 50);
	fill(&f, 999, 1);
	gw_memory_find_backed(&f.memory, &f.backed);
	assert_backed(&f, 0, 1);
	assert_backed(&f, 100, 50);
	assert_backed(&f, 999, 1);
	cr_assert_eq(gw_bitmap_count(&f.backed), 52);
	cr_assert(gw_memory_is_backed(&f.memory.regions[0], 100));
	cr_assert_not(gw_memory_is_backed(&f.memory.regions[0], 99));
	fixture_close(&f);
}

Test(memory, what_lies_around_the_region_in_its_file_does_not_count)
{
	struct fixture f;

	fixture_open(&f, UNITS);
	fill(&f, -1, 3);
	fill(&f, 998, 4);
	gw_memory_find_backed(&f.memory, &f.backed);
	assert_backed(&f, 0, 2);
	assert_backed(&f, 998, 2);
	cr_assert_eq(gw_bitmap_count(&f.backed), 4);
	fixture_close(&f);
}

Test(memory, looking_again_forgets_holes_and_looking_for_more_does_not)
{
	struct fixture f;

	fixture_open(&f, UNITS);
	fill(&f, 10, 10);
	gw_memory_find_backed(&f.memory, &f.backed);
	punch(&f, 10, 10);
	fill(&f, 5, 2);
	fill(&f, 30, 5);
	gw_memory_find_more(&f.memory.regions[0], &f.backed);
	assert_backed(&f, 5, 2);
	assert_backed(&f, 10, 10);
	assert_backed(&f, 30, 5);
	cr_assert_eq(gw_bitmap_count(&f.backed), 17);
	gw_memory_find_backed(&f.memory, &f.backed);
	assert_backed(&f, 5, 2);
	assert_backed(&f, 30, 5);
	cr_assert_eq(gw_bitmap_count(&f.backed), 7);
	fixture_close(&f);
}

Test(memory, data_beside_known_data_is_found)
{
	struct fixture f;

	fixture_open(&f, UNITS);
	fill(&f, 100, 100);
	gw_bitmap_set_range(&f.backed, 110, 10);
	gw_bitmap_set_range(&f.backed, 130, 1);
	gw_memory_find_more(&f.memory.regions[0], &f.backed);
	assert_backed(&f, 100, 100);
	cr_assert_eq(gw_bitmap_count(&f.backed), 100);
	fixture_close(&f);
}

/* Walking from each gap to the end of the data takes many seconds. */
Test(memory, looking_for_scattered_pages_takes_no_more_than_one_walk)
{
	const uint64_t units = 1UL << 16;
	struct fixture f;
	uint64_t began;

	fixture_open(&f, units);
	fill(&f, 0, units);
	for (uint64_t i = 0; i < units; i += 2)
		gw_bitmap_set_range(&f.backed, i, 1);
	began = gw_now();
	gw_memory_find_more(&f.memory.regions[0], &f.backed);
	cr_assert_lt(gw_now() - began, GW_NSEC);
	cr_assert_eq(gw_bitmap_count(&f.backed), units);
	fixture_close(&f);
}
