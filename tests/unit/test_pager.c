/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guest memory at the destination: what the guest's process sees of it, and when. */
#include "migrate/pager.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "userfault_child.h"
#include "wire/frame.h"

/* A test that waits for ever has failed. */
TestSuite(pager, .timeout = 30);

#define UNITS 64UL
#define SIZE  (UNITS * GW_UNIT_SIZE)
/* Enough for the process itself to be asked to forget it. */
#define LARGE_UNITS (24UL * GW_EXTENT_UNITS)
#define LARGE_SIZE  (LARGE_UNITS * GW_UNIT_SIZE)
/* What the file has of a unit before it is dropped: the number of the unit and this. */
#define OLD 1000000UL
/* And what the source sends. */
#define NEW 2000000UL

#define WORDS (GW_UNIT_SIZE / sizeof(uint64_t))

/* ---- a pager over one region, and the source's end of its urgent channel ---- */

struct rig {
	int fd;
	struct gw_memory memory;
	struct gw_pager *pager;
	struct gw_chan *urgent, *source;
	unsigned int completed, failed; /* atomic */
};

static void note_failed(void *opaque, const struct gw_err *err)
{
	__atomic_fetch_add(&((struct rig *)opaque)->failed, 1, __ATOMIC_RELAXED);
}

static void note_complete(void *opaque)
{
	__atomic_fetch_add(&((struct rig *)opaque)->completed, 1, __ATOMIC_RELAXED);
}

/* @fd is mapped at @address of process @pid; @page_size: of its backing. */
static void rig_open(struct rig *rig, int fd, uint64_t size, uint64_t address, pid_t pid,
		     uint64_t page_size)
{
	struct gw_memory_spec spec = {"ram", fd, 0, size, address, page_size};
	struct gw_pager_config config = {
		.memory = &rig->memory,
		.pid = pid,
		.failed = note_failed,
		.complete = note_complete,
		.opaque = rig,
	};
	struct gw_err err = {};

	*rig = (struct rig){.fd = fd};
	cr_assert_eq(gw_memory_init(&rig->memory, &spec, 1, &err), 0, "%s", err.text);
	cr_assert_eq(gw_pager_new(&config, &err, &rig->pager), 0, "%s", err.text);
	if (gw_pager_attach(rig->pager, &err))
		cr_skip_test("%s", err.text);
	cr_assert_eq(gw_mem_pair(1 << 20, &rig->urgent, &rig->source), 0);
	gw_pager_set_urgent(rig->pager, rig->urgent);
}

static void rig_close(struct rig *rig)
{
	gw_chan_shutdown(rig->urgent);
	gw_pager_stop(rig->pager);
	cr_assert_eq(rig->failed, 0);
	gw_pager_release(rig->pager);
	cr_assert_null(gw_pager_free(rig->pager));
	gw_chan_free(rig->urgent);
	gw_chan_free(rig->source);
	gw_memory_deinit(&rig->memory);
}

static void drop(struct rig *rig, uint64_t unit, uint64_t count)
{
	struct gw_err err = {};

	cr_assert_eq(gw_pager_drop(rig->pager, 0, unit, count, &err), 0, "%s", err.text);
}

static void arm(struct rig *rig)
{
	struct gw_err err = {};
	uint64_t missing = gw_pager_missing(rig->pager);

	cr_assert_eq(gw_pager_arm(rig->pager, missing, &err), 0, "%s", err.text);
	cr_assert_eq(gw_pager_serve(rig->pager, &err), 0, "%s", err.text);
}

/* The unit the guest's process is found to wait for. */
static uint64_t await_request(struct rig *rig)
{
	uint8_t buf[GW_REQUEST_LEN];
	struct gw_request request;

	cr_assert_eq(
		gw_chan_recv_by(rig->source, buf, sizeof(buf), gw_now() + 5 * GW_NSEC),
		0);
	cr_assert_eq(gw_request_decode(buf, &request), 0);
	cr_assert_eq(request.region, 0);
	return request.unit;
}

static void assert_no_request(struct rig *rig)
{
	cr_assert_eq(gw_chan_wait(rig->source, 0, -1), GW_CHAN_TIMEOUT,
		     "something was asked for");
}

/* Pages whose words are all @value plus the number of the unit. */
static uint64_t *pages(uint64_t unit, uint64_t count, uint64_t value)
{
	uint64_t *data = malloc(count * GW_UNIT_SIZE);

	cr_assert(data);
	for (uint64_t i = 0; i < count * WORDS; i++)
		data[i] = value + unit + i / WORDS;
	return data;
}

static void install(struct rig *rig, uint64_t unit, uint64_t count, bool urgent)
{
	GW_AUTO_FREE uint64_t *data = pages(unit, count, NEW);

	cr_assert_eq(gw_pager_install(rig->pager, 0, unit, count, data, urgent), 0);
}

static void zero(struct rig *rig, uint64_t unit, uint64_t count, bool urgent)
{
	cr_assert_eq(gw_pager_zero(rig->pager, 0, unit, count, urgent), 0);
}

/* Units that the file has memory for. */
static uint64_t backed(const struct rig *rig)
{
	struct stat st;

	cr_assert_eq(fstat(rig->fd, &st), 0);
	return (uint64_t)st.st_blocks * 512 / GW_UNIT_SIZE;
}

