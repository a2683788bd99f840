/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What was measured, on its way to a table and to a file of the form
 * "godwit-bench/1".
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define BENCH_RUNS_MAX 100U

/* The same thing measured several times. */
struct bench_runs {
	double values[BENCH_RUNS_MAX];
	unsigned int n;
};

/* Past BENCH_RUNS_MAX it is dropped. */
void bench_runs_add(struct bench_runs *runs, double value);
/* Each 0 when there is none. The median of an even number is between the two. */
double bench_runs_median(const struct bench_runs *runs);
double bench_runs_min(const struct bench_runs *runs);
double bench_runs_max(const struct bench_runs *runs);

/* One line of the table. */
struct bench_figure {
	const char *subject;
	json_t *labels; /* an object, taken */
	const char *figure;
	const char *unit; /* "bytes/s", "ns", "s", "ratio", "pages/s" or "s/GiB" */
	bool higher_is_better;
	const struct bench_runs *runs;
	/* NULL, or the median of what it is compared to, and what that is */
	const char *ceiling_what;
	double ceiling;
};

struct gw_hist;

struct bench_results {
	json_t *results;    /* array */
	json_t *histograms; /* array */
};

/* 0 or -ENOMEM. */
int bench_results_init(struct bench_results *results);
void bench_results_deinit(struct bench_results *results);
int bench_results_add(struct bench_results *results, const struct bench_figure *figure);
/* Takes @labels. */
int bench_results_add_hist(struct bench_results *results, const char *name,
			   json_t *labels, const struct gw_hist *hist);

/* From a peer at most so many values are believed. */
#define BENCH_HIST_COUNT_MAX 10000000ULL

/* Count, mean, quantiles, max and the buckets that are not empty. */
json_t *bench_hist_json(const struct gw_hist *hist);
/* The way back, from a peer: 0 or -EBADMSG. */
int bench_hist_from_json(const json_t *object, struct gw_hist *ret);

/* ---- where and how it was measured ---- */

/* CPU time of this process so far, user and system. */
double bench_cpu_seconds(void);

/* Taken before the first measurement. */
struct bench_host {
	uint64_t busy_ticks; /* of all CPUs, all processes */
	double own_seconds;  /* of CPU time, ours */
	double taken_at;     /* s, monotonic */
};

void bench_host_init(struct bench_host *host);

/*
 * The whole document, or NULL (memory is out). @command is as it was typed.
 * Says whether the host was quiet since bench_host_init().
 */
json_t *bench_results_document(const struct bench_results *results,
			       const struct bench_host *host, const char *command,
			       uint64_t seed);
