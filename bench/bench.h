/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `godwit bench`: what the command needs of it. bench_run() measures, alone
 * (both sides in this process) or against a host where bench_serve() runs.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "bench/pages.h"
#include "bench/results.h"
#include "godwit/godwit.h"

enum bench_subject {
	BENCH_RAW,	/* plain TCP streams: the ceiling of all transfers */
	BENCH_STREAM,	/* the engine, memory to memory */
	BENCH_FAULT,	/* post-copy: how long a thread waits for a missing page */
	BENCH_ZERO,	/* looking for zero pages */
	BENCH_LZ4,	/* compression, one core */
	BENCH_DIRTY,	/* finding what was written */
	BENCH_INSTALL,	/* pages into a userfaultfd range */
	BENCH_REGISTER, /* userfaultfd registration, second mappings */
	BENCH_N_SUBJECTS,
};

const char *bench_subject_name(enum bench_subject subject);

enum bench_transport {
	BENCH_TCP,
	BENCH_UNIX,
	BENCH_N_TRANSPORTS,
};

const char *bench_transport_name(enum bench_transport transport);

#define BENCH_CHANNELS_MAX 8U  /* different numbers of channels to measure */
#define BENCH_SCRATCH_MAX  64U /* bytes of the folder's path, with its end */

struct bench_config {
	const char *to;		 /* of a bench_serve(); NULL: both sides are here */
	const char *listen;	 /* bench_serve()'s own address */
	const char *ram;	 /* file or folder to take memory from; NULL: memfds */
	unsigned int subjects;	 /* bits 1 << enum bench_subject */
	unsigned int pages;	 /* bits 1 << enum bench_pages */
	unsigned int transports; /* bits 1 << enum bench_transport */
	unsigned int channels[BENCH_CHANNELS_MAX];
	unsigned int n_channels;
	uint64_t size; /* bytes of guest memory, a multiple of 2 MiB */
	uint64_t seed;
	unsigned int repeat;
	bool cold;  /* the destination's memory is fresh in each run */
	bool quick; /* little of everything: for seeing that it functions */
	/* a folder of ours, for Unix sockets; "": none; see bench_scratch_make() */
	char scratch[BENCH_SCRATCH_MAX];
	/* both are called from the thread in bench_run(); NULL: nobody listens */
	void (*progress)(void *opaque, const char *line); /* what comes next */
	void (*failed)(void *opaque, const char *line);	  /* a subject, and why */
	void *opaque;
};

/*
 * Sets one thing by the name of its option ("size", "channels", …) or, with
 * @name NULL, adds a subject. -EINVAL with @err.
 */
int bench_config_set(struct bench_config *config, const char *name, const char *value,
		     godwit_error *err);
/* Fills in what was not set, and looks whether it all fits together. */
int bench_config_finish(struct bench_config *config, godwit_error *err);

/* A folder for Unix sockets, where the configuration wants one. */
int bench_scratch_make(struct bench_config *config, godwit_error *err);
/* Removes it with all that can be in it. */
void bench_scratch_remove(struct bench_config *config);

/*
 * Measures everything @config names. A subject that fails is told of, and the
 * next one measured. 0, or negative errno with @err: nothing could be, or not
 * all of it. May be left at any moment by ending the process, after
 * bench_scratch_remove().
 */
int bench_run(const struct bench_config *config, struct bench_results *results,
	      godwit_error *err);

/*
 * Serves one bench_run() on another host: 0, or negative errno with @err. Tells
 * @ready (once) where it listens. Strangers are dropped.
 */
int bench_serve(const struct bench_config *config, void (*ready)(const char *address),
		godwit_error *err);
