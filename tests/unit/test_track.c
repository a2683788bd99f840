/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The write-tracking scanner on real processes, against what they really wrote. */
#include "userfault/track.h"

#include <linux/memfd.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "userfault_child.h"

/* A test that waits for ever has failed. */
TestSuite(track, .timeout = 30);

#define UNITS 256UL
#define SIZE  (UNITS * GW_UNIT_SIZE)

struct tracked {
	int fd;
	uint64_t units;
	struct mapper mapper;
	struct gw_track *track;
	struct gw_bitmap dirty;
};

static void attach_or_skip(pid_t pid, struct gw_uffd *ret)
{
	struct gw_err err = {};

	if (gw_uffd_attach(pid, GW_UFFD_TRACK, false, NULL, &err, ret))
		cr_skip_test("%s", err.text);
}

static struct gw_track *track_mapper(const struct mapper *m, uint64_t first_unit)
{
	struct gw_track_range range = {m->address, m->size, m->fd, 0, first_unit};
	struct gw_track *track = NULL;
	struct gw_err err = {};
	struct gw_uffd uffd;

	attach_or_skip(m->child.pid, &uffd);
	cr_assert_eq(gw_track_new(&uffd, &range, 1, &err, &track), 0, "%s", err.text);
	cr_assert_eq(uffd.fd, -1);
	return track;
}

/* Tracks @fd, mapped in a child, before anything is written. */
static struct tracked start(int fd, uint64_t size)
{
	struct tracked t = {.fd = fd, .units = size >> GW_UNIT_SHIFT};

	t.mapper = mapper_start(fd, size);
	t.track = track_mapper(&t.mapper, 0);
	cr_assert_eq(gw_bitmap_init(&t.dirty, t.units), 0);
	return t;
}

static void finish(struct tracked *t)
{
	cr_assert_null(gw_track_free(t->track));
	gw_bitmap_deinit(&t->dirty);
	mapper_end(&t->mapper);
	close(t->fd);
}

static void put(struct tracked *t, uint64_t unit, uint64_t count)
{
	mapper_do(&t->mapper, ORDER_WRITE, unit, count, unit + 1);
}

/* Collects into an empty bitmap: the number newly reported. */
static int64_t collect(struct tracked *t)
{
	struct gw_err err = {};
	int64_t n;

	gw_bitmap_clear_all(&t->dirty);
	n = gw_track_collect(t->track, &t->dirty, &err);
	cr_assert_geq(n, 0, "%s", err.text);
	cr_assert_eq((uint64_t)n, gw_bitmap_count(&t->dirty));
	return n;
}

static void assert_run(const struct gw_bitmap *map, uint64_t first, uint64_t count)
{
	cr_assert_eq(gw_bitmap_count_range(map, first, count), count,
		     "units %lu to %lu are not all there", first, first + count - 1);
}

static int tmpfs_file(uint64_t size)
{
	int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		cr_skip_test("no tmpfs in /dev/shm");
	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	return fd;
}

/* ---- what is reported ---- */

Test(track, the_first_collect_reports_all_that_has_data_and_no_hole)
{
	int fd = memory_file(SIZE);
	struct tracked t;

	cr_assert_eq(pwrite(fd, "x", 1, 10 * GW_UNIT_SIZE + 5), 1);
	cr_assert_eq(pwrite(fd, "x", 1, SIZE - 1), 1);
	t = start(fd, SIZE);
	cr_assert_eq(collect(&t), 2);
	assert_run(&t.dirty, 10, 1);
	assert_run(&t.dirty, UNITS - 1, 1);
	cr_assert_eq(gw_bitmap_count(gw_track_backed(t.track)), 2);
	finish(&t);
}

Test(track, exactly_the_written_pages_are_reported)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, UNITS);
	cr_assert_eq(collect(&t), UNITS);
	cr_assert_eq(collect(&t), 0);
	put(&t, 3, 1);
	put(&t, 100, 20);
	put(&t, UNITS - 1, 1);
	cr_assert_eq(collect(&t), 22);
	assert_run(&t.dirty, 3, 1);
	assert_run(&t.dirty, 100, 20);
	assert_run(&t.dirty, UNITS - 1, 1);
	cr_assert_eq(collect(&t), 0);
	finish(&t);
}

Test(track, a_page_that_is_only_read_is_not_reported)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, UNITS);
	collect(&t);
	mapper_do(&t.mapper, ORDER_READ, 0, UNITS, 0);
	cr_assert_eq(collect(&t), 0);
	finish(&t);
}

