/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `godwit bench` measures with, and what it makes of its measurements. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <lz4.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/hist.h"
#include "base/util.h"
#include "base/zero.h"
#include "bench/bare.h"
#include "bench/bench.h"
#include "bench/memory.h"
#include "bench/net.h"
#include "bench/pages.h"
#include "bench/results.h"
#include "wire/frame.h"

TestSuite(bench, .timeout = 60);

#define SIZE (16UL << 20)

/* ---- page kinds ---- */

static uint8_t *made(enum bench_pages kind, uint64_t seed)
{
	uint8_t *memory = aligned_alloc(GW_UNIT_SIZE, SIZE);

	cr_assert_not_null(memory);
	memset(memory, 0xa5, SIZE);
	bench_pages_fill(kind, seed, memory, SIZE);
	return memory;
}

/* As the engine compresses. */
static double lz4_ratio(const uint8_t *memory)
{
	char out[LZ4_COMPRESSBOUND(GW_FRAME_LZ4_MAX)];
	uint64_t total = 0;

	for (uint64_t at = 0; at < SIZE; at += GW_FRAME_LZ4_MAX)
		total += (uint64_t)LZ4_compress_default((const char *)memory + at, out,
							GW_FRAME_LZ4_MAX, sizeof(out));
	return (double)SIZE / (double)total;
}

static double zero_share(const uint8_t *memory)
{
	uint64_t zero = 0;

	for (uint64_t at = 0; at < SIZE; at += GW_UNIT_SIZE)
		zero += gw_unit_is_zero(memory + at);
	return (double)zero / (double)(SIZE / GW_UNIT_SIZE);
}

Test(bench, each_kind_of_pages_is_what_it_is_called)
{
	const struct {
		enum bench_pages kind;
		double ratio_min, ratio_max, zero_min, zero_max;
	} cases[] = {
		{BENCH_PAGES_RANDOM, 0.98, 1.0, 0, 0},
		{BENCH_PAGES_ZERO, 100, 300, 1, 1},
		{BENCH_PAGES_HALF, 1.9, 2.05, 0.5, 0.5},
		{BENCH_PAGES_TEXT, 1.8, 2.3, 0, 0},
		{BENCH_PAGES_REAL, 1.7, 3.5, 0.2, 0.4},
	};

	for (size_t i = 0; i < GW_ARRAY_SIZE(cases); i++) {
		const char *name = bench_pages_name(cases[i].kind);
		uint8_t *memory = made(cases[i].kind, 1);
		double ratio = lz4_ratio(memory), zero = zero_share(memory);

		cr_assert(ratio >= cases[i].ratio_min && ratio <= cases[i].ratio_max,
			  "%s: LZ4 makes 1 of %.2f", name, ratio);
		cr_assert(zero >= cases[i].zero_min && zero <= cases[i].zero_max,
			  "%s: %.3f are zero", name, zero);
		free(memory);
	}
}

Test(bench, the_seed_alone_decides_about_contents)
{
	for (unsigned int i = 0; i < BENCH_N_PAGES; i++) {
		enum bench_pages kind = (enum bench_pages)i;
		uint8_t *a = made(kind, 1), *b = made(kind, 1), *c = made(kind, 2);

		cr_assert_eq(memcmp(a, b, SIZE), 0, "%s", bench_pages_name(kind));
		cr_assert_eq(memcmp(a, c, SIZE) == 0, kind == BENCH_PAGES_ZERO, "%s",
			     bench_pages_name(kind));
		free(a);
		free(b);
		free(c);
	}
}

Test(bench, not_a_byte_behind_the_end_is_touched)
{
	static uint8_t memory[4 * GW_UNIT_SIZE] __attribute__((aligned(4096)));

	for (unsigned int i = 0; i < BENCH_N_PAGES; i++) {
		for (uint64_t units = 1; units < 4; units++) {
			memset(memory, 0x5a, sizeof(memory));
			bench_pages_fill((enum bench_pages)i, 3, memory,
					 units * GW_UNIT_SIZE);
			for (uint64_t at = units * GW_UNIT_SIZE; at < sizeof(memory);
			     at++)
				cr_assert_eq(memory[at], 0x5a);
		}
	}
}

