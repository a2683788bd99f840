/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Going through the subjects, and what those that move memory share.
 *
 * Each figure is measured in turns with its ceiling, A B A B, so that whatever
 * changes about the machine meanwhile changes both.
 */
#include "bench/run.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "bench/raw.h"
#include "bench/serve.h"

#define GIB ((double)(1ULL << 30))

void bench_say(const struct bench *bench, const char *fmt, ...)
{
	char line[128];
	va_list ap;

	if (!bench->config->progress)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	bench->config->progress(bench->config->opaque, line);
}

double bench_seconds_since(uint64_t started)
{
	return (double)GW_MAX(gw_now() - started, 1U) / 1e9;
}

/* Rates and ratios: more is better. Times, also of a GiB: less. */
static bool higher_is_better(const char *unit)
{
	return !strcmp(unit, "bytes/s") || !strcmp(unit, "pages/s") ||
	       !strcmp(unit, "ratio");
}

int bench_report(struct bench *bench, const char *subject, json_t *labels,
		 const char *figure, const char *unit, const struct bench_runs *runs,
		 const char *what, const struct bench_runs *ceiling)
{
	struct bench_figure result = {
		.subject = subject,
		.labels = labels,
		.figure = figure,
		.unit = unit,
		.higher_is_better = higher_is_better(unit),
		.runs = runs,
		.ceiling_what = ceiling ? what : NULL,
		.ceiling = ceiling ? bench_runs_median(ceiling) : 0,
	};

	return bench_results_add(bench->results, &result);
}

/* ---- costs ---- */

void bench_costs_add(struct bench_costs *costs, uint64_t bytes,
		     const struct bench_cost *cost)
{
	double gib = (double)bytes / GIB;

	bench_runs_add(&costs->rate, (double)bytes / cost->seconds);
	bench_runs_add(&costs->cpu, cost->cpu / gib);
	bench_runs_add(&costs->peer_cpu, cost->peer_cpu / gib);
}

static json_t *with_side(const json_t *labels, const char *side)
{
	json_t *copy = json_copy((json_t *)labels);

	if (side)
		json_object_set_new(copy, "side", json_string(side));
	return copy;
}

int bench_costs_report(struct bench *bench, const char *subject, json_t *labels,
		       const struct bench_costs *costs, const char *what,
		       const struct bench_costs *ceiling)
{
	bool same_work = ceiling && bench_runs_median(&ceiling->cpu) > 0;
	bool two = bench->config->to;
	int r = bench_report(bench, subject, with_side(labels, NULL), "throughput",
			     "bytes/s", &costs->rate, what,
			     ceiling ? &ceiling->rate : NULL);

	if (!r)
		r = bench_report(bench, subject, with_side(labels, two ? "source" : NULL),
				 "cpu", "s/GiB", &costs->cpu, what,
				 same_work ? &ceiling->cpu : NULL);
	if (!r && two)
		r = bench_report(bench, subject, with_side(labels, "destination"), "cpu",
				 "s/GiB", &costs->peer_cpu, what,
				 same_work ? &ceiling->peer_cpu : NULL);
	json_decref(labels);
	return r;
}

/* ---- plain streams ---- */

static int send_streams(struct bench *bench, const int *fds, unsigned int n,
			struct gw_err *err, struct bench_cost *ret)
{
	double cpu = bench_cpu_seconds();
	uint64_t started;
	json_t *answer;
	int r = bench_peer_hear(&bench->peer, BENCH_PATIENCE, err, &answer);

	if (r)
		return r;
	json_decref(answer);
	started = gw_now();
	r = bench_raw_send(fds, n, &bench->memory, bench->memory.size, err);
	if (!r)
		r = bench_peer_hear(&bench->peer, BENCH_PATIENCE, err, &answer);
	if (r)
		return r;
	ret->seconds = (double)(gw_now() - started) / 1e9;
	ret->cpu = bench_cpu_seconds() - cpu;
	ret->peer_cpu =
		bench->config->to ? json_number_value(json_object_get(answer, "cpu")) : 0;
	json_decref(answer);
	return 0;
}

int bench_raw_once(struct bench *bench, enum bench_transport transport, unsigned int n,
		   struct gw_err *err, struct bench_cost *ret)
{
	int fds[BENCH_STREAMS_MAX];
	int r;

	assert(n <= BENCH_STREAMS_MAX);
	r = bench_peer_streams(&bench->peer,
			       json_pack("{s:s, s:s, s:i}", "do", "raw", "transport",
					 bench_transport_name(transport), "streams", n),
			       n, err, fds);
	if (!r)
		r = send_streams(bench, fds, n, err, ret);
	for (unsigned int i = 0; i < n; i++)
		gw_close(&fds[i]);
	return r;
}