Test(track, a_tmpfs_file_with_holes_works_as_well)
{
	struct tracked t = start(tmpfs_file(SIZE), SIZE);

	cr_assert_eq(collect(&t), 0);
	put(&t, 7, 1);
	put(&t, 200, 3);
	cr_assert_eq(collect(&t), 4);
	cr_assert_eq(gw_bitmap_count(gw_track_backed(t.track)), 4);
	put(&t, 201, 1);
	put(&t, 6, 1);
	cr_assert_eq(collect(&t), 2);
	assert_run(&t.dirty, 201, 1);
	assert_run(&t.dirty, 6, 1);
	finish(&t);
}

Test(track, bits_that_are_set_stay_set_and_are_not_counted_again)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, 10);
	gw_bitmap_set_range(&t.dirty, 5, 20);
	cr_assert_eq(gw_track_collect(t.track, &t.dirty, NULL), 5);
	cr_assert_eq(gw_bitmap_count(&t.dirty), 25);
	finish(&t);
}

Test(track, scattered_writes_that_fill_the_kernel_s_vector_are_all_seen)
{
	uint64_t units = 8192;
	struct tracked t = start(memory_file(units * GW_UNIT_SIZE), units * GW_UNIT_SIZE);

	put(&t, 0, units);
	collect(&t);
	for (uint64_t unit = 1; unit < units; unit += 2)
		put(&t, unit, 1);
	cr_assert_eq(collect(&t), units / 2);
	for (uint64_t unit = 0; unit < units; unit++)
		cr_assert_eq(gw_bitmap_test(&t.dirty, unit), unit % 2);
	finish(&t);
}

Test(track, pages_that_lost_their_table_entries_are_reported)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, UNITS);
	collect(&t);
	put(&t, 50, 10);
	mapper_do(&t.mapper, ORDER_DONTNEED, 0, UNITS, 0);
	collect(&t);
	assert_run(&t.dirty, 50, 10);
	cr_assert_eq(collect(&t), 0);
	finish(&t);
}

Test(track, dropping_entries_of_unwritten_pages_reports_nothing)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, UNITS);
	collect(&t);
	mapper_do(&t.mapper, ORDER_DONTNEED, 0, UNITS, 0);
	cr_assert_eq(collect(&t), 0);
	put(&t, 9, 1);
	cr_assert_eq(collect(&t), 1);
	assert_run(&t.dirty, 9, 1);
	finish(&t);
}

Test(track, pages_sent_to_swap_are_reported)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, UNITS);
	collect(&t);
	put(&t, 20, 30);
	mapper_do(&t.mapper, ORDER_PAGEOUT, 0, UNITS, 0);
	collect(&t);
	assert_run(&t.dirty, 20, 30);
	finish(&t);
}

/* ---- holes ---- */

static void punch(int fd, uint64_t unit, uint64_t count)
{
	cr_assert_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)(unit * GW_UNIT_SIZE),
			       (off_t)(count * GW_UNIT_SIZE)),
		     0);
}

Test(track, a_hole_punched_into_data_is_reported_once)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, UNITS);
	collect(&t);
	punch(t.fd, 40, 8);
	punch(t.fd, UNITS - 2, 2);
	cr_assert_eq(collect(&t), 10);
	assert_run(&t.dirty, 40, 8);
	assert_run(&t.dirty, UNITS - 2, 2);
	cr_assert_eq(gw_bitmap_count(gw_track_backed(t.track)), UNITS - 10);
	cr_assert_eq(collect(&t), 0);
	finish(&t);
}

Test(track, a_hole_punched_while_as_much_is_filled_is_reported)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, UNITS / 2);
	collect(&t);
	punch(t.fd, 40, 8);
	put(&t, 200, 8);
	cr_assert_eq(collect(&t), 16);
	assert_run(&t.dirty, 40, 8);
	assert_run(&t.dirty, 200, 8);
	finish(&t);
}

Test(track, a_hole_that_gets_data_is_reported_however_it_came)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	/* The holes between are scanned over, so their entries are protected... */
	put(&t, 0, 1);
	put(&t, 10, 1);
	cr_assert_eq(collect(&t), 2);
	/* ... and stay so when the data comes through the file. */
	cr_assert_eq(pwrite(t.fd, "x", 1, 5 * GW_UNIT_SIZE), 1);
	cr_assert_eq(collect(&t), 1);
	assert_run(&t.dirty, 5, 1);
	finish(&t);
}

Test(track, a_hole_filled_and_punched_between_collects_is_nothing)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, 1);
	collect(&t);
	put(&t, 40, 8);
	punch(t.fd, 40, 8);
	cr_assert_eq(collect(&t), 0);
	cr_assert_eq(gw_bitmap_count(gw_track_backed(t.track)), 1);
	finish(&t);
}

