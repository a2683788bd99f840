/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A struct godwit_stats as JSON, as one line of progress, and as a report. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "cli/cli.h"

/* Statistics with the histogram that belongs to them. */
struct stats_all {
	struct godwit_stats stats;
	struct godwit_bucket faults[GODWIT_BUCKETS_MAX];
	size_t n_faults; /* buckets */
};

/* An object whose names are the fields'; NULL when memory is out. */
json_t *stats_to_json(const struct godwit_stats *stats);
/* As stats_to_json(), with "fault_histogram" besides. */
json_t *stats_all_to_json(const struct stats_all *all);
/* What @object does not have is 0. 0 or -EINVAL: no object, or an unknown state. */
int stats_from_json(const json_t *object, struct godwit_stats *ret);

/* A string, even of bytes that are no UTF-8; NULL when memory is out. */
json_t *stats_text_json(const char *text);

/* "precopy, round 2: 43.1 %, 1.20 GiB/s, …"; ASCII, no newline. */
void stats_line(const struct godwit_stats *stats, enum godwit_side side, char *buf,
		size_t size);

/*
 * Nanoseconds until nothing remains at the present rates; UINT64_MAX when the
 * guest writes as fast as memory moves.
 */
uint64_t stats_eta(const struct godwit_stats *stats);

/* The report of a migration: several lines, each indented by two. */
void stats_print(FILE *out, const struct godwit_stats *stats);