/* The sum of @value plus the unit over a range. */
static uint64_t sum_of(uint64_t unit, uint64_t count, uint64_t value)
{
	return count * value + count * (2 * unit + count - 1) / 2;
}

/* ---- the guest's process: a child that has all of it mapped ---- */

struct guest {
	struct mapper mapper;
	struct rig rig;
};

/* The first @touched units are mapped with old contents, the rest are holes. */
static void start(struct guest *guest, uint64_t units, uint64_t touched)
{
	int fd = memory_file(units * GW_UNIT_SIZE);
	GW_AUTO_FREE uint64_t *old = pages(0, touched, OLD);

	cr_assert_eq(pwrite(fd, old, touched * GW_UNIT_SIZE, 0),
		     (ssize_t)(touched * GW_UNIT_SIZE));
	guest->mapper = mapper_start(fd, units * GW_UNIT_SIZE);
	cr_assert_eq(mapper_do(&guest->mapper, ORDER_READ, 0, touched, 0),
		     sum_of(0, touched, OLD));
	rig_open(&guest->rig, fd, guest->mapper.size, guest->mapper.address,
		 guest->mapper.child.pid, GW_UNIT_SIZE);
}

static void finish(struct guest *guest)
{
	rig_close(&guest->rig);
	mapper_end(&guest->mapper);
	close(guest->rig.fd);
}

static void order_read(struct guest *guest, uint64_t unit, uint64_t count)
{
	mapper_order(&guest->mapper, ORDER_READ, unit, count, 0);
}

static uint64_t sum(struct guest *guest, uint64_t unit, uint64_t count)
{
	return mapper_do(&guest->mapper, ORDER_READ, unit, count, 0);
}

static bool answered(struct guest *guest, int ms)
{
	struct pollfd pfd = {.fd = guest->mapper.child.from, .events = POLLIN};

	return poll(&pfd, 1, ms) == 1;
}

/* The process waits for @unit, and sees what is sent, nothing older. */
static void touch_and_serve(struct guest *guest, uint64_t unit)
{
	order_read(guest, unit, 1);
	cr_assert_eq(await_request(&guest->rig), unit);
	cr_assert(!answered(guest, 1), "unit %lu: %lu was seen", unit,
		  mapper_answer(&guest->mapper));
	install(&guest->rig, unit, 1, true);
	cr_assert_eq(mapper_answer(&guest->mapper), NEW + unit);
}

/* ---- before the switch ---- */

Test(pager, new_memory_is_had_by_copying_and_old_memory_is_written_in_place)
{
	struct guest guest;
	void *at = NULL;

	start(&guest, UNITS, 4);
	cr_assert_eq(gw_pager_place(guest.rig.pager, 0, 0, 4, &at), GW_PLACE_HERE);
	cr_assert_eq(at, guest.rig.memory.regions[0].base);
	/* One hole among them is enough. */
	cr_assert_eq(gw_pager_place(guest.rig.pager, 0, 2, 4, &at), GW_PLACE_LATER);
	install(&guest.rig, 2, 4, false);
	cr_assert_eq(backed(&guest.rig), 6);
	cr_assert_eq(gw_pager_place(guest.rig.pager, 0, 0, 6, &at), GW_PLACE_HERE);
	cr_assert_eq(sum(&guest, 0, 2), sum_of(0, 2, OLD));
	cr_assert_eq(sum(&guest, 2, 4), sum_of(2, 4, NEW));
	/* The guest's process may touch what has not come yet. */
	cr_assert_eq(sum(&guest, 6, 2), 0);
	install(&guest.rig, 6, 2, false);
	cr_assert_eq(sum(&guest, 6, 2), sum_of(6, 2, NEW));
	assert_no_request(&guest.rig);
	finish(&guest);
}

/* ---- dropping ---- */

Test(pager, what_is_dropped_is_not_seen_and_its_memory_is_used_again)
{
	uint64_t step = LARGE_UNITS / 64;
	struct guest guest;

	start(&guest, LARGE_UNITS, LARGE_UNITS);
	drop(&guest.rig, 0, LARGE_UNITS);
	cr_assert_eq(gw_pager_missing(guest.rig.pager), LARGE_UNITS);
	arm(&guest.rig);
	/* Down to whole extents of the process's addresses. */
	cr_assert_geq(backed(&guest.rig), LARGE_UNITS - GW_EXTENT_UNITS);
	touch_and_serve(&guest, 0);
	touch_and_serve(&guest, LARGE_UNITS - 1);
	for (uint64_t unit = 1; unit < LARGE_UNITS; unit += step)
		touch_and_serve(&guest, unit);
	for (uint64_t unit = 0; unit < LARGE_UNITS; unit += step)
		install(&guest.rig, unit, step, false);
	cr_assert_eq(gw_pager_missing(guest.rig.pager), 0);
	cr_assert_eq(guest.rig.completed, 1);
	cr_assert_eq(sum(&guest, 0, LARGE_UNITS), sum_of(0, LARGE_UNITS, NEW));
	cr_assert_eq(backed(&guest.rig), LARGE_UNITS);
	assert_no_request(&guest.rig);
	finish(&guest);
}

