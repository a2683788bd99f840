/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writers that tracking cannot see, because they do not go through the page
 * tables of the guest's process: DMA of assigned devices, and other processes.
 */
#pragma once

#include <sys/types.h>

#include "base/err.h"

/* -EOPNOTSUPP with the device named when @pid holds one that writes by DMA. */
int gw_unseen_devices(pid_t pid, struct gw_err *err);
/*
 * Whether @pid has a disk open for direct I/O. Its reads go to pages that were
 * pinned, and counted as written, when they were submitted: a page that is
 * copied between that and the data's arrival is stale at the destination, and
 * nothing tells. 1 with @ret (of @size) saying which and what to do, 0, or
 * negative errno with @err.
 */
int gw_unseen_direct_io(pid_t pid, struct gw_err *err, char *ret, size_t size);
/* -EOPNOTSUPP with the process named when another one may write the file @fd. */
int gw_unseen_writer(pid_t pid, int fd, const char *what, struct gw_err *err);
