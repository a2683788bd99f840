/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A log-linear histogram of durations in nanoseconds. */
#include "base/hist.h"

#include "base/util.h"

#define SUB_COUNT (1U << GW_HIST_SUB_BITS)

static unsigned int step_of(uint64_t ns)
{
	unsigned int octave, step;

	if (ns < SUB_COUNT)
		return (unsigned int)ns;
	octave = 63 - (unsigned int)__builtin_clzll(ns) - GW_HIST_SUB_BITS;
	step = (octave + 1) * SUB_COUNT + (unsigned int)((ns >> octave) - SUB_COUNT);
	return GW_MIN(step, GW_HIST_STEPS - 1U);
}

static uint64_t upper_edge(unsigned int step)
{
	unsigned int octave;

	if (step < SUB_COUNT)
		return step;
	octave = step / SUB_COUNT - 1;
	return ((uint64_t)(SUB_COUNT + step % SUB_COUNT + 1) << octave) - 1;
}

/* One writer: relaxed stores are enough for readers to see whole numbers. */
static void bump(uint64_t *field, uint64_t value)
{
	__atomic_store_n(field, value, __ATOMIC_RELAXED);
}

void gw_hist_record(struct gw_hist *hist, uint64_t ns)
{
	uint32_t *step = &hist->steps[step_of(ns)];

	__atomic_store_n(step, *step + 1, __ATOMIC_RELAXED);
	bump(&hist->sum, hist->sum + ns);
	bump(&hist->max, GW_MAX(hist->max, ns));
	bump(&hist->count, hist->count + 1);
}

void gw_hist_add(struct gw_hist *to, const struct gw_hist *from)
{
	uint64_t max = __atomic_load_n(&from->max, __ATOMIC_RELAXED);

	for (unsigned int i = 0; i < GW_HIST_STEPS; i++) {
		uint32_t n = __atomic_load_n(&from->steps[i], __ATOMIC_RELAXED);

		to->steps[i] += n;
		to->count += n;
	}
	to->sum += __atomic_load_n(&from->sum, __ATOMIC_RELAXED);
	to->max = GW_MAX(to->max, max);
}

uint64_t gw_hist_quantile(const struct gw_hist *hist, double q)
{
	uint64_t count = __atomic_load_n(&hist->count, __ATOMIC_RELAXED);
	uint64_t max = __atomic_load_n(&hist->max, __ATOMIC_RELAXED);
	uint64_t want = (uint64_t)(q * (double)count), seen = 0;
	unsigned int i;

	if (!count)
		return 0;
	for (i = 0; i < GW_HIST_STEPS; i++) {
		seen += __atomic_load_n(&hist->steps[i], __ATOMIC_RELAXED);
		if (seen > want)
			return GW_MIN(upper_edge(i), max);
	}
	return max;
}

uint64_t gw_hist_mean(const struct gw_hist *hist)
{
	uint64_t count = __atomic_load_n(&hist->count, __ATOMIC_RELAXED);

	return count ? __atomic_load_n(&hist->sum, __ATOMIC_RELAXED) / count : 0;
}

bool gw_hist_next(const struct gw_hist *hist, unsigned int *step, uint64_t *ret_upper,
		  uint64_t *ret_count)
{
	uint64_t max = __atomic_load_n(&hist->max, __ATOMIC_RELAXED);

	for (unsigned int i = *step; i < GW_HIST_STEPS; i++) {
		uint32_t n = __atomic_load_n(&hist->steps[i], __ATOMIC_RELAXED);

		if (!n)
			continue;
		*step = i + 1;
		*ret_upper = i + 1 < GW_HIST_STEPS ? upper_edge(i)
						   : GW_MAX(upper_edge(i), max);
		*ret_count = n;
		return true;
	}
	return false;
}
