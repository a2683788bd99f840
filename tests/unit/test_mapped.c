/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a process has mapped, and having it forget that. */
#include "userfault/mapped.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bitmap.h"
#include "userfault/attach.h"
#include "userfault/register.h"
#include "userfault/uapi.h"
#include "userfault_child.h"

/* A test that waits for ever has failed. */
TestSuite(mapped, .timeout = 30);

#define UNITS 256UL
#define SIZE  (UNITS * GW_UNIT_SIZE)

struct watched {
	int fd;
	struct mapper mapper;
	struct gw_mapped mapped;
};

static void open_or_skip(struct gw_mapped *mapped, pid_t pid)
{
	struct gw_err err = {};

	cr_assert_eq(gw_mapped_init(mapped, pid, &err), 0, "%s", err.text);
	if (mapped->pagemap < 0)
		cr_skip_test("no PAGEMAP_SCAN in this kernel (Linux 6.7 has it)");
}

/* A child with a file mapped, of which it has touched nothing. */
static struct watched start(void)
{
	struct watched w = {.fd = memory_file(SIZE)};

	w.mapper = mapper_start(w.fd, SIZE);
	open_or_skip(&w.mapped, w.mapper.child.pid);
	return w;
}

static void finish(struct watched *w)
{
	gw_mapped_deinit(&w->mapped);
	cr_assert_eq(w->mapped.pagemap, -1);
	mapper_end(&w->mapper);
	close(w->fd);
}

static void put(struct watched *w, uint64_t unit, uint64_t count)
{
	for (uint64_t i = unit; i < unit + count; i++)
		mapper_do(&w->mapper, ORDER_WRITE, i, 1, i + 1);
}

/* As gw_mapped_next(), in units of the mapping. */
static int next(const struct watched *w, uint64_t at, uint64_t end, uint64_t *ret_first,
		uint64_t *ret_last)
{
	uint64_t base = w->mapper.address, start = 0, stop = 0;
	int r = gw_mapped_next(&w->mapped, base + at * GW_UNIT_SIZE,
			       base + end * GW_UNIT_SIZE, &start, &stop);

	if (r > 0) {
		*ret_first = (start - base) / GW_UNIT_SIZE;
		*ret_last = (stop - base) / GW_UNIT_SIZE;
	}
	return r;
}

static void assert_next(const struct watched *w, uint64_t at, uint64_t end,
			uint64_t first, uint64_t last)
{
	uint64_t a, b;

	cr_assert_eq(next(w, at, end, &a, &b), 1, "nothing from %lu on", at);
	cr_assert(a == first && b == last, "%lu-%lu, not %lu-%lu", a, b, first, last);
}

static void assert_none(const struct watched *w, uint64_t at, uint64_t end)
{
	uint64_t a = 0, b = 0;

	cr_assert_eq(next(w, at, end, &a, &b), 0, "%lu-%lu is mapped", a, b);
}

static int forget(const struct watched *w, uint64_t unit, uint64_t count)
{
	return gw_mapped_forget(&w->mapped, w->mapper.address + unit * GW_UNIT_SIZE,
				count * GW_UNIT_SIZE, NULL);
}

/* ---- what is mapped ---- */

Test(mapped, a_process_that_touched_nothing_has_nothing_mapped)
{
	struct watched w = start();

	assert_none(&w, 0, UNITS);
	finish(&w);
}

Test(mapped, what_another_process_wrote_into_the_file_is_not_mapped)
{
	struct watched w = start();

	cr_assert_eq(pwrite(w.fd, "x", 1, 5 * GW_UNIT_SIZE), 1);
	assert_none(&w, 0, UNITS);
	finish(&w);
}

Test(mapped, touched_pages_are_found_as_stretches)
{
	struct watched w = start();

	put(&w, 3, 2);
	put(&w, 10, 1);
	put(&w, UNITS - 1, 1);
	assert_next(&w, 0, UNITS, 3, 5);
	assert_next(&w, 5, UNITS, 10, 11);
	assert_next(&w, 11, UNITS, UNITS - 1, UNITS);
	assert_none(&w, 5, 10);
	assert_none(&w, 11, UNITS - 1);
	finish(&w);
}

Test(mapped, a_stretch_ends_at_the_bounds_asked_for)
{
	struct watched w = start();

	put(&w, 20, 30);
	assert_next(&w, 0, 25, 20, 25);
	assert_next(&w, 30, UNITS, 30, 50);
	assert_next(&w, 30, 31, 30, 31);
	assert_none(&w, 30, 30);
	assert_none(&w, 0, 20);
	assert_none(&w, 50, UNITS);
	finish(&w);
}

