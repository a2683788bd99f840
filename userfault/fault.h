/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fault server's hands: registers ranges, reads fault events in batches,
 * installs pages atomically and wakes who waits. It keeps no record of pages:
 * who is missing what is migrate/'s to know.
 *
 * A registered range is closed: whatever the process has not mapped raises an
 * event, also a page that the file behind it has (a MINOR fault). So bytes may
 * be written into the file through another mapping, seen by nobody, and shown
 * when they are whole: gw_fault_continue().
 */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "userfault/attach.h"

struct gw_fault {
	uint64_t address; /* of the page, aligned to 4096 */
};

/* Registers MISSING and MINOR on [@address, +@size) of @uffd's process. */
int gw_fault_register(const struct gw_uffd *uffd, uint64_t address, uint64_t size,
		      struct gw_err *err);
/* Lifts it; threads that wait in the range go on and fault again, unserved. */
int gw_fault_unregister(const struct gw_uffd *uffd, uint64_t address, uint64_t size);

/*
 * Reads up to @max waiting faults without blocking: their number, 0 when there
 * are none, or negative errno (-ESRCH: the process is gone).
 */
int gw_fault_read(const struct gw_uffd *uffd, struct gw_fault *faults, unsigned int max);

/* Positive results of the installers: conditions, not failures. */
enum gw_install {
	GW_INSTALL_PRESENT = 1, /* some page was there already; the rest is installed */
};

/*
 * Installs @size bytes at @address from @source, each page atomically, and
 * wakes its waiters; pages already present are left and their waiters woken.
 * 0, GW_INSTALL_PRESENT, or negative errno: -ESRCH (process gone), -ENOENT
 * (range unmapped), -ENOSPC (the file system behind the memory is full).
 */
int gw_fault_copy(const struct gw_uffd *uffd, uint64_t address, const void *source,
		  uint64_t size);
/*
 * As above, up to the first page that is there already, whose waiters are not
 * woken: bytes installed (0: it is the first), or negative errno.
 */
int64_t gw_fault_fill(const struct gw_uffd *uffd, uint64_t address, const void *source,
		      uint64_t size);
/*
 * Maps @size bytes at @address that the file behind them has already, and wakes
 * their waiters; results as gw_fault_copy()'s, and -EFAULT: the file lacks a page.
 */
int gw_fault_continue(const struct gw_uffd *uffd, uint64_t address, uint64_t size);
/* As gw_fault_copy() with zeroes, where the file has nothing. */
int gw_fault_zero(const struct gw_uffd *uffd, uint64_t address, uint64_t size);
/* Wakes whoever waits in the range: for pages that are present already. */
int gw_fault_wake(const struct gw_uffd *uffd, uint64_t address, uint64_t size);
