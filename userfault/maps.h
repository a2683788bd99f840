/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process has mapped: /proc/PID/maps, read and searched. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct gw_map {
	uint64_t start, end; /* addresses */
	uint64_t offset;     /* in the file */
	uint64_t dev, inode; /* as stat() has them; inode 0: anonymous */
	char perms[5];	     /* "rw-s" */
	char path[256];	     /* "" when there is none; cut when longer */
};

/* Parses one line of /proc/PID/maps: 0 or -EINVAL. */
int gw_map_parse(const char *line, struct gw_map *ret);

/*
 * Calls @fn for each mapping of @pid until it returns non-zero, which is then
 * returned. 0 at the end; negative errno with @err when maps cannot be read.
 */
int gw_maps_walk(pid_t pid, int (*fn)(const struct gw_map *map, void *opaque),
		 void *opaque, struct gw_err *err);

/*
 * Where @pid has bytes [@offset, @offset + @size) of the file behind @fd mapped
 * shared and writable, in one piece (neighbouring mappings of consecutive
 * offsets count as one). -ENOENT with @err: nowhere.
 */
int gw_maps_find(pid_t pid, int fd, uint64_t offset, uint64_t size, struct gw_err *err,
		 uint64_t *ret_address);

/*
 * Another process than @pid and ourselves that has the file mapped shared and
 * writable, as a vhost-user backend does: its pid, or 0 when none was seen.
 * Processes we may not look at are passed over.
 */
pid_t gw_maps_other_writer(pid_t pid, int fd);

/* Page size of the file system behind @fd: 4096, or a huge page's on hugetlbfs. */
int gw_maps_page_size(int fd, struct gw_err *err, uint64_t *ret_size);
