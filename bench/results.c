/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What was measured: arithmetic, and the form "godwit-bench/1". */
#include "bench/results.h"

#include <stdlib.h>
#include <string.h>

#include "base/hist.h"
#include "base/util.h"

/* ---- several runs ---- */

void bench_runs_add(struct bench_runs *runs, double value)
{
	if (runs->n < BENCH_RUNS_MAX)
		runs->values[runs->n++] = value;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static struct bench_runs sorted(const struct bench_runs *runs)
{
	struct bench_runs copy = *runs;

	qsort(copy.values, copy.n, sizeof(copy.values[0]), compare);
	return copy;
}

double bench_runs_median(const struct bench_runs *runs)
{
	struct bench_runs in_order = sorted(runs);
	unsigned int middle = runs->n / 2;

	if (!runs->n)
		return 0;
	if (runs->n % 2)
		return in_order.values[middle];
	return (in_order.values[middle - 1] + in_order.values[middle]) / 2;
}

double bench_runs_min(const struct bench_runs *runs)
{
	return runs->n ? sorted(runs).values[0] : 0;
}

double bench_runs_max(const struct bench_runs *runs)
{
	return runs->n ? sorted(runs).values[runs->n - 1] : 0;
}

/* ---- results ---- */

int bench_results_init(struct bench_results *results)
{
	results->results = json_array();
	results->histograms = json_array();
	if (results->results && results->histograms)
		return 0;
	bench_results_deinit(results);
	return -ENOMEM;
}

void bench_results_deinit(struct bench_results *results)
{
	json_decref(results->results);
	json_decref(results->histograms);
	*results = (struct bench_results){0};
}

static json_t *runs_json(const struct bench_runs *runs)
{
	json_t *array = json_array();

	for (unsigned int i = 0; i < runs->n; i++)
		json_array_append_new(array, json_real(runs->values[i]));
	return array;
}

static json_t *ceiling_json(const struct bench_figure *figure, double median)
{
	if (!figure->ceiling_what || figure->ceiling <= 0)
		return json_null();
	return json_pack("{s:s, s:f, s:f}", "what", figure->ceiling_what, "median",
			 figure->ceiling, "ratio", median / figure->ceiling);
}

int bench_results_add(struct bench_results *results, const struct bench_figure *figure)
{
	double median = bench_runs_median(figure->runs);
	json_t *result = json_pack(
		"{s:s, s:o, s:s, s:s, s:s, s:o, s:f, s:f, s:f, s:o}", "subject",
		figure->subject, "labels", figure->labels, "figure", figure->figure,
		"unit", figure->unit, "better",
		figure->higher_is_better ? "higher" : "lower", "runs",
		runs_json(figure->runs), "median", median, "min",
		bench_runs_min(figure->runs), "max", bench_runs_max(figure->runs),
		"ceiling", ceiling_json(figure, median));

	/* fails for NULL too */
	return json_array_append_new(results->results, result) ? -ENOMEM : 0;
}

static json_t *buckets_json(const struct gw_hist *hist)
{
	json_t *array = json_array();
	uint64_t upper, count;
	unsigned int step = 0;

	while (gw_hist_next(hist, &step, &upper, &count))
		json_array_append_new(
			array, json_pack("[I, I]", (json_int_t)upper, (json_int_t)count));
	return array;
}

json_t *bench_hist_json(const struct gw_hist *hist)
{
	static const struct {
		const char *name;
		double q;
	} quantiles[] = {{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}};
	json_t *object = json_pack("{s:s, s:I, s:I}", "unit", "ns", "count",
				   (json_int_t)hist->count, "mean",
				   (json_int_t)gw_hist_mean(hist));

	for (size_t i = 0; i < GW_ARRAY_SIZE(quantiles); i++)
		json_object_set_new(
			object, quantiles[i].name,
			json_integer((json_int_t)gw_hist_quantile(hist, quantiles[i].q)));
	json_object_set_new(object, "max", json_integer((json_int_t)hist->max));
	json_object_set_new(object, "buckets", buckets_json(hist));
	return object;
}

/* A member that is a whole number and no less than 0, or 0. */
static uint64_t number_of(const json_t *value)
{
	json_int_t n = json_integer_value(value);

	return n > 0 ? (uint64_t)n : 0;
}

int bench_hist_from_json(const json_t *object, struct gw_hist *ret)
{
	const json_t *buckets = json_object_get(object, "buckets");
	uint64_t count = number_of(json_object_get(object, "count"));
	uint64_t left = GW_MIN(count, BENCH_HIST_COUNT_MAX);
	uint64_t mean = number_of(json_object_get(object, "mean"));
	struct gw_hist hist = {0};
	const json_t *bucket;
	size_t i;

	if (!json_is_array(buckets) || count > BENCH_HIST_COUNT_MAX)
		return -EBADMSG;
	json_array_foreach(buckets, i, bucket)
	{
		uint64_t upper = number_of(json_array_get(bucket, 0));
		uint64_t n = number_of(json_array_get(bucket, 1));

		if (n > left)
			return -EBADMSG;
		for (left -= n; n; n--)
			gw_hist_record(&hist, upper);
	}
	if (left)
		return -EBADMSG;
	/* the steps are exact; what an edge rounded up is not kept */
	hist.max = GW_MIN(hist.max, number_of(json_object_get(object, "max")));
	hist.sum = mean <= hist.max ? mean * count : hist.sum;
	*ret = hist;
	return 0;
}

int bench_results_add_hist(struct bench_results *results, const char *name,
			   json_t *labels, const struct gw_hist *hist)
{
	json_t *object = json_pack("{s:s, s:o}", "name", name, "labels", labels);
	json_t *figures = bench_hist_json(hist);
	int r = json_object_update(object, figures);

	json_decref(figures);
	return json_array_append_new(results->histograms, object) || r ? -ENOMEM : 0;
}
