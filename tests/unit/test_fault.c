/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Serving another process's missing pages. */
#include "userfault/fault.h"

#include <linux/memfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "userfault/uapi.h"
#include "userfault_child.h"

/* A test that waits for ever has failed. */
TestSuite(fault, .timeout = 30);

#define UNITS 64UL
#define SIZE  (UNITS * GW_UNIT_SIZE)

struct served {
	int fd;
	struct mapper mapper;
	struct gw_uffd uffd;
};

/* A child with @fd mapped and all of it registered as missing. */
static struct served serve(int fd, uint64_t size)
{
	struct served s = {.fd = fd, .mapper = mapper_start(fd, size)};
	struct gw_err err = {};
	int r;

	if (gw_uffd_attach(s.mapper.child.pid, GW_UFFD_FAULTS, true, NULL, &err, &s.uffd))
		cr_skip_test("%s", err.text);
	r = gw_fault_register(&s.uffd, s.mapper.address, size, &err);
	cr_assert_eq(r, 0, "%s", err.text);
	return s;
}

static void finish(struct served *s)
{
	cr_assert_eq(gw_uffd_release(&s->uffd, NULL), 0);
	mapper_end(&s->mapper);
	close(s->fd);
}

static uint64_t unit_at(const struct served *s, uint64_t unit)
{
	return s->mapper.address + unit * GW_UNIT_SIZE;
}

static void order_read(struct served *s, uint64_t unit, uint64_t count)
{
	mapper_order(&s->mapper, ORDER_READ, unit, count, 0);
}

/* Waits for one fault: its address. */
static uint64_t await_fault(struct served *s)
{
	struct pollfd pfd = {.fd = s->uffd.fd, .events = POLLIN};
	struct gw_fault faults[4];

	cr_assert_eq(poll(&pfd, 1, 5000), 1);
	cr_assert_eq(gw_fault_read(&s->uffd, faults, 4), 1);
	return faults[0].address;
}

static bool answered(struct served *s, int ms)
{
	struct pollfd pfd = {.fd = s->mapper.child.from, .events = POLLIN};

	return poll(&pfd, 1, ms) == 1;
}

/* Pages whose first words are 1, 2, 3, … */
static uint64_t *pages(uint64_t count)
{
	uint64_t *source = calloc(count, GW_UNIT_SIZE);

	cr_assert(source);
	for (uint64_t i = 0; i < count; i++)
		source[i * (GW_UNIT_SIZE / 8)] = i + 1;
	return source;
}

/* Into the file, behind whoever has it mapped. */
static void put_word(struct served *s, uint64_t unit, uint64_t word)
{
	cr_assert_eq(pwrite(s->fd, &word, sizeof(word), (off_t)(unit * GW_UNIT_SIZE)),
		     sizeof(word));
}

Test(fault, a_missing_page_is_asked_for_and_served)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	uint64_t *source = pages(UNITS);

	order_read(&s, 5, 1);
	cr_assert_eq(await_fault(&s), unit_at(&s, 5));
	cr_assert(!answered(&s, 20));
	cr_assert_eq(gw_fault_copy(&s.uffd, unit_at(&s, 5), source, GW_UNIT_SIZE), 0);
	cr_assert_eq(mapper_answer(&s.mapper), 1);
	free(source);
	finish(&s);
}

Test(fault, without_a_fault_there_is_nothing_to_read)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	struct gw_fault faults[4];

	cr_assert_eq(gw_fault_read(&s.uffd, faults, 4), 0);
	finish(&s);
}

Test(fault, a_range_is_installed_in_one_call)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	uint64_t *source = pages(UNITS);

	cr_assert_eq(gw_fault_copy(&s.uffd, s.mapper.address, source, SIZE), 0);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 0, UNITS, 0),
		     UNITS * (UNITS + 1) / 2);
	free(source);
	finish(&s);
}

Test(fault, a_page_of_zeroes_is_installed)
{
	struct served s = serve(memory_file(SIZE), SIZE);

	order_read(&s, 0, UNITS);
	await_fault(&s);
	cr_assert_eq(gw_fault_zero(&s.uffd, s.mapper.address, SIZE), 0);
	cr_assert_eq(mapper_answer(&s.mapper), 0);
	cr_assert_eq(gw_fault_zero(&s.uffd, s.mapper.address, SIZE), GW_INSTALL_PRESENT);
	finish(&s);
}