Test(track, a_page_punched_and_written_again_is_reported)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, UNITS);
	collect(&t);
	punch(t.fd, 40, 8);
	put(&t, 40, 4);
	cr_assert_eq(collect(&t), 8);
	assert_run(&t.dirty, 40, 8);
	finish(&t);
}

Test(track, collecting_fills_no_hole)
{
	struct tracked t = start(memory_file(SIZE), SIZE);
	struct stat st;

	put(&t, 100, 1);
	collect(&t);
	collect(&t);
	cr_assert_eq(fstat(t.fd, &st), 0);
	cr_assert_eq(st.st_blocks, 8);
	finish(&t);
}

Test(track, a_file_shorter_than_its_mapping_ends_in_a_hole)
{
	int fd = memory_file(SIZE);
	struct tracked t;

	cr_assert_eq(ftruncate(fd, 10 * GW_UNIT_SIZE + 100), 0);
	t = start(fd, SIZE);
	put(&t, 8, 3);
	cr_assert_eq(collect(&t), 3);
	cr_assert_eq(ftruncate(fd, 9 * GW_UNIT_SIZE), 0);
	cr_assert_eq(collect(&t), 2);
	assert_run(&t.dirty, 9, 2);
	finish(&t);
}

static long page_tables_kib(pid_t pid)
{
	return gw_proc_status(pid, pid, "VmPTE");
}

Test(track, a_sparse_file_of_64_gib_costs_few_page_tables)
{
	uint64_t size = 64ULL << 30;
	struct tracked t = start(memory_file(size), size);
	long before, after;

	for (uint64_t i = 0; i < 16; i++)
		put(&t, i * (t.units / 16) + i, 1);
	before = page_tables_kib(t.mapper.child.pid);
	cr_assert_eq(collect(&t), 16);
	put(&t, 0, 1);
	cr_assert_eq(collect(&t), 1);
	after = page_tables_kib(t.mapper.child.pid);
	/* All of them would be 128 MiB. */
	cr_assert_leq(after - before, 64, "%ld KiB, then %ld KiB", before, after);
	finish(&t);
}

/* ---- places and numbers ---- */

Test(track, ranges_are_numbered_as_the_caller_says)
{
	int fd = memory_file(SIZE);
	struct mapper m = mapper_start(fd, SIZE);
	struct gw_track_range ranges[] = {
		{m.address + 64 * GW_UNIT_SIZE, 32 * GW_UNIT_SIZE, fd, 64 * GW_UNIT_SIZE,
		 1000},
		{m.address, 16 * GW_UNIT_SIZE, fd, 0, 77},
	};
	struct tracked t = {.fd = fd, .units = 1032, .mapper = m};
	struct gw_uffd uffd;

	attach_or_skip(m.child.pid, &uffd);
	cr_assert_eq(gw_track_new(&uffd, ranges, 2, NULL, &t.track), 0);
	cr_assert_eq(gw_bitmap_init(&t.dirty, t.units), 0);
	/* Up to the end of the extent in which the last range ends. */
	cr_assert_eq(gw_track_backed(t.track)->n_bits, 3 * GW_EXTENT_UNITS);
	put(&t, 0, UNITS);
	cr_assert_eq(collect(&t), 48);
	assert_run(&t.dirty, 77, 16);
	assert_run(&t.dirty, 1000, 32);
	put(&t, 70, 1);
	put(&t, 15, 3);
	punch(fd, 80, 1);
	cr_assert_eq(collect(&t), 3);
	assert_run(&t.dirty, 1006, 1);
	assert_run(&t.dirty, 92, 1);
	assert_run(&t.dirty, 1016, 1);
	finish(&t);
}