Test(pager, a_short_run_that_is_dropped_is_not_seen_either)
{
	struct guest guest;

	start(&guest, UNITS, UNITS);
	drop(&guest.rig, 10, 5);
	arm(&guest.rig);
	for (uint64_t unit = 10; unit < 15; unit++)
		touch_and_serve(&guest, unit);
	cr_assert_eq(guest.rig.completed, 1);
	cr_assert_eq(backed(&guest.rig), UNITS);
	finish(&guest);
}

/* Scattered among pages that stay: many are forgotten, with the rest; few are punched. */
static void drop_each(uint64_t step)
{
	struct guest guest;

	start(&guest, LARGE_UNITS, LARGE_UNITS);
	for (uint64_t unit = 0; unit < LARGE_UNITS; unit += step)
		drop(&guest.rig, unit, 1);
	arm(&guest.rig);
	for (uint64_t unit = 0; unit < LARGE_UNITS; unit += LARGE_UNITS / 8)
		touch_and_serve(&guest, unit);
	/* What was not dropped is as it was. */
	for (uint64_t unit = 1; unit < LARGE_UNITS; unit += step)
		cr_assert_eq(sum(&guest, unit, step - 1), sum_of(unit, step - 1, OLD));
	for (uint64_t unit = 0; unit < LARGE_UNITS; unit += step)
		install(&guest.rig, unit, 1, false);
	cr_assert_eq(sum(&guest, 0, 1), NEW);
	cr_assert_eq(guest.rig.completed, 1);
	cr_assert_eq(backed(&guest.rig), LARGE_UNITS);
	assert_no_request(&guest.rig);
	finish(&guest);
}

Test(pager, every_other_page_may_be_dropped)
{
	drop_each(2);
}

Test(pager, a_page_here_and_there_may_be_dropped)
{
	drop_each(64);
}

Test(pager, dropped_memory_that_the_process_locked_is_not_seen_either)
{
	struct guest guest;

	start(&guest, LARGE_UNITS, LARGE_UNITS);
	if (!mapper_do(&guest.mapper, ORDER_LOCK, 0, LARGE_UNITS, 0))
		cr_skip_test("may not lock 48 MiB of memory");
	drop(&guest.rig, 0, LARGE_UNITS);
	arm(&guest.rig);
	/* The process cannot forget it, so the file had to. */
	cr_assert_eq(backed(&guest.rig), 0);
	touch_and_serve(&guest, 0);
	touch_and_serve(&guest, LARGE_UNITS / 2);
	touch_and_serve(&guest, LARGE_UNITS - 1);
	install(&guest.rig, 0, LARGE_UNITS, false);
	cr_assert_eq(sum(&guest, 0, LARGE_UNITS), sum_of(0, LARGE_UNITS, NEW));
	cr_assert_eq(guest.rig.completed, 1);
	finish(&guest);
}

Test(pager, what_is_named_later_is_dropped_as_well)
{
	struct guest guest;

	start(&guest, UNITS, UNITS);
	drop(&guest.rig, 0, 8);
	cr_assert_eq(gw_pager_arm(guest.rig.pager, 8, NULL), 0);
	drop(&guest.rig, 4, 8);
	cr_assert_eq(gw_pager_missing(guest.rig.pager), 12);
	arm(&guest.rig);
	for (uint64_t unit = 0; unit < 12; unit++)
		touch_and_serve(&guest, unit);
	cr_assert_eq(guest.rig.completed, 1);
	finish(&guest);
}

Test(pager, pages_that_were_not_dropped_are_had_without_asking_the_source)
{
	struct guest guest;

	start(&guest, UNITS, UNITS / 2);
	drop(&guest.rig, 3, 1);
	drop(&guest.rig, UNITS - 1, 1);
	arm(&guest.rig);
	/* mapped still */
	cr_assert_eq(sum(&guest, 0, 3), sum_of(0, 3, OLD));
	cr_assert_eq(sum(&guest, 4, UNITS / 2 - 4), sum_of(4, UNITS / 2 - 4, OLD));
	/* in the file, no longer mapped */
	mapper_do(&guest.mapper, ORDER_DONTNEED, 4, 12, 0);
	cr_assert_eq(sum(&guest, 4, 12), sum_of(4, 12, OLD));
	/* holes, to read and to write */
	cr_assert_eq(sum(&guest, UNITS / 2, 8), 0);
	mapper_do(&guest.mapper, ORDER_WRITE, UNITS / 2, 16, 7);
	cr_assert_eq(sum(&guest, UNITS / 2, 20), 16 * 7);
	assert_no_request(&guest.rig);
	cr_assert_eq(gw_pager_missing(guest.rig.pager), 2);
	touch_and_serve(&guest, 3);
	touch_and_serve(&guest, UNITS - 1);
	finish(&guest);
}

Test(pager, a_page_that_came_and_was_unmapped_is_had_again_without_asking)
{
	struct guest guest;

	start(&guest, UNITS, UNITS);
	drop(&guest.rig, 0, UNITS);
	arm(&guest.rig);
	install(&guest.rig, 0, 32, false);
	mapper_do(&guest.mapper, ORDER_WRITE, 0, 1, 7);
	mapper_do(&guest.mapper, ORDER_DONTNEED, 0, 32, 0);
	cr_assert_eq(sum(&guest, 0, 32), 7 + sum_of(1, 31, NEW));
	assert_no_request(&guest.rig);
	touch_and_serve(&guest, 32);
	finish(&guest);
}

