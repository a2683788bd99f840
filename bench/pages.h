/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory contents to measure with, made from a seed. */
#pragma once

#include <stdint.h>

enum bench_pages {
	BENCH_PAGES_RANDOM, /* incompressible */
	BENCH_PAGES_ZERO,   /* allocated, all zero */
	BENCH_PAGES_HALF,   /* runs of random and of zero pages, as many of each */
	BENCH_PAGES_TEXT,   /* words: LZ4 makes about half of them */
	BENCH_PAGES_REAL,   /* a mixture, see pages.c */
	BENCH_N_PAGES,
};

const char *bench_pages_name(enum bench_pages kind);

/* A stream of pseudo-random numbers; any seed will do. */
struct bench_rng {
	uint64_t state;
};

uint64_t bench_rng_next(struct bench_rng *rng);
/* Evenly from 0 to @below - 1. */
uint64_t bench_rng_below(struct bench_rng *rng, uint64_t below);

/* Fills @size bytes (a multiple of 4096), the same ones for the same seed. */
void bench_pages_fill(enum bench_pages kind, uint64_t seed, void *memory, uint64_t size);
