/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The workload of the test guest: it writes memory, notices every byte that a
 * migration gets wrong, and counts on the console.
 *
 * A page of the working area holds its number, the sequence number of its last
 * rewrite, and a checksum over pseudo-random contents. The checksum shows a torn
 * or corrupt page. It cannot show a page that a migration delivered whole but
 * out of date, so the sequence number each page must have is also kept in a
 * table of its own: a lost update leaves the two in disagreement.
 *
 * Threads: the ticker prints and is never held up by the others (it takes no
 * lock and has real-time priority); the writer rewrites random pages; the
 * sweeper reads the area from end to end, over and over; the disk reader checks
 * a disk that the harness has filled, if there is one, so that a device writes
 * guest memory too. Writer and sweeper meet in the lock of a page's stripe.
 *
 * Parameters, from the kernel's command line:
 *   gw.area=64M   size of the working area
 *   gw.zero=0     percentage of its pages that are zero and stay so
 *   gw.rate=20M   bytes of pages rewritten per second, 0 for none, or "max"
 *   gw.sweep=20M  bytes read and checked per second, 0 for none, or "max"
 *   gw.tick=10ms  time between two lines on the console
 *   gw.seed=1     seed of the contents and of the order of the rewrites
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE	 4096
#define WORDS	 (PAGE / 8)
#define STRIPES	 64
#define NS_PER_S 1000000000ULL
#define RATE_MAX UINT64_MAX
/* Rates are kept per slice; long enough that a sleep is not most of it. */
#define SLICE_NS (10 * 1000000ULL)

struct page {
	uint64_t number;
	uint64_t sequence;
	uint64_t checksum;
	uint64_t body[WORDS - 3];
};

static struct {
	uint64_t area;
	uint64_t zero_percent;
	uint64_t rate;
	uint64_t sweep;
	uint64_t tick_ns;
	uint64_t seed;
} options = {
	.area = 64 << 20,
	.rate = 20 << 20,
	.sweep = 20 << 20,
	.tick_ns = 10 * 1000000ULL,
	.seed = 1,
};

static struct page *pages;
static uint64_t n_pages;
static uint32_t *sequences; /* what each page must hold; under its stripe */
static pthread_mutex_t stripes[STRIPES];
static atomic_uint_fast64_t errors;
static atomic_flag reported = ATOMIC_FLAG_INIT;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
	struct timespec t = {ns / NS_PER_S, ns % NS_PER_S};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

/* A line is one write, so that lines of two threads never mix. */
static void print_line(const char *line, size_t length)
{
	while (length > 0) {
		ssize_t n = write(STDOUT_FILENO, line, length);

		if (n < 0 && errno != EINTR)
			return;
		if (n > 0) {
			line += n;
			length -= n;
		}
	}
}

__attribute__((noreturn)) static void fail(const char *what)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "gw-fail %s: %m\n", what);

	print_line(line, n);
	for (;;)
		pause();
}

/* splitmix64: good enough bits that neighbouring inputs look unrelated */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static bool is_zero_page(uint64_t number)
{
	return mix(options.seed ^ ~number) % 100 < options.zero_percent;
}

static uint64_t checksum(const struct page *p)
{
	uint64_t sum = p->number * 31 + p->sequence;

	for (size_t i = 0; i < WORDS - 3; i++)
		sum = sum * 31 + p->body[i];
	return sum;
}

static void write_page(uint64_t number, uint32_t sequence)
{
	struct page *p = &pages[number];
	uint64_t x = mix(options.seed ^ mix(number ^ (uint64_t)sequence << 32)) | 1;

	p->number = number;
	p->sequence = sequence;
	/* xorshift: three shifts a word are cheap even under emulation */
	for (size_t i = 0; i < WORDS - 3; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p->body[i] = x;
	}
	p->checksum = checksum(p);
	sequences[number] = sequence;
}

