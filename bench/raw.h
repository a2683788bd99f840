/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory over plain streams: as fast as sockets can, with nothing of ours. */
#pragma once

#include "bench/memory.h"

/* More streams than any channel option takes are refused. */
#define BENCH_STREAMS_MAX 64U

/*
 * Sends (receives) the first @size bytes of @memory over @n sockets, a thread
 * and a part of the memory for each, and waits for them. 0 or negative errno
 * with @err.
 */
int bench_raw_send(const int *fds, unsigned int n, const struct bench_memory *memory,
		   uint64_t size, struct gw_err *err);
int bench_raw_receive(const int *fds, unsigned int n, const struct bench_memory *memory,
		      uint64_t size, struct gw_err *err);

/* Reads all of it with @n threads, each its part; nothing is sent: seconds, or 0. */
double bench_raw_read(const struct bench_memory *memory, unsigned int n);
