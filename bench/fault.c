/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Post-copy: how long a thread of the guest waits for a page that is missing.
 *
 * `idle`: the bandwidth limit lets nothing be pushed until the thread has had
 * its touches; then the limit is lifted and the rest comes. `full`: everything
 * is pushed as fast as it goes while the thread touches what is still missing.
 *
 * What idle is compared to are the two halves of such a fault alone, with
 * threads that sleep: a page asked for over a socket, and a fault served from
 * memory at hand. The same with threads that never sleep is told beside it.
 */
#include <pthread.h>
#include <stdio.h>

#include "base/util.h"
#include "bench/bare.h"
#include "bench/run.h"
#include "bench/serve.h"
#include "bench/source.h"

#define TOUCHES	      2000U
#define TOUCHES_QUICK 200U
/* Of each of the two halves, so that their quantiles are as good. */
#define BARE_SIZE (16ULL << 20)
/* The smallest limit there is. */
#define NEARLY_NOTHING "1"
/* A thread that has its touches slowly is waited for. */
#define TOUCH_PATIENCE (120 * GW_NSEC)

static const struct {
	const char *name;
	double q; /* below 0: the mean; 1: the maximum */
} quantiles[] = {
	{"mean", -1}, {"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}, {"max", 1},
};
#define N_QUANTILES GW_ARRAY_SIZE(quantiles)
#define P50	    1U

/* One distribution, run by run and in all. */
struct series {
	struct gw_hist all;
	struct bench_runs runs[N_QUANTILES];
};

static double quantile_of(const struct gw_hist *hist, double q)
{
	if (q < 0)
		return (double)gw_hist_mean(hist);
	return (double)(q < 1 ? gw_hist_quantile(hist, q) : hist->max);
}

static void series_add(struct series *series, const struct gw_hist *hist)
{
	/* too small a memory, or too fast a push: nothing was missing */
	if (!hist->count)
		return;
	gw_hist_add(&series->all, hist);
	for (size_t i = 0; i < N_QUANTILES; i++)
		bench_runs_add(&series->runs[i], quantile_of(hist, quantiles[i].q));
}

/* ---- a post-copy ---- */

struct run {
	struct bench_source source;
	char address[BENCH_ADDRESS_MAX];
	struct gw_err err;
	int result;
};

static void *source_main(void *opaque)
{
	struct run *run = opaque;

	run->result = godwit_source_run(run->source.handle, run->address, &run->err);
	return NULL;
}

/* Waits for the thread's rest, then lets the pages go. Told by the last answer else. */
static int release_when_touched(struct bench *bench, struct run *run, bool idle,
				struct gw_err *err)
{
	json_t *answer;
	int r = bench_peer_hear(&bench->peer, TOUCH_PATIENCE, err, &answer);

	if (r) {
		(void)godwit_source_cancel(run->source.handle);
		/* past COMMIT that is refused: then the other side's end is its end */
		(void)godwit_source_set(run->source.handle, "bandwidth", "unlimited",
					NULL);
		return r;
	}
	json_decref(answer);
	if (!idle)
		return 0;
	return godwit_source_set(run->source.handle, "bandwidth", "unlimited", err);
}

static int run_and_hear(struct bench *bench, struct run *run, bool idle,
			struct gw_err *err, json_t **ret)
{
	pthread_t thread;
	int r = -pthread_create(&thread, NULL, source_main, run);

	if (r)
		return gw_err_errno(err, r, "cannot start a thread");
	r = release_when_touched(bench, run, idle, err);
	pthread_join(thread, NULL);
	if (r)
		return r;
	if (run->result)
		return gw_err_set(err, run->result, "%s", run->err.text);
	return bench_peer_hear(&bench->peer, BENCH_PATIENCE, err, ret);
}

static int migrate(struct bench *bench, struct run *run, bool idle, unsigned int turn,
		   struct gw_err *err, json_t **ret)
{
	unsigned int idle_touches = bench->config->quick ? TOUCHES_QUICK : TOUCHES;
	json_int_t seed = (json_int_t)((bench->config->seed + turn) & INT64_MAX);
	json_t *answer;
	int r = bench_peer_ask(&bench->peer,
			       json_pack("{s:s, s:s, s:i, s:I}", "do", "fault",
					 "transport", bench_transport_name(BENCH_TCP),
					 "touches", idle ? idle_touches : 0, "seed",
					 seed),
			       err, &answer);

	if (r)
		return r;
	r = bench_peer_where(&bench->peer, answer, run->address, sizeof(run->address),
			     err);
	json_decref(answer);
	return r ? r : run_and_hear(bench, run, idle, err, ret);
}

/* The guest's distribution and the engine's of one post-copy. */
static int fault_once(struct bench *bench, unsigned int channels, bool idle,
		      unsigned int turn, struct gw_err *err, struct gw_hist ret[2])
{
	struct run run = {0};
	char number[16];
	json_t *answer = NULL;
	int r;

	snprintf(number, sizeof(number), "%u", channels);
	r = bench_source_init(&run.source, &bench->memory, "postcopy", number,
			      idle ? NEARLY_NOTHING : NULL, err);
	if (!r)
		r = migrate(bench, &run, idle, turn, err, &answer);
	bench_source_deinit(&run.source);
	if (r)
		return r;
	if (bench_hist_from_json(json_object_get(answer, "guest"), &ret[0]) ||
	    bench_hist_from_json(json_object_get(answer, "engine"), &ret[1]))
		r = gw_err_set(err, -EBADMSG, "the other side's figures make no sense");
	json_decref(answer);
	return r;
}

/* ---- the two halves ---- */

static int ask_once(struct bench *bench, bool spin, struct gw_hist *hist,
		    struct gw_err *err)
{
	unsigned int count = bench->config->quick ? TOUCHES_QUICK : TOUCHES;
	int fd, r = bench_peer_streams(
			&bench->peer,
			json_pack("{s:s, s:s, s:b}", "do", "echo", "transport",
				  bench_transport_name(BENCH_TCP), "spin", spin),
			1, err, &fd);

	if (!r)
		r = bench_bare_ask(fd, count, spin, hist, err);
	gw_close(&fd);
	return r ? r : bench_peer_hear(&bench->peer, BENCH_PATIENCE, err, NULL);
}

static int halves_once(struct bench *bench, struct bench_memory *memory, bool spin,
		       struct series *ask, struct series *fault, struct gw_err *err)
{
	unsigned int count = bench->config->quick ? TOUCHES_QUICK : TOUCHES;
	struct gw_hist asked = {0}, served = {0};
	int r = ask_once(bench, spin, &asked, err);

	if (!r)
		r = bench_bare_fault(memory, count, spin, &served, err);
	if (r)
		return r;
	series_add(ask, &asked);
	series_add(fault, &served);
	return 0;
}

/* ---- reporting ---- */

static int report_quantile(struct bench *bench, const char *push, const char *seen,
			   unsigned int channels, const struct series *series, size_t i,
			   const char *what, double ceiling)
{
	struct bench_figure figure = {
		.subject = "fault",
		.labels = json_pack("{s:s, s:s, s:i}", "push", push, "seen", seen,
				    "channels", channels),
		.figure = quantiles[i].name,
		.unit = "ns",
		.runs = &series->runs[i],
		.ceiling_what = what,
		.ceiling = ceiling,
	};

	return bench_results_add(bench->results, &figure);
}

static int report_series(struct bench *bench, const char *push, const char *seen,
			 unsigned int channels, const struct series *series,
			 double ceiling)
{
	char name[64];
	int r = 0;

	for (size_t i = 0; !r && i < N_QUANTILES; i++)
		r = report_quantile(
			bench, push, seen, channels, series, i,
			i == P50 && ceiling > 0 ? "bare ping-pong + local fault" : NULL,
			ceiling);
	snprintf(name, sizeof(name), "fault latency, %s", push);
	return r ? r
		 : bench_results_add_hist(bench->results, name,
					  json_pack("{s:s, s:s, s:i}", "push", push,
						    "seen", seen, "channels", channels),
					  &series->all);
}

static int report_half(struct bench *bench, const char *half, const char *threads,
		       const struct series *series)
{
	struct bench_figure figure = {
		.subject = "fault",
		.labels = json_pack("{s:s, s:s}", "bare", half, "threads", threads),
		.figure = quantiles[P50].name,
		.unit = "ns",
		.runs = &series->runs[P50],
	};

	return bench_results_add(bench->results, &figure);
}

/* ---- all of it ---- */

enum {
	IDLE_GUEST,
	IDLE_ENGINE,
	FULL_GUEST,
	FULL_ENGINE,
	ASK,
	SERVE,
	ASK_SPIN,
	SERVE_SPIN,
	N_SERIES
};

static int measure_turn(struct bench *bench, struct bench_memory *memory,
			unsigned int channels, unsigned int turn, struct series *all,
			struct gw_err *err)
{
	struct gw_hist hists[2];
	int r = halves_once(bench, memory, false, &all[ASK], &all[SERVE], err);

	for (int full = 0; !r && full < 2; full++) {
		r = fault_once(bench, channels, !full, turn, err, hists);
		if (r)
			break;
		series_add(&all[full ? FULL_GUEST : IDLE_GUEST], &hists[0]);
		series_add(&all[full ? FULL_ENGINE : IDLE_ENGINE], &hists[1]);
	}
	if (!r)
		r = halves_once(bench, memory, true, &all[ASK_SPIN], &all[SERVE_SPIN],
				err);
	return r;
}

static int report_all(struct bench *bench, unsigned int channels,
		      const struct series *all)
{
	double halves = bench_runs_median(&all[ASK].runs[P50]) +
			bench_runs_median(&all[SERVE].runs[P50]);
	int r = report_series(bench, "idle", "guest", channels, &all[IDLE_GUEST], halves);

	if (!r)
		r = report_series(bench, "idle", "engine", channels, &all[IDLE_ENGINE],
				  0);
	if (!r)
		r = report_series(bench, "full", "guest", channels, &all[FULL_GUEST], 0);
	if (!r)
		r = report_series(bench, "full", "engine", channels, &all[FULL_ENGINE],
				  0);
	if (!r)
		r = report_half(bench, "ping-pong", "sleeping", &all[ASK]);
	if (!r)
		r = report_half(bench, "local fault", "sleeping", &all[SERVE]);
	if (!r)
		r = report_half(bench, "ping-pong", "spinning", &all[ASK_SPIN]);
	if (!r)
		r = report_half(bench, "local fault", "spinning", &all[SERVE_SPIN]);
	return r;
}

static int measure(struct bench *bench, struct bench_memory *memory,
		   unsigned int channels, struct gw_err *err)
{
	struct series *all = calloc(N_SERIES, sizeof(*all));
	int r = 0;

	if (!all)
		return -ENOMEM;
	bench_say(bench, "fault, %u channels", channels);
	for (unsigned int i = 0; !r && i < bench->config->repeat; i++)
		r = measure_turn(bench, memory, channels, i, all, err);
	if (!r)
		r = report_all(bench, channels, all);
	free(all);
	return r;
}

int bench_run_fault(struct bench *bench, struct gw_err *err)
{
	const struct bench_config *config = bench->config;
	struct bench_memory memory;
	int r = bench_memory_init(&memory, config->ram, BENCH_MEMORY_SCRATCH, BARE_SIZE,
				  err);

	if (r)
		return r;
	bench_pages_fill(BENCH_PAGES_RANDOM, config->seed, bench->memory.map,
			 bench->memory.size);
	/* more channels make no fault faster; the last number asked for shows it */
	r = measure(bench, &memory, config->channels[config->n_channels - 1], err);
	bench_memory_deinit(&memory);
	return r;
}