Test(track, a_huge_page_is_reported_whole)
{
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	uint64_t size = 4UL << 20;
	struct statfs fs;
	struct tracked t;

	if (fd < 0 || ftruncate(fd, (off_t)size) || fstatfs(fd, &fs) ||
	    fs.f_bsize != 2 << 20)
		cr_skip_test("no hugetlbfs with 2 MiB pages here");
	if (mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
		cr_skip_test("fewer than two free huge pages (sysctl vm.nr_hugepages=2)");
	t = start(fd, size);
	put(&t, 0, 1024);
	cr_assert_eq(collect(&t), 1024);
	put(&t, 600, 1);
	cr_assert_eq(collect(&t), 512);
	assert_run(&t.dirty, 512, 512);
	finish(&t);
}

Test(track, memory_that_cannot_be_watched_is_refused_and_the_descriptor_kept)
{
	struct gw_track_range range = {.size = GW_UNIT_SIZE};
	int fd = memory_file(SIZE);
	struct mapper m = mapper_start(fd, SIZE);
	struct gw_track *track = NULL;
	struct gw_err err = {};
	struct gw_uffd uffd;

	attach_or_skip(m.child.pid, &uffd);
	range.fd = fd;
	range.address = m.address + 1;
	cr_assert_eq(gw_track_new(&uffd, &range, 1, &err, &track), -EINVAL);
	cr_assert(strstr(err.text, "whole pages"), "%s", err.text);
	range.address = 1UL << 46; /* nothing is there, a sanitizer's shadow neither */
	cr_assert_eq(gw_track_new(&uffd, &range, 1, &err, &track), -EINVAL);
	cr_assert(strstr(err.text, "cannot be watched"), "%s", err.text);
	cr_assert_null(track);
	cr_assert_geq(uffd.fd, 0);
	gw_uffd_detach(&uffd);
	mapper_end(&m);
}

Test(track, a_second_tracker_is_refused_and_the_first_sees_on)
{
	struct tracked t = start(memory_file(SIZE), SIZE);
	struct gw_track_range range = {t.mapper.address, SIZE, t.fd, 0, 0};
	struct gw_track *track = NULL;
	struct gw_err err = {};
	struct gw_uffd uffd;

	put(&t, 0, UNITS);
	collect(&t);
	attach_or_skip(t.mapper.child.pid, &uffd);
	cr_assert_eq(gw_track_new(&uffd, &range, 1, &err, &track), -EBUSY);
	cr_assert(strstr(err.text, "another migration"), "%s", err.text);
	gw_uffd_detach(&uffd);
	put(&t, 5, 1);
	cr_assert_eq(collect(&t), 1);
	finish(&t);
}

Test(track, a_process_that_is_gone_is_an_error_and_not_an_empty_set)
{
	struct tracked t = start(memory_file(SIZE), SIZE);
	struct gw_err err = {};

	put(&t, 0, UNITS);
	collect(&t);
	child_kill(&t.mapper.child);
	cr_assert_eq(gw_track_collect(t.track, &t.dirty, &err), -ESRCH);
	cr_assert(strstr(err.text, "has ended"), "%s", err.text);
	gw_track_free(t.track);
	gw_bitmap_deinit(&t.dirty);
}

/* ---- leaving ---- */

/* Pages of the process that write-protection by userfaultfd still covers. */
static unsigned int protected_pages(const struct mapper *m)
{
	char path[64];
	unsigned int n = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", m->child.pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	for (uint64_t unit = 0; unit < m->size >> GW_UNIT_SHIFT; unit++) {
		uint64_t entry,
			at = ((m->address >> GW_UNIT_SHIFT) + unit) * sizeof(entry);

		cr_assert_eq(pread(fd, &entry, sizeof(entry), (off_t)at), sizeof(entry));
		n += entry >> 57 & 1;
	}
	close(fd);
	return n;
}

Test(track, freeing_lifts_all_protection)
{
	struct tracked t = start(memory_file(SIZE), SIZE);

	put(&t, 0, UNITS);
	collect(&t);
	cr_assert_eq(protected_pages(&t.mapper), UNITS);
	gw_track_free(t.track);
	t.track = NULL;
	cr_assert_eq(protected_pages(&t.mapper), 0);
	cr_assert_eq(count_uffds(t.mapper.child.pid), 0);
	finish(&t);
}

static int track_and_wait(int in, int out, void *opaque)
{
	const struct mapper *m = opaque;
	struct gw_track *track = track_mapper(m, 0);
	struct gw_bitmap dirty;

	if (gw_bitmap_init(&dirty, m->size >> GW_UNIT_SHIFT) ||
	    gw_track_collect(track, &dirty, NULL) < 0)
		return 1;
	say(out);
	hear(in);
	return 0;
}

Test(track, the_death_of_the_tracker_lifts_all_protection)
{
	int fd = memory_file(SIZE);
	struct mapper m = mapper_start(fd, SIZE);
	struct child tracker;
	struct gw_uffd probe;

	attach_or_skip(m.child.pid, &probe);
	gw_uffd_detach(&probe);
	mapper_do(&m, ORDER_WRITE, 0, UNITS, 1);
	tracker = child_start(track_and_wait, &m);
	hear(tracker.from);
	cr_assert_eq(protected_pages(&m), UNITS);
	child_kill(&tracker);
	cr_assert_eq(protected_pages(&m), 0);
	mapper_do(&m, ORDER_WRITE, 0, UNITS, 2);
	mapper_end(&m);
}

