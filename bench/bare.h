/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two halves of a remote fault, each alone and as bare as can be: a page
 * asked for over a socket, and a fault served from memory that is at hand.
 */
#pragma once

#include <stdbool.h>

#include "base/hist.h"
#include "base/err.h"
#include "bench/memory.h"

/* Answers each request on @fd, until the peer ends it (0). @spin: never sleeps. */
int bench_bare_echo(int fd, bool spin, struct gw_err *err);
/* Asks @count times, and notes how long each answer took. */
int bench_bare_ask(int fd, unsigned int count, bool spin, struct gw_hist *hist,
		   struct gw_err *err);

/*
 * Touches the first @count pages of @memory, whose contents are lost, each
 * missing: a second thread reads the fault and installs a copy. Notes how long
 * each touch took.
 */
int bench_bare_fault(struct bench_memory *memory, unsigned int count, bool spin,
		     struct gw_hist *hist, struct gw_err *err);