static void report_bad(const char *what, uint64_t number, uint64_t want, uint64_t have)
{
	char line[128];
	int n;

	/* Before it is counted: no tick may show the error before this line says
	 * what it is. */
	if (!atomic_flag_test_and_set(&reported)) {
		n = snprintf(line, sizeof(line), "gw-bad %s=%llu want=%llu have=%llu\n",
			     what, (unsigned long long)number, (unsigned long long)want,
			     (unsigned long long)have);
		print_line(line, n);
	}
	atomic_fetch_add(&errors, 1);
}

static void check_zero_page(uint64_t number)
{
	const uint64_t *word = (const uint64_t *)&pages[number];

	for (size_t i = 0; i < WORDS; i++) {
		if (word[i]) {
			report_bad("zero-page", number, 0, word[i]);
			return;
		}
	}
}

static void check_page(uint64_t number)
{
	const struct page *p = &pages[number];
	uint64_t sum;

	if (p->number != number) {
		report_bad("page", number, number, p->number);
		return;
	}
	if (p->sequence != sequences[number]) {
		report_bad("sequence-of-page", number, sequences[number], p->sequence);
		return;
	}
	sum = checksum(p);
	if (p->checksum != sum)
		report_bad("checksum-of-page", number, p->checksum, sum);
}

static void rewrite(uint64_t number)
{
	pthread_mutex_t *stripe = &stripes[number % STRIPES];

	pthread_mutex_lock(stripe);
	check_page(number);
	write_page(number, sequences[number] + 1);
	pthread_mutex_unlock(stripe);
}

static void check(uint64_t number)
{
	pthread_mutex_t *stripe = &stripes[number % STRIPES];

	if (is_zero_page(number)) {
		check_zero_page(number);
		return;
	}
	pthread_mutex_lock(stripe);
	check_page(number);
	pthread_mutex_unlock(stripe);
}

/* Keeps a thread at a rate. A slice that was missed, because the whole machine
 * stood still, is not made up for: the rate is a limit, never a burst. */
struct pace {
	uint64_t bytes_per_slice;
	uint64_t left;
	uint64_t next;
};

static void pace_init(struct pace *p, uint64_t rate)
{
	p->bytes_per_slice = rate == RATE_MAX ? RATE_MAX : rate / (NS_PER_S / SLICE_NS);
	if (p->bytes_per_slice < PAGE)
		p->bytes_per_slice = PAGE;
	p->left = p->bytes_per_slice;
	p->next = now_ns() + SLICE_NS;
}

static void pace_page(struct pace *p)
{
	uint64_t now;

	if (p->bytes_per_slice == RATE_MAX)
		return;
	if (p->left > PAGE) {
		p->left -= PAGE;
		return;
	}
	sleep_until(p->next);
	now = now_ns();
	p->left = p->bytes_per_slice;
	p->next = now - p->next > SLICE_NS ? now + SLICE_NS : p->next + SLICE_NS;
}

static void *writer(void *unused)
{
	uint64_t x = mix(options.seed);
	struct pace pace;

	(void)unused;
	pace_init(&pace, options.rate);
	for (;;) {
		uint64_t number;

		x = mix(x);
		number = x % n_pages;
		if (is_zero_page(number))
			continue;
		rewrite(number);
		pace_page(&pace);
	}
	return NULL;
}

static void *sweeper(void *unused)
{
	struct pace pace;

	(void)unused;
	pace_init(&pace, options.sweep);
	for (;;) {
		for (uint64_t number = 0; number < n_pages; number++) {
			check(number);
			pace_page(&pace);
		}
	}
	return NULL;
}

/* The harness fills the disk with its own word numbers. Direct reads, so that
 * every one of them is the device writing this buffer. */
static void *disk_reader(void *unused)
{
	static uint64_t buffer[64 * 1024 / 8] __attribute__((aligned(PAGE)));
	int fd = open("/dev/vda", O_RDONLY | O_DIRECT | O_CLOEXEC);

	(void)unused;
	if (fd < 0)
		fail("/dev/vda");
	for (uint64_t offset = 0;;) {
		ssize_t n = pread(fd, buffer, sizeof(buffer), offset);

		if (n < 0) {
			report_bad("disk-read", offset, sizeof(buffer), errno);
			n = 0;
		}
		for (ssize_t i = 0; i < n / 8; i++)
			if (buffer[i] != offset / 8 + i) {
				report_bad("disk-word", offset / 8 + i, offset / 8 + i,
					   buffer[i]);
				break;
			}
		memset(buffer, 0xee, sizeof(buffer));
		offset = n < (ssize_t)sizeof(buffer) ? 0 : offset + n;
		sleep_until(now_ns() + SLICE_NS);
	}
	return NULL;
}