static int measure_raw(struct bench *bench, enum bench_transport transport,
		       unsigned int n, struct gw_err *err)
{
	struct bench_costs costs = {0};
	struct bench_cost cost;
	int r = 0;

	bench_say(bench, "raw, %s, %u streams", bench_transport_name(transport), n);
	for (unsigned int i = 0; !r && i <= bench->config->repeat; i++) {
		if (bench->config->cold)
			r = bench_peer_ask(&bench->peer, json_pack("{s:s}", "do", "drop"),
					   err, NULL);
		if (!r)
			r = bench_raw_once(bench, transport, n, err, &cost);
		/* the first one warms up */
		if (!r && i)
			bench_costs_add(&costs, bench->memory.size, &cost);
	}
	if (r)
		return r;
	return bench_costs_report(bench, "raw",
				  json_pack("{s:i, s:s}", "channels", n, "transport",
					    bench_transport_name(transport)),
				  &costs, NULL, NULL);
}

int bench_run_raw(struct bench *bench, struct gw_err *err)
{
	const struct bench_config *config = bench->config;
	int r = 0;

	bench_pages_fill(BENCH_PAGES_RANDOM, config->seed, bench->memory.map,
			 bench->memory.size);
	for (unsigned int t = 0; t < BENCH_N_TRANSPORTS; t++)
		for (unsigned int c = 0; !r && c < config->n_channels; c++)
			if (config->transports & 1U << t)
				r = measure_raw(bench, (enum bench_transport)t,
						config->channels[c], err);
	return r;
}

/* ---- all of it ---- */

static const struct {
	int (*run)(struct bench *bench, struct gw_err *err);
	bool with_peer;
} subjects[] = {
	[BENCH_RAW] = {bench_run_raw, true},
	[BENCH_STREAM] = {bench_run_stream, true},
	[BENCH_FAULT] = {bench_run_fault, true},
	[BENCH_ZERO] = {bench_run_zero, false},
	[BENCH_LZ4] = {bench_run_lz4, false},
	[BENCH_DIRTY] = {bench_run_dirty, false},
	[BENCH_INSTALL] = {bench_run_install, false},
	[BENCH_REGISTER] = {bench_run_register, false},
};
static_assert(GW_ARRAY_SIZE(subjects) == BENCH_N_SUBJECTS, "a function for each");

/* Tells of a subject that failed; the number of those is what bench_run() fails by. */
static void note_failure(struct bench *bench, enum bench_subject subject, int code,
			 struct gw_err *err)
{
	if (!err->text[0])
		gw_err_errno(err, code, "it failed");
	gw_err_prefix(err, "%s", bench_subject_name(subject));
	bench->failed++;
	if (bench->config->failed)
		bench->config->failed(bench->config->opaque, err->text);
}

/* The subjects that are measured with a peer, or those without. */
static void run_group(struct bench *bench, bool with_peer)
{
	for (unsigned int i = 0; i < BENCH_N_SUBJECTS; i++) {
		struct gw_err err = {0};
		int r;

		if (!(bench->config->subjects & 1U << i) ||
		    subjects[i].with_peer != with_peer)
			continue;
		r = subjects[i].run(bench, &err);
		if (r)
			note_failure(bench, (enum bench_subject)i, r, &err);
	}
}

static bool wants_peer(const struct bench_config *config)
{
	for (unsigned int i = 0; i < BENCH_N_SUBJECTS; i++)
		if (config->subjects & 1U << i && subjects[i].with_peer)
			return true;
	return false;
}

static int run_with_peer(struct bench *bench, struct gw_err *err)
{
	int r = bench_peer_open(&bench->peer, bench->config, err);

	if (!r)
		r = bench_peer_ask(&bench->peer,
				   json_pack("{s:s, s:I}", "do", "memory", "size",
					     (json_int_t)bench->memory.size),
				   err, NULL);
	if (!r)
		run_group(bench, true);
	bench_peer_close(&bench->peer);
	return r;
}

int bench_run(const struct bench_config *config, struct bench_results *results,
	      godwit_error *err)
{
	struct bench bench = {.config = config, .results = results};
	bool peer = wants_peer(config);
	/* a peer in this process has the file that the user named */
	bool beside = peer && !config->to;
	int r = bench_memory_init(&bench.memory, config->ram,
				  beside ? BENCH_MEMORY_SCRATCH : BENCH_MEMORY_RAM,
				  config->size, err);

	if (!r && peer)
		r = run_with_peer(&bench, err);
	if (!r)
		run_group(&bench, false);
	bench_memory_deinit(&bench.memory);
	if (!r && bench.failed)
		r = gw_err_set(err, -EIO, "%u of the subjects could not be measured",
			       bench.failed);
	return r;
}
