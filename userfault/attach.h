/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Getting a userfaultfd that belongs to another, running process.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/log.h"

/* Bits of a userfaultfd's API that callers ask for; missing ones are named in the error. */
enum gw_uffd_need {
	GW_UFFD_TRACK,	/* asynchronous write-protection and PAGEMAP_SCAN: Linux 6.7 */
	GW_UFFD_FAULTS, /* MISSING and MINOR on shmem and hugetlbfs: Linux 5.14 */
};

struct gw_uffd {
	int fd;	       /* ours; -1: none */
	pid_t pid;     /* whose address space it serves */
	int remote_fd; /* the number it has in that process; -1: closed there */
};

/*
 * Makes @pid (0 or our own: a plain system call) create a userfaultfd, takes
 * the descriptor and does the UFFDIO_API handshake. With @keep the process
 * keeps its reference, so that faulting threads go on waiting when we die;
 * without it the kernel removes all tracking when we do.
 * Errors (-EPERM, -ENOSYS, -ESRCH, -EBUSY, -ETIMEDOUT, …) name the remedy.
 */
int gw_uffd_attach(pid_t pid, enum gw_uffd_need need, bool keep, const struct gw_log *log,
		   struct gw_err *err, struct gw_uffd *ret);

/*
 * Closes our descriptor and, where it was kept, the process's too. Only when no
 * page is missing any more: what waits on it goes on, and missing pages read as
 * zeroes. 0, or negative errno with @err when the process could not be reached
 * (gone is fine).
 */
int gw_uffd_release(struct gw_uffd *uffd, struct gw_err *err);

/* Closes our descriptor alone: the process keeps its own and its threads wait. */
void gw_uffd_detach(struct gw_uffd *uffd);