/* ---- at random, while the process runs ---- */

#define ROUNDS	     1000
#define RANDOM_UNITS 2048UL

Test(track, a_thousand_random_rounds_agree_with_what_was_done, .timeout = 100)
{
	uint64_t size = RANDOM_UNITS * GW_UNIT_SIZE;
	struct tracked t = start(memory_file(size), size);
	struct gw_bitmap golden;

	cr_assert_eq(gw_bitmap_init(&golden, RANDOM_UNITS), 0);
	srand(12345);
	for (int round = 0; round < ROUNDS; round++) {
		gw_bitmap_clear_all(&golden);
		for (int i = rand() % 20; i > 0; i--) {
			uint64_t unit = (uint64_t)rand() % (RANDOM_UNITS - 16);
			uint64_t count = 1 + (uint64_t)rand() % 16;

			if (rand() % 8 == 0)
				mapper_do(&t.mapper, ORDER_DONTNEED, unit, count, 0);
			put(&t, unit, count);
			gw_bitmap_set_range(&golden, unit, count);
			if (rand() % 16 == 0)
				punch(t.fd, unit, count);
			if (rand() % 8 == 0)
				mapper_do(&t.mapper, ORDER_DONTNEED, unit, count, 0);
		}
		collect(&t);
		/* Filled and punched in one round: never backed, so rightly not there. */
		for (uint64_t unit = 0; unit < RANDOM_UNITS; unit++) {
			bool known = gw_bitmap_test(gw_track_backed(t.track), unit);

			cr_assert(!gw_bitmap_test(&t.dirty, unit) ||
					  gw_bitmap_test(&golden, unit),
				  "round %d unit %lu", round, unit);
			cr_assert(!gw_bitmap_test(&golden, unit) || !known ||
					  gw_bitmap_test(&t.dirty, unit),
				  "round %d unit %lu", round, unit);
		}
	}
	gw_bitmap_deinit(&golden);
	finish(&t);
}

struct racer {
	int fd;
	uint64_t units;
	volatile uint64_t *rounds; /* shared with the test */
};

/* Writes pages in a scattered order until told to stop. */
static int race(int in, int out, void *opaque)
{
	const struct racer *racer = opaque;
	uint64_t size = racer->units << GW_UNIT_SHIFT, n = 0;
	char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, racer->fd, 0);
	uint64_t address = (uint64_t)(uintptr_t)base;

	if (write(out, &address, sizeof(address)) != sizeof(address))
		return 1;
	while (!racer->rounds[1]) {
		uint64_t unit = n * 40503 % racer->units;

		*(volatile uint64_t *)(base + (unit << GW_UNIT_SHIFT)) = ++n;
		racer->rounds[0] = n;
	}
	say(out);
	hear(in);
	return 0;
}

/* Copies what was reported: in the end the copy must be the memory. */
Test(track, copying_what_is_reported_while_it_is_written_ends_in_the_same_memory,
     .timeout = 60)
{
	uint64_t units = 4096, size = units << GW_UNIT_SHIFT;
	struct racer racer = {.fd = memory_file(size), .units = units};
	char *memory = mmap(NULL, size, PROT_READ, MAP_SHARED, racer.fd, 0);
	char *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	struct mapper m = {.fd = racer.fd, .size = size};
	struct gw_bitmap dirty;
	struct gw_track *track;

	racer.rounds = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_eq(gw_bitmap_init(&dirty, units), 0);
	m.child = child_start(race, &racer);
	m.address = mapper_answer(&m);
	track = track_mapper(&m, 0);
	for (int round = 0; round < 200; round++) {
		if (round == 199) {
			racer.rounds[1] = 1;
			hear(m.child.from);
		}
		cr_assert_geq(gw_track_collect(track, &dirty, NULL), 0);
		gw_bitmap_for_each_run(&dirty, 0, units, first, end)
			memcpy(copy + (first << GW_UNIT_SHIFT),
			       memory + (first << GW_UNIT_SHIFT),
			       (end - first) << GW_UNIT_SHIFT);
		gw_bitmap_clear_all(&dirty);
	}
	cr_assert_gt(racer.rounds[0], 0);
	cr_assert_eq(memcmp(copy, memory, size), 0);
	gw_track_free(track);
	gw_bitmap_deinit(&dirty);
	say(m.child.to);
	cr_assert_eq(child_end(&m.child), 0);
}