/* ---- arithmetic ---- */

static struct bench_runs runs_of(const double *values, unsigned int n)
{
	struct bench_runs runs = {0};

	for (unsigned int i = 0; i < n; i++)
		bench_runs_add(&runs, values[i]);
	return runs;
}

Test(bench, medians_and_ranges_are_those_of_the_runs)
{
	const double values[] = {5, 1, 4, 2, 30};
	struct bench_runs none = {0}, odd = runs_of(values, 5), even = runs_of(values, 4);

	cr_assert_eq(bench_runs_median(&none), 0);
	cr_assert_eq(bench_runs_median(&odd), 4);
	cr_assert_eq(bench_runs_median(&even), 3);
	cr_assert_eq(bench_runs_min(&odd), 1);
	cr_assert_eq(bench_runs_max(&odd), 30);
	/* the order of the runs is kept: who reads them may want it */
	cr_assert_eq(odd.values[0], 5);
}

Test(bench, more_runs_than_there_is_room_for_are_dropped)
{
	struct bench_runs runs = {0};

	for (unsigned int i = 0; i < BENCH_RUNS_MAX + 5; i++)
		bench_runs_add(&runs, i);
	cr_assert_eq(runs.n, BENCH_RUNS_MAX);
	cr_assert_eq(bench_runs_max(&runs), BENCH_RUNS_MAX - 1);
}

Test(bench, a_figure_is_told_with_the_ratio_to_its_ceiling)
{
	const double values[] = {3, 1, 2};
	struct bench_runs runs = runs_of(values, 3);
	struct bench_results results;
	struct bench_figure figure = {
		.subject = "stream",
		.labels = json_pack("{s:i}", "channels", 2),
		.figure = "throughput",
		.unit = "bytes/s",
		.higher_is_better = true,
		.runs = &runs,
		.ceiling_what = "sockets",
		.ceiling = 8,
	};
	const json_t *result, *ceiling;

	cr_assert_eq(bench_results_init(&results), 0);
	cr_assert_eq(bench_results_add(&results, &figure), 0);
	result = json_array_get(results.results, 0);
	cr_assert_eq(json_number_value(json_object_get(result, "median")), 2);
	cr_assert_eq(json_array_size(json_object_get(result, "runs")), 3);
	cr_assert_str_eq(json_string_value(json_object_get(result, "better")), "higher");
	ceiling = json_object_get(result, "ceiling");
	cr_assert_eq(json_number_value(json_object_get(ceiling, "ratio")), 0.25);
	bench_results_deinit(&results);
}

Test(bench, a_figure_without_a_ceiling_says_so)
{
	struct bench_runs runs = {0};
	struct bench_results results;
	struct bench_figure figure = {.subject = "lz4",
				      .labels = json_object(),
				      .figure = "compress",
				      .unit = "bytes/s",
				      .runs = &runs};

	cr_assert_eq(bench_results_init(&results), 0);
	cr_assert_eq(bench_results_add(&results, &figure), 0);
	cr_assert(json_is_null(
		json_object_get(json_array_get(results.results, 0), "ceiling")));
	bench_results_deinit(&results);
}

/* ---- histograms over the wire ---- */

Test(bench, a_histogram_survives_the_way_to_the_other_host)
{
	struct gw_hist hist = {0}, back;
	json_t *object;

	for (uint64_t ns = 1; ns < 200000; ns += 37)
		gw_hist_record(&hist, ns);
	gw_hist_record(&hist, UINT64_C(1) << 33);
	object = bench_hist_json(&hist);
	cr_assert_eq(bench_hist_from_json(object, &back), 0);
	cr_assert_eq(back.count, hist.count);
	cr_assert_eq(back.max, hist.max);
	cr_assert_eq(memcmp(back.steps, hist.steps, sizeof(hist.steps)), 0);
	cr_assert_eq(gw_hist_mean(&back), gw_hist_mean(&hist));
	cr_assert_eq(gw_hist_quantile(&back, .999), gw_hist_quantile(&hist, .999));
	json_decref(object);
}