Test(pager, a_page_that_is_here_does_not_show_missing_ones_beside_it)
{
	const uint64_t unit = LARGE_UNITS / 2;
	struct guest guest;

	start(&guest, LARGE_UNITS, LARGE_UNITS);
	drop(&guest.rig, 0, LARGE_UNITS);
	arm(&guest.rig);
	install(&guest.rig, unit, 2, false);
	mapper_do(&guest.mapper, ORDER_DONTNEED, unit, 2, 0);
	cr_assert_eq(sum(&guest, unit, 2), sum_of(unit, 2, NEW));
	/* The file has old contents for these. */
	touch_and_serve(&guest, unit + 2);
	touch_and_serve(&guest, unit - 1);
	finish(&guest);
}

Test(pager, a_page_is_asked_for_once)
{
	struct guest guest;

	start(&guest, UNITS, UNITS);
	drop(&guest.rig, 0, UNITS);
	arm(&guest.rig);
	order_read(&guest, 5, 1);
	cr_assert_eq(await_request(&guest.rig), 5);
	/* Bulk is faster; the answer that comes then changes nothing. */
	install(&guest.rig, 0, 8, false);
	cr_assert_eq(mapper_answer(&guest.mapper), NEW + 5);
	mapper_do(&guest.mapper, ORDER_WRITE, 5, 1, 7);
	install(&guest.rig, 5, 1, true);
	zero(&guest.rig, 5, 1, true);
	install(&guest.rig, 0, UNITS, false);
	cr_assert_eq(sum(&guest, 5, 1), 7);
	assert_no_request(&guest.rig);
	cr_assert_eq(guest.rig.completed, 1);
	finish(&guest);
}

Test(pager, all_words_of_a_page_are_those_that_were_sent)
{
	struct guest guest;
	uint64_t page[WORDS];

	start(&guest, UNITS, UNITS);
	drop(&guest.rig, 0, UNITS);
	arm(&guest.rig);
	install(&guest.rig, 3, 20, false);
	install(&guest.rig, 0, UNITS, false);
	for (uint64_t unit = 0; unit < UNITS; unit++) {
		cr_assert_eq(pread(guest.rig.fd, page, sizeof(page), unit * GW_UNIT_SIZE),
			     sizeof(page));
		for (uint64_t i = 0; i < WORDS; i++)
			cr_assert_eq(page[i], NEW + unit);
	}
	finish(&guest);
}

/* ---- zero pages ---- */

Test(pager, zeroes_over_old_contents_read_as_zero)
{
	struct guest guest;

	start(&guest, LARGE_UNITS, LARGE_UNITS);
	drop(&guest.rig, 0, LARGE_UNITS);
	arm(&guest.rig);
	/* The middle was kept in the file, so something has to be cleared. */
	zero(&guest.rig, 0, LARGE_UNITS, false);
	cr_assert_eq(guest.rig.completed, 1);
	cr_assert_eq(sum(&guest, 0, LARGE_UNITS), 0);
	assert_no_request(&guest.rig);
	finish(&guest);
}

Test(pager, zeroes_over_old_contents_reach_a_thread_that_waits)
{
	const uint64_t unit = LARGE_UNITS / 2;
	struct guest guest;

	start(&guest, LARGE_UNITS, LARGE_UNITS);
	drop(&guest.rig, 0, LARGE_UNITS);
	arm(&guest.rig);
	order_read(&guest, unit, 1);
	cr_assert_eq(await_request(&guest.rig), unit);
	zero(&guest.rig, unit - 64, 128, false);
	cr_assert_eq(mapper_answer(&guest.mapper), 0);
	/* The answer, then: nothing changes. */
	mapper_do(&guest.mapper, ORDER_WRITE, unit, 1, 7);
	zero(&guest.rig, unit, 1, true);
	cr_assert_eq(sum(&guest, unit - 64, 128), 7);
	finish(&guest);
}

Test(pager, zeroes_for_holes_cost_no_memory_and_read_as_zero)
{
	struct guest guest;

	start(&guest, UNITS, 0);
	drop(&guest.rig, 0, UNITS);
	arm(&guest.rig);
	zero(&guest.rig, 0, UNITS, false);
	cr_assert_eq(backed(&guest.rig), 0);
	cr_assert_eq(guest.rig.completed, 1);
	cr_assert_eq(sum(&guest, 0, UNITS), 0);
	mapper_do(&guest.mapper, ORDER_WRITE, 0, UNITS, 7);
	cr_assert_eq(sum(&guest, 0, UNITS), 7 * UNITS);
	assert_no_request(&guest.rig);
	finish(&guest);
}

Test(pager, an_urgent_zero_reaches_the_thread_that_waits)
{
	struct guest guest;

	start(&guest, UNITS, UNITS / 2);
	drop(&guest.rig, 0, UNITS);
	arm(&guest.rig);
	for (uint64_t unit = 5; unit < UNITS; unit += UNITS / 2) {
		order_read(&guest, unit, 1);
		cr_assert_eq(await_request(&guest.rig), unit);
		zero(&guest.rig, unit, 1, true);
		cr_assert_eq(mapper_answer(&guest.mapper), 0);
	}
	cr_assert_eq(gw_pager_missing(guest.rig.pager), UNITS - 2);
	finish(&guest);
}

/*
 * Who asks may do so just after the zeroes came, and then waits for the answer
 * alone. Without a fault thread nobody else can help.
 */