Test(fault, pages_that_are_present_are_left_and_the_rest_installed)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	uint64_t *source = pages(UNITS);

	/* 100 in units 0, 7, 8 and the last one */
	source[0] = 100;
	cr_assert_eq(gw_fault_copy(&s.uffd, unit_at(&s, 0), source, GW_UNIT_SIZE), 0);
	cr_assert_eq(gw_fault_copy(&s.uffd, unit_at(&s, 7), source, GW_UNIT_SIZE), 0);
	cr_assert_eq(gw_fault_copy(&s.uffd, unit_at(&s, 8), source, GW_UNIT_SIZE), 0);
	cr_assert_eq(gw_fault_copy(&s.uffd, unit_at(&s, UNITS - 1), source, GW_UNIT_SIZE),
		     0);
	source[0] = 1;
	cr_assert_eq(gw_fault_copy(&s.uffd, s.mapper.address, source, SIZE),
		     GW_INSTALL_PRESENT);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 0, UNITS, 0),
		     UNITS * (UNITS + 1) / 2 - (1 + 8 + 9 + UNITS) + 400);
	free(source);
	finish(&s);
}

Test(fault, filling_ends_at_the_first_page_that_is_there)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	GW_AUTO_FREE uint64_t *source = pages(UNITS);

	cr_assert_eq(gw_fault_fill(&s.uffd, unit_at(&s, 5), source + 5 * GW_UNIT_SIZE / 8,
				   GW_UNIT_SIZE),
		     GW_UNIT_SIZE);
	cr_assert_eq(gw_fault_fill(&s.uffd, unit_at(&s, 0), source, SIZE),
		     5 * GW_UNIT_SIZE);
	cr_assert_eq(gw_fault_fill(&s.uffd, unit_at(&s, 5), source, GW_UNIT_SIZE), 0);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 0, 6, 0), 21);
	cr_assert_eq(gw_fault_fill(&s.uffd, 1UL << 40, source, GW_UNIT_SIZE), -ENOENT);
	finish(&s);
}

Test(fault, copying_over_a_page_of_the_file_leaves_it_and_its_waiter_asks_again)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	uint64_t *source = pages(1);

	order_read(&s, 3, 1);
	cr_assert_eq(await_fault(&s), unit_at(&s, 3));
	/* It appears behind the waiter's back, which wakes nobody. */
	put_word(&s, 3, 77);
	cr_assert(!answered(&s, 20));
	cr_assert_eq(gw_fault_copy(&s.uffd, unit_at(&s, 3), source, GW_UNIT_SIZE),
		     GW_INSTALL_PRESENT);
	cr_assert_eq(await_fault(&s), unit_at(&s, 3));
	cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, 3), GW_UNIT_SIZE), 0);
	cr_assert_eq(mapper_answer(&s.mapper), 77);
	free(source);
	finish(&s);
}

Test(fault, waking_alone_has_a_waiter_ask_again_for_a_page_of_the_file)
{
	struct served s = serve(memory_file(SIZE), SIZE);

	order_read(&s, 3, 1);
	await_fault(&s);
	put_word(&s, 3, 77);
	cr_assert_eq(gw_fault_wake(&s.uffd, unit_at(&s, 3), GW_UNIT_SIZE), 0);
	cr_assert_eq(await_fault(&s), unit_at(&s, 3));
	cr_assert(!answered(&s, 20));
	cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, 3), GW_UNIT_SIZE), 0);
	cr_assert_eq(mapper_answer(&s.mapper), 77);
	finish(&s);
}

/* ---- pages of the file, shown by continuing ---- */

Test(fault, a_page_of_the_file_is_seen_only_when_it_is_continued)
{
	struct served s = serve(memory_file(SIZE), SIZE);

	put_word(&s, 5, 55);
	order_read(&s, 5, 1);
	cr_assert_eq(await_fault(&s), unit_at(&s, 5));
	cr_assert(!answered(&s, 20));
	cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, 5), GW_UNIT_SIZE), 0);
	cr_assert_eq(mapper_answer(&s.mapper), 55);
	finish(&s);
}