Test(bench, a_histogram_that_lies_is_refused)
{
	static const char *const lies[] = {
		"{}",
		"{\"count\": 1}",
		"{\"count\": 1, \"buckets\": 7}",
		"{\"count\": 1, \"buckets\": []}",
		"{\"count\": 1, \"buckets\": [[5, 2]]}",
		"{\"count\": 2, \"buckets\": [[5, 1], [6, 2]]}",
		"{\"count\": 1, \"buckets\": [[5, -1], [6]]}",
		"{\"count\": 9000000000000, \"buckets\": [[5, 9000000000000]]}",
	};
	struct gw_hist hist;

	for (size_t i = 0; i < GW_ARRAY_SIZE(lies); i++) {
		json_t *object = json_loads(lies[i], 0, NULL);

		cr_assert_not_null(object, "%s", lies[i]);
		cr_assert_eq(bench_hist_from_json(object, &hist), -EBADMSG, "%s",
			     lies[i]);
		json_decref(object);
	}
}

/* ---- words ---- */

Test(bench, what_is_asked_for_is_what_is_measured)
{
	struct bench_config config = {0};

	cr_assert_eq(bench_config_set(&config, NULL, "raw", NULL), 0);
	cr_assert_eq(bench_config_set(&config, NULL, "register", NULL), 0);
	cr_assert_eq(bench_config_set(&config, "channels", "1,7,64", NULL), 0);
	cr_assert_eq(bench_config_set(&config, "pages", "text,zero", NULL), 0);
	cr_assert_eq(bench_config_set(&config, "size", "9M", NULL), 0);
	cr_assert_eq(bench_config_finish(&config, NULL), 0);
	cr_assert_eq(config.subjects, 1U << BENCH_RAW | 1U << BENCH_REGISTER);
	cr_assert_eq(config.n_channels, 3);
	cr_assert_eq(config.channels[2], 64);
	cr_assert_eq(config.pages, 1U << BENCH_PAGES_TEXT | 1U << BENCH_PAGES_ZERO);
	/* whole extents */
	cr_assert_eq(config.size, 10UL << 20);
	cr_assert_eq(config.transports, 1U << BENCH_TCP | 1U << BENCH_UNIX);
	cr_assert_eq(config.repeat, 5);
}

Test(bench, what_makes_no_sense_is_refused_with_a_reason)
{
	static const char *const wrong[][2] = {
		{NULL, "row"},	    {NULL, ""},		{"channels", ""},
		{"channels", "1,"}, {"channels", "65"}, {"channels", "1,2,3,4,5,6,7,8,9"},
		{"pages", "text,"}, {"pages", "texts"}, {"transport", "tcp unix"},
		{"size", "7M"},	    {"size", "5T"},	{"repeat", "101"},
		{"seed", "0"},	    {"size", ""},
	};

	for (size_t i = 0; i < GW_ARRAY_SIZE(wrong); i++) {
		struct bench_config config = {0};
		struct godwit_error *err = godwit_error_new();

		cr_assert_eq(bench_config_set(&config, wrong[i][0], wrong[i][1], err),
			     -EINVAL, "%s", wrong[i][1]);
		cr_assert(godwit_error_text(err)[0]);
		godwit_error_free(err);
	}
}

/* ---- memory ---- */

Test(bench, a_file_that_is_no_memory_is_left_alone)
{
	char path[] = "/var/tmp/bench-XXXXXX", text[8] = {0};
	int fd = mkstemp(path);
	struct bench_memory memory;
	struct gw_err err = {0};
	int r;

	cr_assert_eq(write(fd, "precious", 8), 8);
	r = bench_memory_init(&memory, path, BENCH_MEMORY_RAM, 8UL << 20, &err);
	cr_assert_eq(pread(fd, text, 8, 0), 8);
	unlink(path);
	if (r == 0)
		cr_skip_test("/var/tmp is a tmpfs");
	cr_assert_eq(r, -EINVAL);
	cr_assert(strstr(err.text, "tmpfs"), "%s", err.text);
	cr_assert_eq(memcmp(text, "precious", 8), 0);
	close(fd);
}