Test(mapped, exactly_the_touched_pages_of_any_pattern_are_found)
{
	struct watched w = start();
	struct gw_bitmap touched, found;
	uint64_t first, last;

	cr_assert_eq(gw_bitmap_init(&touched, UNITS), 0);
	cr_assert_eq(gw_bitmap_init(&found, UNITS), 0);
	srandom(1);
	for (int round = 0; round < 20; round++) {
		uint64_t unit = (uint64_t)random() % UNITS;
		uint64_t count = 1 + (uint64_t)random() % 8;

		count = GW_MIN(count, UNITS - unit);
		put(&w, unit, count);
		gw_bitmap_set_range(&touched, unit, count);
		gw_bitmap_clear_all(&found);
		for (uint64_t at = 0; next(&w, at, UNITS, &first, &last); at = last)
			gw_bitmap_set_range(&found, first, last - first);
		for (uint64_t i = 0; i < UNITS; i++)
			cr_assert_eq(gw_bitmap_test(&found, i),
				     gw_bitmap_test(&touched, i), "unit %lu", i);
	}
	gw_bitmap_deinit(&touched);
	gw_bitmap_deinit(&found);
	finish(&w);
}

Test(mapped, a_page_that_is_punched_out_of_the_file_is_mapped_no_more)
{
	struct watched w = start();

	put(&w, 0, 8);
	cr_assert_eq(fallocate(w.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       2 * GW_UNIT_SIZE, 3 * GW_UNIT_SIZE),
		     0);
	assert_next(&w, 0, UNITS, 0, 2);
	assert_next(&w, 2, UNITS, 5, 8);
	finish(&w);
}

/*
 * A page that the kernel moves is an entry of that kind meanwhile, and comes
 * back without a fault; a marker of write-protection is one to be had at will.
 */