Test(fault, a_page_of_the_file_is_not_shown_along_with_its_neighbour)
{
	struct served s = serve(memory_file(SIZE), SIZE);

	for (uint64_t unit = 0; unit < UNITS; unit++)
		put_word(&s, unit, unit + 1);
	cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, 8), GW_UNIT_SIZE), 0);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 8, 1, 0), 9);
	for (uint64_t unit = 7; unit <= 9; unit += 2) {
		order_read(&s, unit, 1);
		cr_assert_eq(await_fault(&s), unit_at(&s, unit));
		cr_assert(!answered(&s, 5));
		cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, unit), GW_UNIT_SIZE),
			     0);
		cr_assert_eq(mapper_answer(&s.mapper), unit + 1);
	}
	finish(&s);
}

Test(fault, a_write_to_a_page_of_the_file_waits_and_lands_on_what_was_continued)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	uint64_t words[2] = {1, 2};

	cr_assert_eq(pwrite(s.fd, words, sizeof(words), 0), sizeof(words));
	mapper_order(&s.mapper, ORDER_WRITE, 0, 1, 100);
	cr_assert_eq(await_fault(&s), unit_at(&s, 0));
	cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, 0), GW_UNIT_SIZE), 0);
	mapper_answer(&s.mapper);
	cr_assert_eq(pread(s.fd, words, sizeof(words), 0), sizeof(words));
	cr_assert_eq(words[0], 100);
	cr_assert_eq(words[1], 2);
	finish(&s);
}

Test(fault, a_range_of_the_file_is_continued_in_one_call)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	struct gw_fault faults[4];

	for (uint64_t unit = 0; unit < UNITS; unit++)
		put_word(&s, unit, unit + 1);
	cr_assert_eq(gw_fault_continue(&s.uffd, s.mapper.address, SIZE), 0);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 0, UNITS, 0),
		     UNITS * (UNITS + 1) / 2);
	cr_assert_eq(gw_fault_read(&s.uffd, faults, 4), 0);
	finish(&s);
}

Test(fault, continuing_over_mapped_pages_says_so_and_maps_the_rest)
{
	const uint64_t mapped[] = {0, 7, 8, UNITS - 1};
	struct served s = serve(memory_file(SIZE), SIZE);
	struct gw_fault faults[4];

	for (uint64_t unit = 0; unit < UNITS; unit++)
		put_word(&s, unit, unit + 1);
	for (size_t i = 0; i < GW_ARRAY_SIZE(mapped); i++)
		cr_assert_eq(
			gw_fault_continue(&s.uffd, unit_at(&s, mapped[i]), GW_UNIT_SIZE),
			0);
	/* A guest that has one already may write to it. */
	mapper_do(&s.mapper, ORDER_WRITE, 7, 1, 100);
	cr_assert_eq(gw_fault_continue(&s.uffd, s.mapper.address, SIZE),
		     GW_INSTALL_PRESENT);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 0, UNITS, 0),
		     UNITS * (UNITS + 1) / 2 - 8 + 100);
	cr_assert_eq(gw_fault_read(&s.uffd, faults, 4), 0);
	finish(&s);
}

Test(fault, continuing_a_mapped_page_wakes_who_waits_for_it)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	struct uffdio_continue quiet = {
		.range = {.start = unit_at(&s, 3), .len = GW_UNIT_SIZE},
		.mode = UFFDIO_CONTINUE_MODE_DONTWAKE,
	};

	put_word(&s, 3, 77);
	order_read(&s, 3, 1);
	await_fault(&s);
	cr_assert_eq(ioctl(s.uffd.fd, UFFDIO_CONTINUE, &quiet), 0);
	cr_assert(!answered(&s, 20));
	cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, 3), GW_UNIT_SIZE),
		     GW_INSTALL_PRESENT);
	cr_assert_eq(mapper_answer(&s.mapper), 77);
	finish(&s);
}

Test(fault, a_hole_of_the_file_cannot_be_continued)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	struct gw_fault faults[4];

	cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, 0), GW_UNIT_SIZE), -EFAULT);
	for (uint64_t unit = 0; unit < UNITS; unit++)
		if (unit != 5)
			put_word(&s, unit, unit + 1);
	cr_assert_eq(gw_fault_continue(&s.uffd, s.mapper.address, SIZE), -EFAULT);
	/* What came before the hole is shown; the hole can still be filled. */
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 0, 5, 0), 15);
	cr_assert_eq(gw_fault_zero(&s.uffd, unit_at(&s, 5), GW_UNIT_SIZE), 0);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 5, 1, 0), 0);
	cr_assert_eq(gw_fault_read(&s.uffd, faults, 4), 0);
	finish(&s);
}

