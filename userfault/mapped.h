/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a process has in its page tables, and having it forget that: a page that
 * is mapped there raises no fault, whatever is registered.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/log.h"

struct gw_mapped {
	pid_t pid;
	int pagemap; /* -1: the kernel cannot tell (before Linux 6.7) */
};

/* 0 or negative errno with @err. A kernel that cannot tell is no failure. */
int gw_mapped_init(struct gw_mapped *mapped, pid_t pid, struct gw_err *err);
void gw_mapped_deinit(struct gw_mapped *mapped);

/*
 * The first stretch in [@at, @end) that the process has mapped: 1 with its
 * bounds, 0 when there is none, or negative errno. Where the kernel cannot tell,
 * all of it counts as mapped.
 */
int gw_mapped_next(const struct gw_mapped *mapped, uint64_t at, uint64_t end,
		   uint64_t *ret_start, uint64_t *ret_end);

/*
 * Has the process drop [@address, +@size) from its page tables (MADV_DONTNEED);
 * the memory of a shared mapping stays as it is. One of its threads is held
 * meanwhile: about 16 ms a GiB of small pages. Negative errno when it could not
 * be done: the pages are mapped still.
 */
int gw_mapped_forget(const struct gw_mapped *mapped, uint64_t address, uint64_t size,
		     const struct gw_log *log);
