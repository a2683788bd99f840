/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The benchmark's guest: sleeps, or touches pages in random order for ever and
 * notes how long each touch took. No library, no interrupts, no devices.
 *
 * Only plain integer instructions: where KVM is software, others end the guest.
 */
#include <stdbool.h>
#include <stdint.h>

#include "bench/guest/layout.h"

#define GIB_TABLES  4
#define ENTRIES	    512
#define LARGE_SHIFT 21
#define PAGE_SHIFT  12
#define PRESENT	    0x01
#define WRITABLE    0x02
#define LARGE	    0x80
#define MULTIPLIER  1664525 /* 1 more than a multiple of 4, as a full period wants */
#define INCREMENT   1013904223

void guest_main(void);
void guest_sleep(void) __attribute__((noreturn));
void guest_paging(const void *table);

static uint64_t root[GIB_TABLES] __attribute__((aligned(GUEST_PAGE)));
static uint64_t tables[GIB_TABLES][ENTRIES] __attribute__((aligned(GUEST_PAGE)));

static volatile uint32_t *word(uint32_t address)
{
	return (volatile uint32_t *)address;
}

static volatile uint64_t *wide(uint32_t address)
{
	return (volatile uint64_t *)address;
}

static uint32_t control(uint32_t at)
{
	return *word(GUEST_CONTROL + at);
}

static uint64_t ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* Addresses become offsets into the RAM file: what lies at 4 GiB follows 3 GiB. */
static void map_memory(void)
{
	for (uint32_t i = 0; i < GIB_TABLES * ENTRIES; i++) {
		uint64_t at = (uint64_t)i << LARGE_SHIFT;

		if (at >= GUEST_SPLIT)
			at += (1ULL << 32) - GUEST_SPLIT;
		tables[i / ENTRIES][i % ENTRIES] = at | PRESENT | WRITABLE | LARGE;
	}
	for (uint32_t i = 0; i < GIB_TABLES; i++)
		root[i] = (uint64_t)(uint32_t)tables[i] | PRESENT;
	guest_paging(root);
}

static uint32_t bucket_of(uint64_t value)
{
	uint32_t exponent, high = value >> 32, index;

	if (value < BUCKET_STEPS)
		return value;
	exponent = high ? 63 - __builtin_clz(high) : 31 - __builtin_clz((uint32_t)value);
	index = (exponent - 4) * BUCKET_STEPS +
		((uint32_t)(value >> (exponent - 5)) & (BUCKET_STEPS - 1));
	return index < BUCKET_COUNT ? index : BUCKET_COUNT - 1;
}

static void note(uint64_t took, uint64_t now)
{
	wide(GUEST_BUCKETS)[bucket_of(took)]++;
	*wide(GUEST_RESULTS + RESULT_TOUCHES) += 1;
	*wide(GUEST_RESULTS + RESULT_TICKS) = now;
}

/* A run is zero or not as a hash of its place in the image says. */
static bool page_is_zero(uint32_t page)
{
	return ((page % IMAGE_PAGES) >> ZERO_SHIFT) * ZERO_HASH >> 31;
}

static uint64_t expected(uint32_t page)
{
	if (control(CONTROL_ZERO_RULE) && page_is_zero(page))
		return 0;
	return *wide(GUEST_CONTROL + CONTROL_STAMP) + page * STAMP_STEP;
}

static void touch(uint32_t page)
{
	uint32_t address = page << PAGE_SHIFT;
	uint64_t before, after;

	before = ticks();
	if (control(CONTROL_WRITE))
		*word(address + WRITE_AT) = before;
	(void)*word(address);
	after = ticks();
	note(after - before, after);
	if (*wide(address) != expected(page))
		*wide(GUEST_RESULTS + RESULT_WRONG) += 1;
}

/*
 * Every page of the range once in a pass: a linear congruential generator has the
 * full period of its power of two, and numbers beyond the range are left out. Its
 * low bits follow a short pattern, so the high ones are folded onto them.
 */
static void touch_for_ever(void)
{
	uint32_t first = control(CONTROL_FIRST), count = control(CONTROL_COUNT);
	uint32_t skip_from = control(CONTROL_SKIP_FROM),
		 skip_to = control(CONTROL_SKIP_TO);
	uint32_t bits = 1, mask, x = 1, page;

	while (1u << bits < count)
		bits++;
	mask = (1u << bits) - 1;
	for (;;) {
		x = (x * MULTIPLIER + INCREMENT) & mask;
		page = x ^ x >> (bits + 1) / 2;
		if (page >= count)
			continue;
		page += first;
		if (page < skip_from || page >= skip_to)
			touch(page);
	}
}

void guest_main(void)
{
	if (control(CONTROL_MAGIC) != GUEST_MAGIC)
		guest_sleep();
	*word(GUEST_RESULTS + RESULT_MAGIC) = GUEST_MAGIC;
	if (control(CONTROL_BEHAVIOUR) != BEHAVIOUR_TOUCH)
		guest_sleep();
	/* pages of up to 4 GiB: a count has 20 bits */
	if (control(CONTROL_FIRST) + control(CONTROL_COUNT) > GUEST_SPLIT / GUEST_PAGE)
		map_memory();
	touch_for_ever();
}