/* Reads pages while they are installed; a page half installed is status 1. */
static int watch_pages(int in, int out, void *opaque)
{
	const struct mapper *m = opaque;
	char *base = mmap(NULL, m->size, PROT_READ, MAP_SHARED, m->fd, 0);
	uint64_t address = (uint64_t)(uintptr_t)base;

	if (write(out, &address, sizeof(address)) != sizeof(address))
		return 2;
	hear(in);
	for (uint64_t unit = 0; unit < m->size / GW_UNIT_SIZE; unit++) {
		volatile char *page = base + unit * GW_UNIT_SIZE;
		char last = page[GW_UNIT_SIZE - 1];

		for (uint64_t i = 0; i < GW_UNIT_SIZE; i++)
			if (page[i] != last || !last)
				return 1;
	}
	return 0;
}

/* A child that reads all of @fd's @units page by page, registered and about to begin. */
static struct served serve_watcher(int fd, uint64_t units)
{
	struct served s = {.fd = fd};
	struct gw_err err = {};

	s.mapper = (struct mapper){.fd = fd, .size = units * GW_UNIT_SIZE};
	s.mapper.child = child_start(watch_pages, &s.mapper);
	s.mapper.address = mapper_answer(&s.mapper);
	if (gw_uffd_attach(s.mapper.child.pid, GW_UFFD_FAULTS, true, NULL, &err, &s.uffd))
		cr_skip_test("%s", err.text);
	cr_assert_eq(gw_fault_register(&s.uffd, s.mapper.address, s.mapper.size, &err), 0,
		     "%s", err.text);
	say(s.mapper.child.to);
	return s;
}

static void finish_watcher(struct served *s)
{
	cr_assert_eq(child_end(&s->mapper.child), 0, "a page was seen half");
	gw_uffd_release(&s->uffd, NULL);
	close(s->fd);
}

Test(fault, a_reader_sees_each_page_whole)
{
	struct served s = serve_watcher(memory_file(16 * SIZE), 16 * UNITS);
	char page[GW_UNIT_SIZE];

	for (uint64_t unit = 0; unit < 16 * UNITS; unit++) {
		cr_assert_eq(await_fault(&s), unit_at(&s, unit));
		memset(page, (int)(1 + unit % 100), sizeof(page));
		cr_assert_eq(
			gw_fault_copy(&s.uffd, unit_at(&s, unit), page, sizeof(page)), 0);
	}
	finish_watcher(&s);
}

Test(fault, a_reader_sees_nothing_of_a_page_while_it_is_written_into_the_file)
{
	struct served s = serve_watcher(memory_file(16 * SIZE), 16 * UNITS);
	char *base = mmap(NULL, 16 * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0);
	const size_t half = GW_UNIT_SIZE / 2;

	cr_assert_neq(base, MAP_FAILED);
	for (uint64_t unit = 0; unit < 16 * UNITS; unit++) {
		char *page = base + unit * GW_UNIT_SIZE;
		struct gw_fault fault;

		/* The half that is looked at first comes first; */
		memset(page + half, (int)(1 + unit % 100), half);
		cr_assert_eq(await_fault(&s), unit_at(&s, unit));
		cr_assert_eq(gw_fault_wake(&s.uffd, unit_at(&s, unit), GW_UNIT_SIZE), 0);
		cr_assert_eq(await_fault(&s), unit_at(&s, unit));
		memset(page, (int)(1 + unit % 100), half);
		cr_assert_eq(gw_fault_read(&s.uffd, &fault, 1), 0);
		cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, unit), GW_UNIT_SIZE),
			     0);
	}
	munmap(base, 16 * SIZE);
	finish_watcher(&s);
}

#define READERS 4

static void *read_page(void *opaque)
{
	return (void *)(uintptr_t) * (volatile uint64_t *)opaque;
}

/* One thread for each of the first pages; status 0 when all read what was served. */
static int read_with_threads(int in, int out, void *opaque)
{
	const struct mapper *m = opaque;
	char *base = mmap(NULL, m->size, PROT_READ, MAP_SHARED, m->fd, 0);
	uint64_t address = (uint64_t)(uintptr_t)base, sum = 0;
	pthread_t threads[READERS];
	void *word;

	if (write(out, &address, sizeof(address)) != sizeof(address))
		return 2;
	hear(in);
	for (uint64_t i = 0; i < READERS; i++)
		pthread_create(&threads[i], NULL, read_page, base + i * GW_UNIT_SIZE);
	for (uint64_t i = 0; i < READERS; i++) {
		pthread_join(threads[i], &word);
		sum += (uintptr_t)word;
	}
	return sum == READERS * (READERS + 1) / 2 ? 0 : 1;
}

