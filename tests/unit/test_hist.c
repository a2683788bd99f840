/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Quantiles against sorted values. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/hist.h"
#include "base/util.h"

#define N 20000

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void assert_quantiles(unsigned int bits)
{
	static const double quantiles[] = {0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999};
	static uint64_t values[N];
	struct gw_hist hist = {0};
	uint64_t state = 1234567, sum = 0;

	/* Spread over all octaves up to 2^bits. */
	for (int i = 0; i < N; i++) {
		uint64_t r = next_random(&state);

		values[i] = (r >> 8) % ((1ULL << (1 + r % bits)));
		gw_hist_record(&hist, values[i]);
		sum += values[i];
	}
	qsort(values, N, sizeof(values[0]), compare);
	cr_assert_eq(hist.count, N);
	cr_assert_eq(hist.max, values[N - 1]);
	cr_assert_eq(gw_hist_mean(&hist), sum / N);
	for (size_t i = 0; i < GW_ARRAY_SIZE(quantiles); i++) {
		double exact = (double)values[(size_t)(quantiles[i] * N)];
		double got = (double)gw_hist_quantile(&hist, quantiles[i]);

		cr_assert(got >= exact && got <= exact * 1.032,
			  "bits %u, q %g: %g for %g", bits, quantiles[i], got, exact);
	}
	cr_assert_eq(gw_hist_quantile(&hist, 1), values[N - 1]);
}

Test(hist, quantiles_are_off_by_at_most_3_2_percent)
{
	for (unsigned int bits = 1; bits < 40; bits++)
		assert_quantiles(bits);
}

Test(hist, one_value_is_every_quantile)
{
	for (unsigned int shift = 0; shift < 40; shift++) {
		for (int delta = -1; delta <= 1; delta++) {
			uint64_t value = (1ULL << shift) + (uint64_t)delta;
			struct gw_hist hist = {0};

			gw_hist_record(&hist, value);
			cr_assert_eq(gw_hist_quantile(&hist, 0), value);
			cr_assert_eq(gw_hist_quantile(&hist, 0.5), value);
			cr_assert_eq(gw_hist_quantile(&hist, 1), value);
		}
	}
}

Test(hist, nothing_recorded_is_zero)
{
	struct gw_hist hist = {0};

	cr_assert_eq(gw_hist_quantile(&hist, 0.5), 0);
	cr_assert_eq(gw_hist_mean(&hist), 0);
}

Test(hist, values_beyond_the_range_fall_in_the_last_step)
{
	struct gw_hist hist = {0};

	gw_hist_record(&hist, 1);
	gw_hist_record(&hist, UINT64_MAX / 4);
	cr_assert_eq(hist.count, 2);
	cr_assert_eq(hist.max, UINT64_MAX / 4);
	cr_assert_eq(hist.steps[GW_HIST_STEPS - 1], 1);
	cr_assert_geq(gw_hist_quantile(&hist, 0.9), (1ULL << 40) - 1);
}

Test(hist, walking_the_steps_meets_every_value_once_and_in_order)
{
	static const uint64_t values[] = {0, 7, 7, 7, 5000, 5001, 70000, 1ULL << 50};
	static const uint64_t counts[] = {1, 3, 2, 1, 1};
	struct gw_hist hist = {0};
	uint64_t upper, count, last = 0;
	unsigned int step = 0, n = 0;

	cr_assert_not(gw_hist_next(&hist, &step, &upper, &count));
	for (size_t i = 0; i < GW_ARRAY_SIZE(values); i++)
		gw_hist_record(&hist, values[i]);
	for (size_t i = 0; gw_hist_next(&hist, &step, &upper, &count); n += count, i++) {
		uint64_t longest = values[n + count - 1];

		cr_assert_eq(count, counts[i]);
		cr_assert(upper >= longest && (double)upper <= (double)longest * 1.032);
		cr_assert(!i || upper > last);
		last = upper;
	}
	cr_assert_eq(n, GW_ARRAY_SIZE(values));
	cr_assert_eq(last, 1ULL << 50, "the last step has no edge of its own");
	cr_assert_not(gw_hist_next(&hist, &step, &upper, &count));
}

Test(hist, histograms_add_up)
{
	struct gw_hist parts[3] = {0}, whole = {0}, sum = {0};
	uint64_t state = 42;

	for (int i = 0; i < N; i++) {
		uint64_t value = next_random(&state) >> (next_random(&state) % 64);

		value >>= 16; /* the sum has to fit */
		gw_hist_record(&parts[i % 2], value);
		gw_hist_record(&whole, value);
	}
	for (size_t i = 0; i < GW_ARRAY_SIZE(parts); i++)
		gw_hist_add(&sum, &parts[i]);
	cr_assert_eq(memcmp(&sum, &whole, sizeof(sum)), 0);
}
