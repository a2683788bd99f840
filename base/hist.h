/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A log-linear histogram of durations in nanoseconds: 32 steps to an octave,
 * so a quantile is off by at most 3.2 %; values above 2^40 ns (18 minutes)
 * fall in the last step. One thread records, any thread may read.
 */
#pragma once

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
/* The upper edge of the step that holds quantile @q (0–1); 0 when empty. */
uint64_t gw_hist_quantile(const struct gw_hist *hist, double q);
uint64_t gw_hist_mean(const struct gw_hist *hist);
