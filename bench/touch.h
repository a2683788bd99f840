/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A guest that is one thread, which touches missing pages and looks at its watch. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/hist.h"
#include "bench/memory.h"
#include "bench/pages.h"
#include "godwit/godwit.h"

struct bench_toucher {
	const struct bench_memory *memory;
	godwit_dest *dest; /* borrowed: asked whether pages are still missing */
	uint64_t
		touches; /* that missed, and then it rests; 0: as long as there are any */
	struct bench_rng rng;
	void (*rested)(void *opaque); /* called by the thread, once */
	void *opaque;
	/* the thread's until it has ended */
	struct gw_hist hist;
	pthread_t thread;
	bool started;
};

/* 0 or negative errno. */
int bench_toucher_start(struct bench_toucher *toucher);
/* Waits until it has ended, if it was started; not while pages never come. */
void bench_toucher_join(struct bench_toucher *toucher);