Test(pager, an_answer_that_nothing_was_missing_for_wakes_all_the_same)
{
	struct guest guest;

	start(&guest, UNITS, 0);
	drop(&guest.rig, 0, UNITS);
	cr_assert_eq(gw_pager_arm(guest.rig.pager, UNITS, NULL), 0);
	for (uint64_t unit = 0; unit < 2; unit++) {
		order_read(&guest, unit, 1);
		cr_assert(!answered(&guest, 20));
		zero(&guest.rig, unit, 1, false);
		cr_assert(!answered(&guest, 20));
		if (unit)
			zero(&guest.rig, unit, 1, true);
		else
			install(&guest.rig, unit, 1, true);
		cr_assert(answered(&guest, 5000), "it waits for ever");
		cr_assert_eq(mapper_answer(&guest.mapper), 0);
	}
	finish(&guest);
}

Test(pager, zeroes_and_data_may_take_turns_over_holes_and_old_contents)
{
	struct guest guest;

	start(&guest, UNITS, UNITS / 2);
	drop(&guest.rig, 0, UNITS);
	arm(&guest.rig);
	for (uint64_t unit = 0; unit < UNITS; unit += 8) {
		zero(&guest.rig, unit, 4, false);
		install(&guest.rig, unit + 4, 4, false);
	}
	cr_assert_eq(guest.rig.completed, 1);
	for (uint64_t unit = 0; unit < UNITS; unit += 8) {
		cr_assert_eq(sum(&guest, unit, 4), 0);
		cr_assert_eq(sum(&guest, unit + 4, 4), sum_of(unit + 4, 4, NEW));
	}
	assert_no_request(&guest.rig);
	finish(&guest);
}

/* ---- our own process as the guest's, with several threads ---- */

/* A mapping of @rig->fd, where all that has memory is mapped. */
static char *own_mapping(int fd, uint64_t size)
{
	char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	cr_assert_neq(base, MAP_FAILED);
	return base;
}

static void start_own(struct rig *rig, char **ret_base, uint64_t page_size)
{
	uint64_t size = LARGE_SIZE;
	int fd = memory_file(size);

	*ret_base = own_mapping(fd, size);
	rig_open(rig, fd, size, (uint64_t)(uintptr_t)*ret_base, getpid(), page_size);
}

static void finish_own(struct rig *rig, char *base)
{
	rig_close(rig);
	munmap(base, LARGE_SIZE);
	close(rig->fd);
}

static void *read_word(void *word)
{
	return (void *)(uintptr_t) * (volatile uint64_t *)word;
}

/* What the thread read, within five seconds. */
static uint64_t await_word(pthread_t thread)
{
	struct timespec until;
	void *word;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 5;
	cr_assert_eq(pthread_timedjoin_np(thread, &word, &until), 0, "it waits for ever");
	return (uintptr_t)word;
}

Test(pager, zeroes_for_holes_reach_all_threads_that_wait)
{
	pthread_t threads[4];
	uint64_t asked = 0;
	struct rig rig;
	char *base;

	start_own(&rig, &base, GW_UNIT_SIZE);
	drop(&rig, 0, LARGE_UNITS);
	arm(&rig);
	for (unsigned int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, read_word,
			       base + (5 + i) * GW_UNIT_SIZE);
	for (unsigned int i = 0; i < 4; i++)
		asked |= 1ULL << await_request(&rig);
	cr_assert_eq(asked, 15ULL << 5);
	zero(&rig, 0, LARGE_UNITS, false);
	for (unsigned int i = 0; i < 4; i++)
		cr_assert_eq(await_word(threads[i]), 0);
	cr_assert_eq(backed(&rig), 4);
	finish_own(&rig, base);
}

Test(pager, all_threads_that_wait_for_one_page_are_woken_by_it)
{
	pthread_t threads[4];
	struct rig rig;
	char *base;

	start_own(&rig, &base, GW_UNIT_SIZE);
	drop(&rig, 0, LARGE_UNITS);
	arm(&rig);
	for (unsigned int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, read_word,
			       base + 5 * GW_UNIT_SIZE + 8 * i);
	cr_assert_eq(await_request(&rig), 5);
	install(&rig, 5, 1, true);
	for (unsigned int i = 0; i < 4; i++)
		cr_assert_eq(await_word(threads[i]), NEW + 5);
	assert_no_request(&rig);
	finish_own(&rig, base);
}

/* ---- one page from several channels ---- */

#define RACE_UNITS  1024UL
#define RACE_SIZE   (RACE_UNITS * GW_UNIT_SIZE)
#define RACE_GUESTS 3
/* Requests answered between an answer and its repetition. */
#define RACE_LATE 8

enum race_kind {
	RACE_KEPT, /* not missing: the guest's from before */
	RACE_DATA,
	RACE_ZERO,
};

struct race {
	struct rig rig;
	char *base; /* the guest's mapping */
	pthread_barrier_t begin;
	uint64_t *data;	       /* what the source has */
	unsigned int wrong;    /* atomic; words that were not as they had to be */
	unsigned int unasked;  /* requests for what was never missing; the asker's */
	unsigned int requests; /* the asker's */
	unsigned int refused;  /* atomic; installs that failed */
	pthread_t senders[2], asker, guests[RACE_GUESTS];
};

