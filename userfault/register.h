/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tracker and the fault server both ask of a userfaultfd. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "userfault/attach.h"

/*
 * Registers [@address, +@size) with @mode (UFFDIO_REGISTER_MODE_*): 0, or
 * negative errno with @err (-ESRCH: the process is gone, -EBUSY: another
 * userfaultfd has the range).
 */
int gw_uffd_register(const struct gw_uffd *uffd, uint64_t address, uint64_t size,
		     uint64_t mode, struct gw_err *err);
/* 0 or negative errno. */
int gw_uffd_unregister(const struct gw_uffd *uffd, uint64_t address, uint64_t size);

/*
 * Whether the address space @uffd serves has ended (exit or exec). The kernel
 * says so only in some calls; a read just finds nothing for ever. Costs one
 * system call that changes nothing.
 */
bool gw_uffd_gone(const struct gw_uffd *uffd);
