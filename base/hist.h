/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A log-linear histogram of durations in nanoseconds: 32 steps to an octave,
 * so a quantile is off by at most 3.2 %; values above 2^40 ns (18 minutes)
 * fall in the last step. One thread records, any thread may read.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define GW_HIST_SUB_BITS 5
#define GW_HIST_OCTAVES	 36
#define GW_HIST_STEPS	 (GW_HIST_OCTAVES << GW_HIST_SUB_BITS)

struct gw_hist {
	uint64_t count;
	uint64_t sum;
	uint64_t max;
	uint32_t steps[GW_HIST_STEPS];
};

void gw_hist_record(struct gw_hist *hist, uint64_t ns);
/*
 * Adds what @from holds to @to, which nobody records to. @from may be recorded
 * to meanwhile: the count is then that of the steps as they were seen.
 */
void gw_hist_add(struct gw_hist *to, const struct gw_hist *from);

/* The upper edge of the step that holds quantile @q (0–1); 0 when empty. */
uint64_t gw_hist_quantile(const struct gw_hist *hist, double q);
uint64_t gw_hist_mean(const struct gw_hist *hist);

/*
 * The next step that is not empty, from *@step on, which starts at 0 and is set
 * behind it. @ret_upper: the largest value (ns) that the step can hold; for the
 * last of all steps, which has no edge, the largest that was recorded. False: no
 * more.
 */
bool gw_hist_next(const struct gw_hist *hist, unsigned int *step, uint64_t *ret_upper,
		  uint64_t *ret_count);