static enum race_kind race_kind(uint64_t unit)
{
	if (unit / 32 % 8 == 7)
		return RACE_KEPT;
	return unit / 8 % 3 == 2 ? RACE_ZERO : RACE_DATA;
}

/* Whether the file has memory, with old contents, from before. */
static bool race_backed(uint64_t unit)
{
	return unit / 16 % 2;
}

static uint64_t race_word(uint64_t unit)
{
	switch (race_kind(unit)) {
	case RACE_DATA:
		return NEW + unit;
	case RACE_KEPT:
		return race_backed(unit) ? OLD + unit : 0;
	default:
		return 0;
	}
}

/* Each guest thread writes a word of its own into every page, in another cache line. */
static unsigned int race_place(unsigned int guest)
{
	return 8 + guest * 200;
}

static uint64_t race_mark(uint64_t unit, unsigned int guest)
{
	return 9000000 + guest * 1000000 + unit;
}

static void race_send(struct race *race, uint64_t unit, uint64_t count, bool urgent)
{
	int r = race_kind(unit) == RACE_ZERO
			? gw_pager_zero(race->rig.pager, 0, unit, count, urgent)
			: gw_pager_install(race->rig.pager, 0, unit, count,
					   race->data + unit * WORDS, urgent);

	if (r)
		__atomic_fetch_add(&race->refused, 1, __ATOMIC_RELAXED);
}

/* Missing units of one kind from @unit on, @max at most; 0: it is not missing. */
static uint64_t race_run(uint64_t unit, uint64_t max)
{
	enum race_kind kind = race_kind(unit);
	uint64_t n = 0;

	while (kind != RACE_KEPT && n < max && unit + n < RACE_UNITS &&
	       race_kind(unit + n) == kind)
		n++;
	return n;
}

/* All that is missing in order, also what the asker has answered. */
static void *race_send_forward(void *opaque)
{
	struct race *race = opaque;
	uint64_t n;

	pthread_barrier_wait(&race->begin);
	for (uint64_t unit = 0; unit < RACE_UNITS; unit += GW_MAX(n, 1)) {
		n = race_run(unit, 64);
		if (n)
			race_send(race, unit, n, false);
		usleep(20);
	}
	return NULL;
}

/* And by another channel in small pieces from the end, so that most comes twice. */
static void *race_send_backward(void *opaque)
{
	struct race *race = opaque;

	pthread_barrier_wait(&race->begin);
	for (uint64_t end = RACE_UNITS; end;) {
		uint64_t unit = end > 5 ? end - 5 : 0, n;

		for (uint64_t at = unit; at < end; at += GW_MAX(n, 1)) {
			n = race_run(at, end - at);
			if (n)
				race_send(race, at, n, false);
		}
		end = unit;
		sched_yield();
	}
	return NULL;
}

/* The urgent lane: answers what is asked for, and some time later again. */
static void *race_answer(void *opaque)
{
	struct race *race = opaque;
	uint64_t answered[RACE_LATE] = {0};
	uint8_t buf[GW_REQUEST_LEN];
	struct gw_request request;

	while (!gw_chan_recv(race->rig.source, buf, sizeof(buf)) &&
	       !gw_request_decode(buf, &request)) {
		uint64_t *slot = &answered[race->requests++ % RACE_LATE];

		if (race_kind(request.unit) == RACE_KEPT) {
			race->unasked++;
			continue;
		}
		race_send(race, request.unit, 1, true);
		if (race->requests > RACE_LATE)
			race_send(race, *slot, 1, true);
		*slot = request.unit;
	}
	return NULL;
}

static void race_check(struct race *race, uint64_t got, uint64_t wanted)
{
	if (got != wanted)
		__atomic_fetch_add(&race->wrong, 1, __ATOMIC_RELAXED);
}

struct race_guest {
	struct race *race;
	unsigned int number;
};

/* Reads and writes every page as soon as it can, in an order of its own. */
static void *race_touch(void *opaque)
{
	static const uint64_t strides[RACE_GUESTS] = {1, 389, 613};
	const struct race_guest *guest = opaque;
	struct race *race = guest->race;
	unsigned int place = race_place(guest->number);

	pthread_barrier_wait(&race->begin);
	for (uint64_t i = 0; i < RACE_UNITS; i++) {
		uint64_t unit = (100 + i) * strides[guest->number] % RACE_UNITS;
		volatile uint64_t *page =
			(volatile uint64_t *)(race->base + unit * GW_UNIT_SIZE);

		if (guest->number)
			race_check(race, page[WORDS - 1], race_word(unit));
		page[place] = race_mark(unit, guest->number);
		race_check(race, page[0], race_word(unit));
		race_check(race, page[WORDS - 1], race_word(unit));
		race_check(race, page[place], race_mark(unit, guest->number));
	}
	return NULL;
}

/* Old contents here, holes there, all of it mapped by the guest. */
static void race_prepare(struct race *race, int fd, char *base)
{
	GW_AUTO_FREE uint64_t *old = pages(0, RACE_UNITS, OLD);
	volatile char *at;

	cr_assert_eq(
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, RACE_SIZE),
		0);
	for (uint64_t unit = 0; unit < RACE_UNITS; unit++) {
		if (!race_backed(unit))
			continue;
		memcpy(base + unit * GW_UNIT_SIZE, old + unit * WORDS, GW_UNIT_SIZE);
		at = base + unit * GW_UNIT_SIZE;
		(void)*at;
	}
	rig_open(&race->rig, fd, RACE_SIZE, (uint64_t)(uintptr_t)base, getpid(),
		 GW_UNIT_SIZE);
	race->base = base;
	for (uint64_t unit = 0, n; unit < RACE_UNITS; unit += GW_MAX(n, 1)) {
		n = race_run(unit, RACE_UNITS);
		if (n)
			drop(&race->rig, unit, n);
	}
	arm(&race->rig);
}