__attribute__((noreturn)) static void tick(void)
{
	struct sched_param priority = {.sched_priority = 10};
	uint64_t last = now_ns(), next = last + options.tick_ns;

	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority) != 0)
		fail("sched_setscheduler");
	for (uint64_t counter = 1;; counter++) {
		char line[80];
		uint64_t now;
		int n;

		sleep_until(next);
		now = now_ns();
		n = snprintf(line, sizeof(line), "gw %llu %llu %llu\n",
			     (unsigned long long)counter,
			     (unsigned long long)atomic_load(&errors),
			     (unsigned long long)(now - last) / 1000);
		print_line(line, n);
		last = now;
		next += options.tick_ns;
		if (next < now)
			next = now + options.tick_ns;
	}
}

/* "64M", "max", "10ms" (a time gives nanoseconds) */
static uint64_t parse(const char *text)
{
	char *end;
	uint64_t value;

	if (strcmp(text, "max") == 0)
		return RATE_MAX;
	value = strtoull(text, &end, 10);
	if (end == text)
		fail(text);
	if (strcmp(end, "G") == 0)
		return value << 30;
	if (strcmp(end, "M") == 0)
		return value << 20;
	if (strcmp(end, "K") == 0)
		return value << 10;
	if (strcmp(end, "ms") == 0)
		return value * 1000000;
	if (strcmp(end, "us") == 0)
		return value * 1000;
	if (*end != '\0')
		fail(text);
	return value;
}

static void read_options(void)
{
	static const struct {
		const char *name;
		uint64_t *value;
	} table[] = {
		{"gw.area=", &options.area},	{"gw.zero=", &options.zero_percent},
		{"gw.rate=", &options.rate},	{"gw.sweep=", &options.sweep},
		{"gw.tick=", &options.tick_ns}, {"gw.seed=", &options.seed},
	};
	static char line[4096];
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

	if (n < 0)
		fail("/proc/cmdline");
	close(fd);
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
			size_t length = strlen(table[i].name);

			if (strncmp(word, table[i].name, length) == 0)
				*table[i].value = parse(word + length);
		}
}

static void fill_area(void)
{
	n_pages = options.area / PAGE;
	sequences = calloc(n_pages, sizeof(*sequences));
	pages = mmap(NULL, n_pages * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (n_pages == 0 || !sequences || pages == MAP_FAILED)
		fail("gw.area");
	for (uint64_t number = 0; number < n_pages; number++) {
		/* a zero page must be memory of its own, not the kernel's one */
		if (is_zero_page(number))
			memset(&pages[number], 0, PAGE);
		else
			write_page(number, 1);
	}
}

static void start(void *(*body)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, body, NULL) != 0)
		fail("pthread_create");
}

/* No "\r" before "\n": every byte less is time saved on an emulated UART. */
static void console_raw(void)
{
	struct termios t;

	if (tcgetattr(STDOUT_FILENO, &t) != 0)
		return;
	cfmakeraw(&t);
	tcsetattr(STDOUT_FILENO, TCSANOW, &t);
}

int main(void)
{
	console_raw();
	read_options();
	for (size_t i = 0; i < STRIPES; i++)
		pthread_mutex_init(&stripes[i], NULL);
	fill_area();
	print_line("gw-ready\n", strlen("gw-ready\n"));
	if (options.rate > 0 && options.zero_percent < 100)
		start(writer);
	if (options.sweep > 0)
		start(sweeper);
	if (access("/dev/vda", F_OK) == 0)
		start(disk_reader);
	tick();
}
