/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * New pages for a file: the kernel copies to them without clearing them first,
 * and takes no lock on the file, as write() would.
 */
#pragma once

#include "userfault/attach.h"

/* A mapping of the file that nobody looks at: touching it would wait for ever. */
struct gw_filler {
	struct gw_uffd uffd; /* of our own process */
	void *base;	     /* NULL: none */
	uint64_t size;
};

/* 0 or negative errno with @err: the kernel may not let us, so have another way. */
int gw_filler_init(struct gw_filler *filler, int fd, uint64_t offset, uint64_t size,
		   struct gw_err *err);
/* Takes one that is all zeroes. */
void gw_filler_deinit(struct gw_filler *filler);

/*
 * Fills pages from @at of the range on, up to the first that is there already:
 * bytes filled (0: it is the first), or negative errno. By several threads at once.
 */
int64_t gw_filler_fill(const struct gw_filler *filler, uint64_t at, const void *source,
		       uint64_t size);