static void race_run_all(struct race *race)
{
	struct race_guest guests[RACE_GUESTS];

	pthread_barrier_init(&race->begin, NULL, 2 + RACE_GUESTS);
	pthread_create(&race->asker, NULL, race_answer, race);
	pthread_create(&race->senders[0], NULL, race_send_forward, race);
	pthread_create(&race->senders[1], NULL, race_send_backward, race);
	for (unsigned int i = 0; i < RACE_GUESTS; i++) {
		guests[i] = (struct race_guest){race, i};
		pthread_create(&race->guests[i], NULL, race_touch, &guests[i]);
	}
	for (unsigned int i = 0; i < RACE_GUESTS; i++)
		pthread_join(race->guests[i], NULL);
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(race->senders[i], NULL);
	/* A request may be under way still; the channel has room for all there are. */
	gw_pager_stop(race->rig.pager);
	gw_chan_shutdown(race->rig.urgent);
	pthread_join(race->asker, NULL);
	pthread_barrier_destroy(&race->begin);
}

/* Everything that came, and on top of it everything the guest wrote. */
static void race_check_memory(struct race *race)
{
	for (uint64_t unit = 0; unit < RACE_UNITS; unit++) {
		const uint64_t *page = (const uint64_t *)gw_memory_at(
			&race->rig.memory.regions[0], unit);

		for (unsigned int i = 0; i < WORDS; i++) {
			uint64_t wanted = race_word(unit);

			for (unsigned int guest = 0; guest < RACE_GUESTS; guest++)
				if (i == race_place(guest))
					wanted = race_mark(unit, guest);
			cr_assert_eq(page[i], wanted, "unit %lu word %u: %lu, not %lu",
				     unit, i, page[i], wanted);
		}
	}
}

static unsigned int race_once(int fd, char *base, uint64_t *data)
{
	struct race race = {.data = data};

	race_prepare(&race, fd, base);
	race_run_all(&race);
	cr_assert_eq(race.refused, 0);
	cr_assert_eq(race.wrong, 0);
	cr_assert_eq(race.unasked, 0);
	cr_assert_eq(gw_pager_missing(race.rig.pager), 0);
	cr_assert_eq(race.rig.completed, 1);
	race_check_memory(&race);
	rig_close(&race.rig);
	return race.requests;
}

Test(pager, a_page_comes_once_however_often_it_is_sent_and_keeps_what_the_guest_writes)
{
	uint64_t *data = pages(0, RACE_UNITS, NEW), end = gw_now() + 2 * GW_NSEC;
	int fd = memory_file(RACE_SIZE);
	char *base = own_mapping(fd, RACE_SIZE);
	unsigned int requests = 0;

	do
		requests += race_once(fd, base, data);
	while (gw_now() < end);
	/* Else this has not tried what it is for. */
	cr_assert_gt(requests, 0);
	free(data);
	munmap(base, RACE_SIZE);
	close(fd);
}

/* ---- what others do to the memory meanwhile ---- */

struct discarder {
	int fd;
	uint64_t unit; /* atomic: where the next run lands; UINT64_MAX: the end */
};

/* What a VMM does for a balloon: all the time, just where pages come in. */
static void *discard(void *opaque)
{
	struct discarder *discarder = opaque;
	uint64_t unit;

	while ((unit = __atomic_load_n(&discarder->unit, __ATOMIC_RELAXED)) != UINT64_MAX)
		(void)fallocate(discarder->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)(unit * GW_UNIT_SIZE), 64 * GW_UNIT_SIZE);
	return NULL;
}