Test(fault, faults_of_several_threads_are_all_read_and_served)
{
	struct served s = {.fd = memory_file(SIZE), .mapper = {.size = SIZE}};
	uint64_t *source = pages(READERS);
	struct gw_fault faults[2];
	struct gw_err err = {};
	int n, seen = 0;

	s.mapper.fd = s.fd;
	s.mapper.child = child_start(read_with_threads, &s.mapper);
	s.mapper.address = mapper_answer(&s.mapper);
	if (gw_uffd_attach(s.mapper.child.pid, GW_UFFD_FAULTS, true, NULL, &err, &s.uffd))
		cr_skip_test("%s", err.text);
	cr_assert_eq(gw_fault_register(&s.uffd, s.mapper.address, SIZE, &err), 0);
	say(s.mapper.child.to);
	for (int i = 0; seen < READERS && i < 5000; i++) {
		n = gw_fault_read(&s.uffd, faults, 2);
		cr_assert(n >= 0 && n <= 2);
		seen += n;
		if (!n)
			usleep(1000);
	}
	cr_assert_eq(seen, READERS);
	cr_assert_eq(
		gw_fault_copy(&s.uffd, s.mapper.address, source, READERS * GW_UNIT_SIZE),
		0);
	cr_assert_eq(child_end(&s.mapper.child), 0);
	free(source);
	gw_uffd_release(&s.uffd, NULL);
}

Test(fault, a_huge_page_is_served_whole_and_a_present_one_left)
{
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	uint64_t huge = 2UL << 20, *source = pages(1024);
	struct served s;

	if (fd < 0 || ftruncate(fd, (off_t)(2 * huge)) ||
	    mmap(NULL, 2 * huge, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
		cr_skip_test("fewer than two free huge pages (sysctl vm.nr_hugepages=2)");
	s = serve(fd, 2 * huge);
	order_read(&s, 512, 1);
	cr_assert_eq(await_fault(&s), s.mapper.address + huge);
	cr_assert_eq(gw_fault_copy(&s.uffd, s.mapper.address + huge, source, huge), 0);
	cr_assert_eq(mapper_answer(&s.mapper), 1);
	cr_assert_eq(gw_fault_copy(&s.uffd, s.mapper.address + huge, source, huge),
		     GW_INSTALL_PRESENT);
	/* The second of two is there: the first is zeroed all the same. */
	cr_assert_eq(gw_fault_zero(&s.uffd, s.mapper.address, 2 * huge),
		     GW_INSTALL_PRESENT);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 0, 512, 0), 0);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 512, 1, 0), 1);
	free(source);
	finish(&s);
}

Test(fault, a_huge_page_of_the_file_is_seen_only_when_it_is_continued)
{
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	uint64_t huge = 2UL << 20;
	struct served s;
	uint64_t *base;

	if (fd < 0 || ftruncate(fd, (off_t)(2 * huge)) ||
	    (base = mmap(NULL, 2 * huge, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) ==
		    MAP_FAILED)
		cr_skip_test("fewer than two free huge pages (sysctl vm.nr_hugepages=2)");
	s = serve(fd, 2 * huge);
	base[(huge + 3 * GW_UNIT_SIZE) / sizeof(*base)] = 77;
	order_read(&s, 515, 1);
	cr_assert_eq(await_fault(&s), s.mapper.address + huge);
	cr_assert(!answered(&s, 20));
	cr_assert_eq(gw_fault_continue(&s.uffd, s.mapper.address + huge, huge), 0);
	cr_assert_eq(mapper_answer(&s.mapper), 77);
	/* The first of two is a hole, the second mapped. */
	cr_assert_eq(gw_fault_continue(&s.uffd, s.mapper.address, 2 * huge), -EFAULT);
	base[0] = 78;
	cr_assert_eq(gw_fault_continue(&s.uffd, s.mapper.address, 2 * huge),
		     GW_INSTALL_PRESENT);
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 0, 1, 0), 78);
	munmap(base, 2 * huge);
	finish(&s);
}

/* ---- failures ---- */