Test(bench, memory_that_is_dropped_reads_as_zeroes)
{
	struct bench_memory memory;
	struct gw_err err = {0};

	cr_assert_eq(bench_memory_init(&memory, NULL, BENCH_MEMORY_RAM, 8UL << 20, &err),
		     0, "%s", err.text);
	memset(memory.map, 7, memory.size);
	cr_assert_eq(bench_memory_drop(&memory, &err), 0, "%s", err.text);
	cr_assert_eq(memory.map[memory.size - 1], 0);
	bench_memory_deinit(&memory);
	bench_memory_deinit(&memory);
}

Test(bench, more_memory_than_there_is_is_refused_beforehand)
{
	struct bench_memory memory;
	struct gw_err err = {0};

	cr_assert_eq(bench_memory_init(&memory, NULL, BENCH_MEMORY_RAM, 1UL << 42, &err),
		     -ENOMEM);
	cr_assert(strstr(err.text, "smaller --size"), "%s", err.text);
}

/* ---- lines ---- */

static void expect_line(const char *text, size_t len, int want)
{
	struct bench_link link;
	struct gw_err err = {0};
	json_t *object = NULL;
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	cr_assert_eq(bench_link_init(&link, fds[0], &err), 0);
	cr_assert_eq(write(fds[1], text, len), (ssize_t)len);
	close(fds[1]);
	cr_assert_eq(bench_link_recv(&link, gw_now() + GW_NSEC, &err, &object), want,
		     "%.20s: %s", text, err.text);
	json_decref(object);
	bench_link_deinit(&link);
}

Test(bench, a_line_is_one_object_or_refused)
{
	expect_line("{\"do\": \"raw\"}\n", 14, 0);
	expect_line("{\"do\": \"raw\"}", 13, -EPIPE);
	expect_line("[1]\n", 4, -EBADMSG);
	expect_line("\n", 1, -EBADMSG);
	expect_line("{\"a\": 1, \"a\": 2}\n", 17, -EBADMSG);
	expect_line("\0\0\n", 3, -EBADMSG);
	expect_line("", 0, -EPIPE);
}

Test(bench, a_line_without_an_end_is_refused_when_the_room_is_full)
{
	char *text = malloc(BENCH_LINE_MAX);
	struct bench_link link;
	struct gw_err err = {0};
	json_t *object;
	int fds[2], room = BENCH_LINE_MAX * 2;

	memset(text, '[', BENCH_LINE_MAX);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	setsockopt(fds[1], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	cr_assert_eq(bench_link_init(&link, fds[0], &err), 0);
	if (write(fds[1], text, BENCH_LINE_MAX) != BENCH_LINE_MAX)
		cr_skip_test("the socket's buffer is too small");
	cr_assert_eq(bench_link_recv(&link, gw_now() + GW_NSEC, &err, &object), -EBADMSG);
	bench_link_deinit(&link);
	close(fds[1]);
	free(text);
}

Test(bench, silence_is_not_waited_for_beyond_the_deadline)
{
	struct bench_link link;
	struct gw_err err = {0};
	json_t *object;
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	cr_assert_eq(bench_link_init(&link, fds[0], &err), 0);
	cr_assert_eq(bench_link_recv(&link, gw_now() + GW_NSEC / 50, &err, &object),
		     -ETIMEDOUT);
	bench_link_deinit(&link);
	close(fds[1]);
}

/* ---- a local fault ---- */

Test(bench, local_faults_are_each_waited_for_and_noted)
{
	struct gw_hist hist = {0};
	struct bench_memory memory;
	struct gw_err err = {0};
	int r;

	cr_assert_eq(bench_memory_init(&memory, NULL, BENCH_MEMORY_RAM, 8UL << 20, &err),
		     0, "%s", err.text);
	r = bench_bare_fault(&memory, 100, false, &hist, &err);
	if (r == -EPERM)
		cr_skip_test("%s", err.text);
	cr_assert_eq(r, 0, "%s", err.text);
	cr_assert_eq(hist.count, 100);
	/* a page that had been there takes tens of nanoseconds */
	cr_assert_gt(gw_hist_quantile(&hist, .5), 500);
	bench_memory_deinit(&memory);
}