Test(pager, memory_may_be_discarded_while_pages_land_in_it)
{
	GW_AUTO_FREE uint64_t *data = pages(0, 64, NEW);
	struct discarder discarder = {0};
	pthread_t thread;
	struct rig rig;
	char *base;

	start_own(&rig, &base, GW_UNIT_SIZE);
	drop(&rig, 0, LARGE_UNITS);
	arm(&rig);
	discarder.fd = rig.fd;
	pthread_create(&thread, NULL, discard, &discarder);
	for (uint64_t unit = 0; unit < LARGE_UNITS; unit += 64) {
		__atomic_store_n(&discarder.unit, unit, __ATOMIC_RELAXED);
		cr_expect_eq(gw_pager_install(rig.pager, 0, unit, 64, data, false), 0,
			     "unit %lu", unit);
	}
	__atomic_store_n(&discarder.unit, UINT64_MAX, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	cr_assert_eq(rig.completed, 1);
	/* Nobody waits, whatever became of it. */
	for (uint64_t unit = 0; unit < LARGE_UNITS; unit++)
		(void)*(volatile char *)(base + unit * GW_UNIT_SIZE);
	assert_no_request(&rig);
	finish_own(&rig, base);
}

Test(pager, memory_that_is_given_or_taken_behind_our_back_is_seen_as_it_is)
{
	struct guest guest;
	uint64_t word = 7;

	start(&guest, UNITS, UNITS / 2);
	drop(&guest.rig, 0, 1);
	arm(&guest.rig);
	cr_assert_eq(pwrite(guest.rig.fd, &word, 8, (UNITS - 1) * GW_UNIT_SIZE), 8);
	cr_assert_eq(sum(&guest, UNITS - 1, 1), 7);
	cr_assert_eq(fallocate(guest.rig.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       4 * GW_UNIT_SIZE, GW_UNIT_SIZE),
		     0);
	cr_assert_eq(sum(&guest, 4, 1), 0);
	cr_assert_eq(sum(&guest, 5, 1), OLD + 5);
	assert_no_request(&guest.rig);
	finish(&guest);
}

/* ---- without a server ---- */

Test(pager, what_is_here_needs_nobody_to_serve_it_when_the_source_is_lost)
{
	const uint64_t half = LARGE_UNITS / 2;
	struct guest guest;

	start(&guest, LARGE_UNITS, half);
	/* All but every fourth page of the first half, and one far behind. */
	for (uint64_t unit = 0; unit < half; unit += 4)
		drop(&guest.rig, unit, 3);
	drop(&guest.rig, LARGE_UNITS - 1, 1);
	arm(&guest.rig);
	install(&guest.rig, 0, 3, false);
	gw_chan_shutdown(guest.rig.urgent);
	gw_pager_stop(guest.rig.pager);
	gw_pager_open(guest.rig.pager);
	cr_assert_eq(sum(&guest, 0, 3), sum_of(0, 3, NEW));
	for (uint64_t unit = 3; unit < half; unit += 4)
		cr_assert_eq(sum(&guest, unit, 1), OLD + unit);
	/* Holes: beside a page that is missing, and where none is. */
	cr_assert_eq(sum(&guest, LARGE_UNITS - 100, 99), 0);
	cr_assert_eq(sum(&guest, half, 100), 0);
	/* And what is missing is not to be had. */
	order_read(&guest, 4, 1);
	cr_assert(!answered(&guest, 50));
	rig_close(&guest.rig);
	(void)mapper_answer(&guest.mapper);
	mapper_end(&guest.mapper);
	close(guest.rig.fd);
}

/* ---- what a source may not send ---- */

Test(pager, the_urgent_channel_installs_nothing_before_the_switch)
{
	GW_AUTO_FREE uint64_t *data = pages(0, 1, NEW);
	struct rig rig;
	char *base;

	start_own(&rig, &base, GW_UNIT_SIZE);
	cr_assert_eq(gw_pager_install(rig.pager, 0, 0, 1, data, true), -EPROTO);
	finish_own(&rig, base);
}

Test(pager, part_of_a_huge_page_is_refused)
{
	static const struct {
		uint64_t unit, count;
	} parts[] = {{0, 1}, {5, GW_EXTENT_UNITS}, {5, 1}, {LARGE_UNITS - 1, 1}};
	/* The pager takes our word for the size of pages. */
	const uint64_t huge = GW_EXTENT_SIZE;
	GW_AUTO_FREE uint64_t *data = pages(0, 2 * GW_EXTENT_UNITS, NEW);
	struct gw_err err = {};
	struct rig rig;
	char *base;

	start_own(&rig, &base, huge);
	for (size_t i = 0; i < GW_ARRAY_SIZE(parts); i++)
		cr_assert_eq(
			gw_pager_drop(rig.pager, 0, parts[i].unit, parts[i].count, &err),
			-EPROTO);
	drop(&rig, 0, LARGE_UNITS);
	arm(&rig);
	for (size_t i = 0; i < GW_ARRAY_SIZE(parts); i++)
		for (int urgent = 0; urgent < 2; urgent++) {
			cr_expect_eq(gw_pager_install(rig.pager, 0, parts[i].unit,
						      parts[i].count, data, urgent),
				     -EPROTO, "part %zu", i);
			cr_expect_eq(gw_pager_zero(rig.pager, 0, parts[i].unit,
						   parts[i].count, urgent),
				     -EPROTO, "part %zu", i);
		}
	cr_assert_eq(gw_pager_missing(rig.pager), LARGE_UNITS);
	cr_assert_eq(backed(&rig), 0);
	finish_own(&rig, base);
}

Test(pager, a_huge_page_is_asked_for_and_comes_as_a_whole)
{
	pthread_t thread;
	struct rig rig;
	char *base;

	start_own(&rig, &base, GW_EXTENT_SIZE);
	drop(&rig, 0, LARGE_UNITS);
	arm(&rig);
	pthread_create(&thread, NULL, read_word, base + 700 * GW_UNIT_SIZE);
	cr_assert_eq(await_request(&rig), GW_EXTENT_UNITS);
	install(&rig, GW_EXTENT_UNITS, GW_EXTENT_UNITS, true);
	cr_assert_eq(await_word(thread), NEW + 700);
	cr_assert_eq(gw_pager_missing(rig.pager), LARGE_UNITS - GW_EXTENT_UNITS);
	install(&rig, 0, 2 * GW_EXTENT_UNITS, false);
	cr_assert_eq(gw_pager_missing(rig.pager), LARGE_UNITS - 2 * GW_EXTENT_UNITS);
	cr_assert_eq(*(uint64_t *)base, NEW);
	assert_no_request(&rig);
	finish_own(&rig, base);
}
