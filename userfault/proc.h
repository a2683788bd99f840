/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc tells about a process that we want to attach to. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

#define GW_THREADS_MAX 64 /* more are not tried */

/* A number from /proc/@pid/task/@tid/status, such as "TracerPid"; -1 when it is not there. */
long gw_proc_status(pid_t pid, pid_t tid, const char *field);

/* The state letter of a thread ('R', 'S', 'D', 'T', 't', 'Z', 'X'); 0 when it is gone. */
char gw_proc_state(pid_t pid, pid_t tid);

/* Fills @ret with up to GW_THREADS_MAX thread ids, the main thread first: their number. */
unsigned int gw_proc_threads(pid_t pid, pid_t *ret);

/*
 * Says in @err why the kernel may have refused us to trace @pid, and what to
 * do about it. Returns -EPERM, -EBUSY (somebody else traces it) or -ESRCH.
 */
int gw_proc_explain_refusal(pid_t pid, struct gw_err *err);
