/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the subjects share while bench_run() goes through them. */
#pragma once

#include "base/hist.h"
#include "bench/bench.h"
#include "bench/memory.h"
#include "bench/peer.h"

struct bench {
	const struct bench_config *config;
	struct bench_results *results;
	struct bench_peer peer;	    /* open for raw, stream and fault */
	struct bench_memory memory; /* of the source; of local subjects */
	unsigned int failed;	    /* subjects */
};

/* Each measures one subject: 0 or negative errno with @err. */
int bench_run_raw(struct bench *bench, struct gw_err *err);
int bench_run_stream(struct bench *bench, struct gw_err *err);
int bench_run_fault(struct bench *bench, struct gw_err *err);
int bench_run_zero(struct bench *bench, struct gw_err *err);
int bench_run_lz4(struct bench *bench, struct gw_err *err);
int bench_run_dirty(struct bench *bench, struct gw_err *err);
int bench_run_install(struct bench *bench, struct gw_err *err);
int bench_run_register(struct bench *bench, struct gw_err *err);

/* Tells the user what comes next. */
void bench_say(const struct bench *bench, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* At least a nanosecond, so that it can be divided by. */
double bench_seconds_since(uint64_t started);

/*
 * A figure of @subject; whether more of it is better follows from @unit. Takes
 * @labels. @what (NULL: none) is what it is compared to, as @ceiling has it.
 */
int bench_report(struct bench *bench, const char *subject, json_t *labels,
		 const char *figure, const char *unit, const struct bench_runs *runs,
		 const char *what, const struct bench_runs *ceiling);

/* What one transfer took. */
struct bench_cost {
	double seconds;
	double cpu;	 /* s: of this side; of both where they are one process */
	double peer_cpu; /* s: of the other host; 0 where there is none */
};

/* All memory over @n plain streams, once. */
int bench_raw_once(struct bench *bench, enum bench_transport transport, unsigned int n,
		   struct gw_err *err, struct bench_cost *ret);

/* Several transfers of the same kind. */
struct bench_costs {
	struct bench_runs rate;	    /* bytes/s */
	struct bench_runs cpu;	    /* s/GiB */
	struct bench_runs peer_cpu; /* s/GiB */
};

void bench_costs_add(struct bench_costs *costs, uint64_t bytes,
		     const struct bench_cost *cost);
/*
 * The figures "throughput" and "cpu" of @subject. Takes @labels. @ceiling (NULL:
 * none) is what they are compared to, @what in words; one of its CPU time only
 * where it did the same work.
 */
int bench_costs_report(struct bench *bench, const char *subject, json_t *labels,
		       const struct bench_costs *costs, const char *what,
		       const struct bench_costs *ceiling);
