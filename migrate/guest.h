/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest as the engine sees it: a process, its regions, and callbacks. Made by
 * an embedding VMM (godwit_guest_new()) or by vmm/.
 */
#pragma once

#include "base/err.h"
#include "godwit/godwit.h"

#define GW_REGIONS_MAX	   64
#define GW_REGION_NAME_MAX 64

struct gw_region {
	char name[GW_REGION_NAME_MAX];
	int fd; /* our own duplicate */
	uint64_t offset, size, address, page_size;
};

struct godwit_guest {
	pid_t pid; /* never 0 */
	unsigned int n_regions;
	struct gw_region *regions;
	/*
	 * Why its memory cannot be copied while it runs, though post-copy and
	 * offline are safe: one line with the remedy. "" when it can.
	 */
	char untracked[GW_ERR_TEXT_MAX];
	struct godwit_guest_ops ops;
	void *opaque;
	void (*free_opaque)(void *opaque); /* NULL: the caller's own */
};
