/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A source of the engine with everything it needs. */
#pragma once

#include "bench/memory.h"
#include "godwit/godwit.h"

struct bench_source {
	godwit_guest *guest;
	godwit_options *options;
	godwit_source *handle;
};

/* @bandwidth: NULL, or a limit. Also after a failure to be freed. */
int bench_source_init(struct bench_source *source, const struct bench_memory *memory,
		      const char *mode, const char *channels, const char *bandwidth,
		      godwit_error *err);
void bench_source_deinit(struct bench_source *source);
