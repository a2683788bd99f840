/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* New pages for a file, by UFFDIO_COPY into a mapping of our own. */
#include "userfault/filler.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "userfault/fault.h"

int gw_filler_init(struct gw_filler *filler, int fd, uint64_t offset, uint64_t size,
		   struct gw_err *err)
{
	void *base =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
	int r;

	*filler = (struct gw_filler){0};
	if (base == MAP_FAILED)
		return gw_err_errno(err, -errno, "mapping %llu bytes to fill",
				    (unsigned long long)size);
	r = gw_uffd_attach(getpid(), GW_UFFD_FAULTS, false, NULL, err, &filler->uffd);
	if (r) {
		munmap(base, size);
		return r;
	}
	filler->base = base;
	filler->size = size;
	r = gw_fault_register(&filler->uffd, (uint64_t)(uintptr_t)base, size, err);
	if (r)
		gw_filler_deinit(filler);
	return r;
}

void gw_filler_deinit(struct gw_filler *filler)
{
	if (!filler->base)
		return;
	munmap(filler->base, filler->size);
	gw_uffd_detach(&filler->uffd);
	filler->base = NULL;
}

int64_t gw_filler_fill(const struct gw_filler *filler, uint64_t at, const void *source,
		       uint64_t size)
{
	return gw_fault_fill(&filler->uffd, (uint64_t)(uintptr_t)filler->base + at,
			     source, size);
}
