/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that is a plain process: it maps files shared and lives off them.
 *
 *     process-guest [-s] [-w RATE] [-p PERCENT] [-S SEED] [-c OTHER]... [-d TIME]
 *                   FILE...
 *
 *     -s          stop (SIGSTOP) before doing anything but mapping the files
 *     -w RATE     rewrite pages at RATE bytes a second, "max" for no limit
 *     -p PERCENT  only this share of the pages, spread over all of memory (100)
 *     -S SEED     of contents and order
 *     -c OTHER    once, in random order, compare every page with that of a file
 *                 which this process reads and never maps; one for each FILE
 *     -d TIME     microseconds of rest after each page compared
 *
 * It prints "ready" when all is mapped, and after a comparison "compared N pages,
 * M differ". Without -w and -c it sleeps. It never ends by itself.
 *
 * A source writes (-w), a destination waits and then compares (-s -c): it takes a
 * fault for each page that is missing, in an order that no prefetching expects,
 * and sees whether a single wrong byte is served.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE	  4096
#define WORDS	  (PAGE / 8)
#define FILES_MAX 8
#define READERS	  2
#define NS_PER_S  1000000000ULL
#define RATE_MAX  UINT64_MAX
#define SLICE_NS  (5 * 1000000ULL)

static struct {
	bool stop_first;
	uint64_t rate;
	uint64_t percent;
	uint64_t seed;
	unsigned int rest_us;
	const char *others[FILES_MAX];
	int n_others;
} options = {.percent = 100, .seed = 1};

static struct file {
	uint8_t *at;
	uint64_t pages;
	int other; /* descriptor of what it is compared with */
} files[FILES_MAX];
static int n_files;
static uint64_t n_pages;
static uint32_t *order; /* every page once, shuffled */

__attribute__((noreturn)) static void fail(const char *what)
{
	fprintf(stderr, "process-guest: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* The file that a page of the whole lies in; *page becomes the one in the file. */
static const struct file *locate(uint64_t *page)
{
	const struct file *f = files;

	while (*page >= f->pages)
		*page -= f++->pages;
	return f;
}

/* ---- writing ---- */

static void rewrite(uint64_t page, uint64_t sequence)
{
	uint64_t x = mix(options.seed ^ mix(page ^ sequence << 32)) | 1;
	const struct file *f = locate(&page);
	uint64_t *words = (uint64_t *)(f->at + page * PAGE);

	for (size_t i = 0; i < WORDS; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		words[i] = x;
	}
}

__attribute__((noreturn)) static void write_forever(void)
{
	uint64_t per_slice = options.rate / (NS_PER_S / SLICE_NS) / PAGE;
	uint64_t left, next = now_ns() + SLICE_NS, x = options.seed;

	if (per_slice == 0)
		per_slice = 1;
	left = per_slice;
	for (uint64_t sequence = 1;;) {
		uint64_t page;

		x = mix(x);
		page = x % n_pages;
		if (mix(page ^ ~options.seed) % 100 >= options.percent)
			continue;
		rewrite(page, sequence++);
		if (options.rate == RATE_MAX || left-- > 1)
			continue;
		/* a slice that was missed is not made up for */
		while (now_ns() < next)
			usleep(200);
		next = now_ns() + SLICE_NS;
		left = per_slice;
	}
}

/* ---- comparing ---- */

static uint64_t differ;

static bool page_equal(uint64_t page)
{
	const struct file *f = locate(&page);
	uint8_t buf[PAGE];

	if (pread(f->other, buf, PAGE, (off_t)(page * PAGE)) != PAGE)
		fail("reading what is compared with");
	return memcmp(f->at + page * PAGE, buf, PAGE) == 0;
}

static void *compare_share(void *arg)
{
	for (uint64_t i = (uintptr_t)arg; i < n_pages; i += READERS) {
		if (!page_equal(order[i]))
			__atomic_fetch_add(&differ, 1, __ATOMIC_RELAXED);
		if (options.rest_us)
			usleep(options.rest_us);
	}
	return NULL;
}

static void compare_all(void)
{
	pthread_t readers[READERS];

	for (uintptr_t i = 0; i < READERS; i++)
		if (pthread_create(&readers[i], NULL, compare_share, (void *)i))
			fail("pthread_create");
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	printf("compared %llu pages, %llu differ\n", (unsigned long long)n_pages,
	       (unsigned long long)differ);
}

static void shuffle(void)
{
	uint64_t x = options.seed;

	order = malloc(n_pages * sizeof(*order));
	if (!order)
		fail("memory");
	for (uint64_t i = 0; i < n_pages; i++) {
		uint64_t j;

		x = mix(x);
		j = x % (i + 1);
		order[i] = order[j];
		order[j] = (uint32_t)i;
	}
}

/* ---- start ---- */

static void map_file(const char *path, const char *other)
{
	struct file *f = &files[n_files++];
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		fail(path);
	f->at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (f->at == MAP_FAILED)
		fail(path);
	close(fd);
	f->pages = (uint64_t)st.st_size / PAGE;
	f->other = other ? open(other, O_RDONLY | O_CLOEXEC) : -1;
	if (other && f->other < 0)
		fail(other);
	n_pages += f->pages;
}

static uint64_t parse_rate(const char *text)
{
	char *end;
	uint64_t value;

	if (strcmp(text, "max") == 0)
		return RATE_MAX;
	value = strtoull(text, &end, 10);
	return *end == 'G' ? value << 30 : *end == 'M' ? value << 20 : value;
}

static void parse_options(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "sw:p:S:c:d:")) != -1) {
		if (c == 's')
			options.stop_first = true;
		else if (c == 'w')
			options.rate = parse_rate(optarg);
		else if (c == 'p')
			options.percent = strtoull(optarg, NULL, 10);
		else if (c == 'S')
			options.seed = strtoull(optarg, NULL, 10);
		else if (c == 'd')
			options.rest_us = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'c' && options.n_others < FILES_MAX)
			options.others[options.n_others++] = optarg;
		else
			exit(2);
	}
	if (optind == argc || argc - optind > FILES_MAX)
		exit(2);
}

int main(int argc, char **argv)
{
	setlinebuf(stdout);
	parse_options(argc, argv);
	for (int i = optind; i < argc; i++)
		map_file(argv[i], options.others[i - optind]);
	if (options.n_others)
		shuffle();
	printf("ready\n");
	if (options.stop_first)
		raise(SIGSTOP);
	if (options.n_others)
		compare_all();
	if (options.rate)
		write_forever();
	for (;;)
		pause();
}
