/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tracker and the fault server both ask of a userfaultfd. */
#include "userfault/register.h"

#include <inttypes.h>

#include "base/util.h"
#include "userfault/uapi.h"

/* Any page-aligned user address: nothing is ever put there. */
#define PROBE_ADDRESS (1ULL << 36)

bool gw_uffd_gone(const struct gw_uffd *uffd)
{
	/*
	 * Nothing is registered there, so the copy never succeeds; ESRCH comes
	 * first, but for arguments that are wrong in themselves (such as address 0).
	 */
	struct uffdio_copy copy = {
		.dst = PROBE_ADDRESS,
		.src = PROBE_ADDRESS,
		.len = GW_UNIT_SIZE,
	};

	return ioctl(uffd->fd, UFFDIO_COPY, &copy) < 0 && errno == ESRCH;
}

static int register_failed(const struct gw_uffd *uffd, uint64_t address, uint64_t size,
			   int code, struct gw_err *err)
{
	uint64_t end = address + size;

	/* Here the kernel says "no memory" for "no process" as well. */
	if (gw_uffd_gone(uffd))
		return gw_err_set(err, -ESRCH, "process %d has ended", uffd->pid);
	if (code == -EBUSY)
		return gw_err_set(err, code,
				  "another userfaultfd already watches memory %#" PRIx64
				  "-%#" PRIx64
				  " of process %d: is another migration of it "
				  "under way, or does it use userfaultfd itself?",
				  address, end, uffd->pid);
	if (code == -EINVAL)
		return gw_err_set(
			err, code,
			"memory %#" PRIx64 "-%#" PRIx64 " of process %d cannot be "
			"watched: it must be mapped whole, from a memfd, tmpfs or "
			"hugetlbfs, and aligned to its pages",
			address, end, uffd->pid);
	if (code == -EPERM)
		return gw_err_set(err, code,
				  "memory %#" PRIx64 "-%#" PRIx64
				  " of process %d comes from "
				  "a file opened read-only: open it for writing",
				  address, end, uffd->pid);
	return gw_err_errno(err, code,
			    "cannot watch memory %#" PRIx64 "-%#" PRIx64 " of process %d",
			    address, end, uffd->pid);
}

int gw_uffd_register(const struct gw_uffd *uffd, uint64_t address, uint64_t size,
		     uint64_t mode, struct gw_err *err)
{
	struct uffdio_register reg = {
		.range = {.start = address, .len = size},
		.mode = mode,
	};

	if (ioctl(uffd->fd, UFFDIO_REGISTER, &reg) < 0)
		return register_failed(uffd, address, size, -errno, err);
	return 0;
}

int gw_uffd_unregister(const struct gw_uffd *uffd, uint64_t address, uint64_t size)
{
	struct uffdio_range range = {.start = address, .len = size};

	if (ioctl(uffd->fd, UFFDIO_UNREGISTER, &range) == 0)
		return 0;
	return errno == ENOMEM && gw_uffd_gone(uffd) ? -ESRCH : -errno;
}