Test(fault, a_full_tmpfs_is_no_space)
{
	char dir[] = "/tmp/godwit-test-XXXXXX", path[64];
	uint64_t size = 2UL << 20, *source = pages(512);
	struct served s;
	int fd;

	cr_assert(mkdtemp(dir));
	if (mount("none", dir, "tmpfs", 0, "size=1M")) {
		rmdir(dir);
		cr_skip_test("cannot mount a tmpfs: not root?");
	}
	snprintf(path, sizeof(path), "%s/ram", dir);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	/* Detached now, it goes with the last user, however this test ends. */
	umount2(dir, MNT_DETACH);
	rmdir(dir);
	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	s = serve(fd, size);
	cr_assert_eq(gw_fault_copy(&s.uffd, s.mapper.address, source, size), -ENOSPC);
	cr_assert_eq(gw_fault_zero(&s.uffd, unit_at(&s, 400), GW_UNIT_SIZE), -ENOSPC);
	/* What fitted is there. */
	cr_assert_eq(mapper_do(&s.mapper, ORDER_READ, 0, 200, 0), 200 * 201 / 2);
	free(source);
	finish(&s);
}

Test(fault, a_range_that_is_not_mapped_is_no_entry)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	uint64_t *source = pages(1);

	cr_assert_eq(gw_fault_copy(&s.uffd, 1UL << 40, source, GW_UNIT_SIZE), -ENOENT);
	cr_assert_eq(gw_fault_zero(&s.uffd, 1UL << 40, GW_UNIT_SIZE), -ENOENT);
	cr_assert_eq(gw_fault_continue(&s.uffd, 1UL << 40, GW_UNIT_SIZE), -ENOENT);
	free(source);
	finish(&s);
}

Test(fault, a_process_that_is_gone_is_said_so_by_every_call)
{
	struct served s = serve(memory_file(SIZE), SIZE);
	uint64_t *source = pages(1);
	struct gw_fault faults[4];
	struct gw_err err = {};

	child_kill(&s.mapper.child);
	cr_assert_eq(gw_fault_read(&s.uffd, faults, 4), -ESRCH);
	cr_assert_eq(gw_fault_copy(&s.uffd, unit_at(&s, 0), source, GW_UNIT_SIZE),
		     -ESRCH);
	cr_assert_eq(gw_fault_zero(&s.uffd, unit_at(&s, 0), GW_UNIT_SIZE), -ESRCH);
	cr_assert_eq(gw_fault_continue(&s.uffd, unit_at(&s, 0), GW_UNIT_SIZE), -ESRCH);
	cr_assert_eq(gw_fault_register(&s.uffd, unit_at(&s, 0), SIZE, &err), -ESRCH);
	cr_assert(strstr(err.text, "has ended"), "%s", err.text);
	cr_assert_eq(gw_fault_unregister(&s.uffd, unit_at(&s, 0), SIZE), -ESRCH);
	free(source);
	gw_uffd_detach(&s.uffd);
}

Test(fault, unregistering_lets_a_waiter_go_on)
{
	struct served s = serve(memory_file(SIZE), SIZE);

	order_read(&s, 3, 1);
	await_fault(&s);
	cr_assert_eq(gw_fault_unregister(&s.uffd, s.mapper.address, SIZE), 0);
	cr_assert_eq(mapper_answer(&s.mapper), 0);
	finish(&s);
}

static int serve_and_wait(int in, int out, void *opaque)
{
	struct mapper *m = opaque;
	struct gw_uffd uffd;

	if (gw_uffd_attach(m->child.pid, GW_UFFD_FAULTS, true, NULL, NULL, &uffd) ||
	    gw_fault_register(&uffd, m->address, m->size, NULL))
		return 1;
	say(out);
	hear(in);
	return 0;
}

Test(fault, the_death_of_the_server_leaves_waiters_waiting)
{
	int fd = memory_file(SIZE);
	struct served s = {.fd = fd, .mapper = mapper_start(fd, SIZE)};
	struct child server;
	struct gw_uffd probe;
	struct gw_err err = {};

	if (gw_uffd_attach(s.mapper.child.pid, GW_UFFD_FAULTS, false, NULL, &err, &probe))
		cr_skip_test("%s", err.text);
	gw_uffd_detach(&probe);
	server = child_start(serve_and_wait, &s.mapper);
	hear(server.from);
	order_read(&s, 0, 1);
	cr_assert(!answered(&s, 20));
	child_kill(&server);
	cr_assert(!answered(&s, 50), "it was served zeroes");
	cr_assert_eq(count_uffds(s.mapper.child.pid), 1);
	child_kill(&s.mapper.child);
}