Test(mapped, an_entry_that_is_neither_empty_nor_a_page_counts_as_mapped)
{
	struct watched w = start();
	struct uffdio_writeprotect protect = {
		.range = {.start = w.mapper.address + 5 * GW_UNIT_SIZE,
			  .len = 2 * GW_UNIT_SIZE},
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct gw_uffd uffd;
	struct gw_err err = {};

	if (gw_uffd_attach(w.mapper.child.pid, GW_UFFD_TRACK, false, NULL, &err, &uffd))
		cr_skip_test("%s", err.text);
	cr_assert_eq(gw_uffd_register(&uffd, w.mapper.address, SIZE,
				      UFFDIO_REGISTER_MODE_WP, &err),
		     0, "%s", err.text);
	cr_assert_eq(ioctl(uffd.fd, UFFDIO_WRITEPROTECT, &protect), 0);
	assert_next(&w, 0, UNITS, 5, 7);
	assert_none(&w, 7, UNITS);
	gw_uffd_detach(&uffd);
	finish(&w);
}

Test(mapped, where_the_kernel_cannot_tell_everything_counts_as_mapped)
{
	const struct gw_mapped mapped = {.pid = getpid(), .pagemap = -1};
	uint64_t start = 0, end = 0;

	cr_assert_eq(gw_mapped_next(&mapped, 4096, 12288, &start, &end), 1);
	cr_assert(start == 4096 && end == 12288);
	cr_assert_eq(gw_mapped_next(&mapped, 12288, 12288, &start, &end), 0);
}

/* ---- forgetting ---- */

Test(mapped, what_is_forgotten_is_unmapped_and_the_file_keeps_it)
{
	struct watched w = start();
	uint64_t word;

	put(&w, 0, 64);
	cr_assert_eq(forget(&w, 10, 20), 0);
	assert_next(&w, 0, UNITS, 0, 10);
	assert_next(&w, 10, UNITS, 30, 64);
	for (uint64_t i = 0; i < 64; i++) {
		cr_assert_eq(pread(w.fd, &word, 8, (off_t)(i * GW_UNIT_SIZE)), 8);
		cr_assert_eq(word, i + 1);
	}
	/* The process finds all of it again. */
	cr_assert_eq(mapper_do(&w.mapper, ORDER_READ, 0, 64, 0), 64 * 65 / 2);
	assert_next(&w, 0, UNITS, 0, 64);
	finish(&w);
}

Test(mapped, a_process_forgets_again_and_again_while_it_works)
{
	struct watched w = start();

	for (uint64_t round = 0; round < 100; round++) {
		mapper_order(&w.mapper, ORDER_WRITE, 0, UNITS, round);
		cr_assert_eq(forget(&w, 0, UNITS), 0);
		mapper_answer(&w.mapper);
		cr_assert_eq(mapper_do(&w.mapper, ORDER_READ, 0, UNITS, 0),
			     UNITS * round);
	}
	finish(&w);
}

Test(mapped, nothing_mapped_can_be_forgotten)
{
	struct watched w = start();

	cr_assert_eq(forget(&w, 0, UNITS), 0);
	assert_none(&w, 0, UNITS);
	finish(&w);
}

Test(mapped, memory_that_the_process_locked_is_reported_and_stays)
{
	struct watched w = start();

	if (!mapper_do(&w.mapper, ORDER_LOCK, 0, 16, 0))
		cr_skip_test("may not lock 64 KiB of memory");
	put(&w, 32, 4);
	cr_assert_eq(forget(&w, 0, 16), -EINVAL);
	assert_next(&w, 0, UNITS, 0, 16);
	/* Beside it nothing is in the way. */
	cr_assert_eq(forget(&w, 16, 32), 0);
	assert_next(&w, 0, UNITS, 0, 16);
	assert_none(&w, 16, UNITS);
	finish(&w);
}

Test(mapped, memory_that_is_not_there_cannot_be_forgotten)
{
	struct watched w = start();

	cr_assert_eq(gw_mapped_forget(&w.mapped, 1UL << 16, GW_UNIT_SIZE, NULL), -ENOMEM);
	finish(&w);
}

/* ---- whose ---- */

/* A mapping of our own, its first word in each page touched by ourselves. */
static volatile char *own_memory(int fd, pid_t pid, struct gw_mapped *mapped)
{
	volatile char *base = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	cr_assert_neq((void *)base, MAP_FAILED);
	open_or_skip(mapped, pid);
	return base;
}

static void forget_own(pid_t pid)
{
	int fd = memory_file(SIZE);
	struct gw_mapped mapped;
	volatile char *base = own_memory(fd, pid, &mapped);
	uint64_t at = (uint64_t)(uintptr_t)base, start = 0, end = 0;

	base[5 * GW_UNIT_SIZE] = 'x';
	cr_assert_eq(gw_mapped_next(&mapped, at, at + SIZE, &start, &end), 1);
	cr_assert_eq(start, at + 5 * GW_UNIT_SIZE);
	cr_assert_eq(end, at + 6 * GW_UNIT_SIZE);
	cr_assert_eq(gw_mapped_forget(&mapped, at, SIZE, NULL), 0);
	cr_assert_eq(gw_mapped_next(&mapped, at, at + SIZE, &start, &end), 0);
	cr_assert_eq(base[5 * GW_UNIT_SIZE], 'x');
	cr_assert_eq(lock_memory((void *)at, GW_UNIT_SIZE), 0);
	cr_assert_eq(gw_mapped_forget(&mapped, at, SIZE, NULL), -EINVAL);
	gw_mapped_deinit(&mapped);
	munmap((void *)at, SIZE);
	close(fd);
}

Test(mapped, our_own_process_is_one_like_another)
{
	forget_own(getpid());
}

Test(mapped, process_number_0_is_our_own)
{
	forget_own(0);
}

Test(mapped, another_mapping_of_the_file_keeps_its_pages)
{
	struct watched w = start();
	struct gw_mapped own;
	volatile char *base = own_memory(w.fd, 0, &own);
	uint64_t at = (uint64_t)(uintptr_t)base, from = 0, end = 0;

	base[0] = 1;
	put(&w, 0, 1);
	cr_assert_eq(forget(&w, 0, UNITS), 0);
	assert_none(&w, 0, UNITS);
	cr_assert_eq(gw_mapped_next(&own, at, at + SIZE, &from, &end), 1);
	cr_assert_eq(end - from, GW_UNIT_SIZE);
	gw_mapped_deinit(&own);
	munmap((void *)at, SIZE);
	finish(&w);
}

Test(mapped, a_process_that_is_gone_has_nothing_and_is_said_so)
{
	struct watched w = start();
	struct gw_mapped again;
	struct gw_err err = {};
	uint64_t a, b;

	put(&w, 0, 8);
	child_kill(&w.mapper.child);
	cr_assert_leq(next(&w, 0, UNITS, &a, &b), 0);
	cr_assert_eq(forget(&w, 0, 8), -ESRCH);
	cr_assert_eq(gw_mapped_init(&again, w.mapper.child.pid, &err), -ESRCH);
	cr_assert(strstr(err.text, "page map of process"), "%s", err.text);
	gw_mapped_deinit(&w.mapped);
	close(w.fd);
}
