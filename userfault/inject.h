/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Having another process run a few system calls for us. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/log.h"

/* A thread of the process, held still. Only inside a gw_inject_fn. */
struct gw_inject;

/* Runs while the thread is held, in a thread of its own; what it returns is passed on. */
typedef int (*gw_inject_fn)(struct gw_inject *in, void *opaque);

/*
 * Holds one thread of @pid, calls @fn, and lets the thread go exactly as it
 * was. Negative errno with @err when no thread could be held or let go as it
 * was; else what @fn returned (@err is then @fn's to fill).
 */
int gw_inject_run(pid_t pid, gw_inject_fn fn, void *opaque, const struct gw_log *log,
		  struct gw_err *err);

/*
 * Has the held thread make system call @nr with up to four arguments. *@ret is
 * what the kernel answered there (-errno included). Negative errno when the
 * call could not be made (-ESRCH: the process has ended).
 */
int gw_inject_syscall(struct gw_inject *in, long nr, const uint64_t args[4], long *ret);

/*
 * Puts @size bytes (64 at most) into the held thread's memory until it is let
 * go. Once for each hold.
 */
int gw_inject_bytes(struct gw_inject *in, const void *bytes, size_t size,
		    uint64_t *ret_address);
