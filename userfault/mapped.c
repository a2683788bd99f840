/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process has in its page tables, by PAGEMAP_SCAN on its page map. */
#include "userfault/mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "userfault/inject.h"
#include "userfault/uapi.h"

/*
 * A page that the kernel is moving (compaction does) is not there for a moment,
 * and is again afterwards without a fault. Of shared memory nothing else is
 * called swapped: what is really swapped out has no entry at all.
 */
#define MAPPED (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)

int gw_mapped_init(struct gw_mapped *mapped, pid_t pid, struct gw_err *err)
{
	struct pm_scan_arg arg = {.size = sizeof(arg)};
	char path[64];

	mapped->pid = pid ? pid : getpid();
	snprintf(path, sizeof(path), "/proc/%d/pagemap", mapped->pid);
	mapped->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	/* A kernel without page maps; or there is no such process. */
	if (mapped->pagemap < 0 && errno == ENOENT && !kill(mapped->pid, 0))
		return 0;
	if (mapped->pagemap < 0)
		return gw_err_errno(err, errno == ENOENT ? -ESRCH : -errno,
				    "cannot open the page map of process %d",
				    mapped->pid);
	/* Nothing to scan: just whether the kernel knows the request. */
	if (ioctl(mapped->pagemap, PAGEMAP_SCAN, &arg) < 0 && errno == ENOTTY)
		gw_close(&mapped->pagemap);
	return 0;
}

void gw_mapped_deinit(struct gw_mapped *mapped)
{
	gw_close(&mapped->pagemap);
}

int gw_mapped_next(const struct gw_mapped *mapped, uint64_t at, uint64_t end,
		   uint64_t *ret_start, uint64_t *ret_end)
{
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = at,
		.end = end,
		.vec = (uint64_t)(uintptr_t)&region,
		.vec_len = 1,
		.category_anyof_mask = MAPPED,
		.return_mask = MAPPED,
	};
	int n;

	if (mapped->pagemap < 0) {
		*ret_start = at;
		*ret_end = end;
		return at < end;
	}
	do
		n = ioctl(mapped->pagemap, PAGEMAP_SCAN, &arg);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	*ret_start = GW_MAX(region.start, at);
	*ret_end = GW_MIN(region.end, end);
	return 1;
}

struct forget {
	uint64_t address, size;
};

static int forget_held(struct gw_inject *in, void *opaque)
{
	const struct forget *forget = opaque;
	const uint64_t args[] = {forget->address, forget->size, MADV_DONTNEED, 0};
	long ret;
	int r = gw_inject_syscall(in, SYS_madvise, args, &ret);

	return r < 0 ? r : (int)ret;
}

int gw_mapped_forget(const struct gw_mapped *mapped, uint64_t address, uint64_t size,
		     const struct gw_log *log)
{
	struct forget forget = {.address = address, .size = size};

	if (mapped->pid == getpid())
		return madvise((void *)(uintptr_t)address, size, MADV_DONTNEED) ? -errno
										: 0;
	return gw_inject_run(mapped->pid, forget_held, &forget, log, NULL);
}
