/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finds the RAM of a QEMU guest: every memory backend as a file that we open and
 * an address where QEMU has it mapped.
 *
 * QEMU tells the names of its files, but they may be relative, of another mount
 * namespace, of a directory (QEMU then makes a file in it and unlinks it) or
 * missing (memfd). What counts is the mapping: a file found by name is taken only
 * when QEMU has that very inode mapped, and one that no name leads to is reached
 * through the mapping itself.
 *
 * All backends must be shared files, since any other's pages would go into QEMU's
 * own stream, with the guest stopped. From QEMU 8 on x-ignore-shared skips only
 * files that have a name, so memfd will do just for older ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "userfault/maps.h"
#include "vmm/qemu.h"

#define MEMFD_NOT_SKIPPED 8000U

struct backend {
	char id[GW_REGION_NAME_MAX];
	char type[64];	/* "memory-backend-file" */
	char path[256]; /* "" when there is none */
	bool share;
	uint64_t size, offset;
};

/* ---- what QEMU says ---- */

static void qom_string(struct gw_qemu *qemu, const char *path, const char *property,
		       char *ret, size_t size)
{
	json_t *value = NULL;

	ret[0] = '\0';
	if (!gw_qemu_qom_get(qemu, path, property, NULL, &value) && json_is_string(value))
		snprintf(ret, size, "%s", json_string_value(value));
	json_decref(value);
}

/* Properties that this QEMU does not know count as 0. */
static uint64_t qom_number(struct gw_qemu *qemu, const char *path, const char *property)
{
	json_t *value = NULL;
	json_int_t number = 0;

	if (!gw_qemu_qom_get(qemu, path, property, NULL, &value))
		number = json_integer_value(value);
	json_decref(value);
	return number > 0 ? (uint64_t)number : 0;
}

static int backend_read(struct gw_qemu *qemu, const json_t *memdev, struct backend *ret,
			struct gw_err *err)
{
	const char *id = json_string_value(json_object_get(memdev, "id"));
	json_int_t size = json_integer_value(json_object_get(memdev, "size"));
	char path[GW_REGION_NAME_MAX + 16];

	if (!id || !id[0] || strlen(id) >= GW_REGION_NAME_MAX || size <= 0)
		return gw_err_set(
			err, -EPROTO,
			"QEMU's query-memdev lists a backend without a usable id "
			"and size");
	*ret = (struct backend){.size = (uint64_t)size};
	snprintf(ret->id, sizeof(ret->id), "%s", id);
	ret->share = json_is_true(json_object_get(memdev, "share"));
	snprintf(path, sizeof(path), "/objects/%s", id);
	qom_string(qemu, path, "type", ret->type, sizeof(ret->type));
	qom_string(qemu, path, "mem-path", ret->path, sizeof(ret->path));
	ret->offset = qom_number(qemu, path, "offset");
	return 0;
}

/* ---- what will do ---- */

static int refuse(const struct backend *b, const char *what, struct gw_err *err)
{
	/* QEMU's own name for default RAM would puzzle: it was never written */
	const char *id = strcmp(b->id, "pc.ram") ? b->id : "ram";

	return gw_err_set(err, -EOPNOTSUPP,
			  "guest RAM '%s' (%s, %lu MiB) is %s: start QEMU with -object "
			  "memory-backend-file,id=%s,size=%luM,mem-path=/dev/shm/NAME,"
			  "share=on -machine memory-backend=%s",
			  b->id, b->type, b->size >> 20, what, id, b->size >> 20, id);
}

static bool is_memfd(const struct backend *b)
{
	return !strcmp(b->type, "memory-backend-memfd");
}

static int backend_check(const struct gw_qemu *qemu, const struct backend *b,
			 struct gw_err *err)
{
	bool file = !strcmp(b->type, "memory-backend-file");

	if (!file && !is_memfd(b))
		return refuse(b, "no shared file", err);
	if (!b->share)
		return refuse(b, "mapped privately (share=off)", err);
	if (is_memfd(b) && gw_qmp_version(qemu->qmp) >= MEMFD_NOT_SKIPPED)
		return refuse(b,
			      "a file without a name, which this QEMU would put into its "
			      "own migration stream",
			      err);
	return 0;
}

/* ---- opening the file by its name ---- */

/* The file @path when QEMU has it mapped, into @ret->fd: 0; else 1. */
static int open_if_mapped(const struct gw_qemu *qemu, const struct backend *b,
			  const char *path, struct godwit_region *ret)
{
	GW_AUTO_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return 1;
	if (gw_maps_find(qemu->pid, fd, b->offset, b->size, NULL, &ret->address) < 0)
		return 1;
	ret->fd = fd;
	fd = -1;
	return 0;
}

static int open_by_name(const struct gw_qemu *qemu, const struct backend *b,
			struct godwit_region *ret)
{
	char path[320];

	if (b->path[0] == '/') {
		if (!open_if_mapped(qemu, b, b->path, ret))
			return 0;
		snprintf(path, sizeof(path), "/proc/%d/root%s", qemu->pid, b->path);
	} else if (b->path[0]) {
		snprintf(path, sizeof(path), "/proc/%d/cwd/%s", qemu->pid, b->path);
	} else {
		return 1;
	}
	return open_if_mapped(qemu, b, path, ret);
}

/* ---- opening the file by its mapping ---- */

#define CANDIDATES_MAX 256U

struct candidates {
	const struct backend *backend;
	bool by_path; /* only mappings whose path fits the backend */
	unsigned int n;
	struct gw_map maps[CANDIDATES_MAX];
};

static bool path_fits(const struct backend *b, const char *path)
{
	if (is_memfd(b))
		return !strncmp(path, "/memfd:memory-backend-memfd", 27);
	/* in a directory QEMU makes "qemu_back_mem.ID.XXXXXX", and unlinks it */
	return b->path[0] && !strncmp(path, b->path, strlen(b->path)) &&
	       (!strstr(path, "qemu_back_mem") || strstr(path, b->id));
}

static bool seen_before(const struct candidates *c, const struct gw_map *map)
{
	for (unsigned int i = 0; i < c->n; i++)
		if (c->maps[i].inode == map->inode && c->maps[i].dev == map->dev)
			return true;
	return false;
}

static int candidate_add(const struct gw_map *map, void *opaque)
{
	struct candidates *c = opaque;

	if (!map->inode || map->perms[3] != 's' || map->perms[1] != 'w')
		return 0;
	if (map->offset != c->backend->offset || seen_before(c, map))
		return 0;
	if (c->by_path && !path_fits(c->backend, map->path))
		return 0;
	if (c->n < CANDIDATES_MAX)
		c->maps[c->n++] = *map;
	return 0;
}

/* Through the link that the kernel keeps for the mapping: 0 when it is the one. */
static int open_candidate(const struct gw_qemu *qemu, const struct candidates *c,
			  const struct gw_map *map, struct godwit_region *ret)
{
	const struct backend *b = c->backend;
	char path[96];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", qemu->pid, map->start,
		 map->end);
	if (stat(path, &st) < 0 || st.st_ino != map->inode)
		return 1;
	/* without a path the size is all there is to go by */
	if ((is_memfd(b) || !c->by_path) && (uint64_t)st.st_size != b->offset + b->size)
		return 1;
	return open_if_mapped(qemu, b, path, ret);
}

static int open_candidates(const struct gw_qemu *qemu, const struct candidates *c,
			   struct godwit_region *ret, struct gw_err *err)
{
	struct godwit_region found;
	unsigned int n = 0;

	for (unsigned int i = 0; i < c->n; i++) {
		if (open_candidate(qemu, c, &c->maps[i], &found))
			continue;
		if (n++)
			gw_close(&found.fd);
		else
			ret->fd = found.fd, ret->address = found.address;
	}
	if (n > 1)
		return gw_err_set(
			err, -ENOTUNIQ,
			"guest RAM '%s' and another backend of %lu MiB cannot be "
			"told apart: use memory-backend-file with a mem-path each",
			c->backend->id, c->backend->size >> 20);
	return n ? 0 : 1;
}

static int open_by_mapping(const struct gw_qemu *qemu, const struct backend *b,
			   bool by_path, struct godwit_region *ret, struct gw_err *err)
{
	GW_AUTO_FREE struct candidates *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return gw_err_errno(err, -ENOMEM, "QEMU's mappings");
	c->backend = b;
	c->by_path = by_path;
	r = gw_maps_walk(qemu->pid, candidate_add, c, err);
	return r < 0 ? r : open_candidates(qemu, c, ret, err);
}

/* 0, or a negative errno with the reason; positive codes end here. */
static int backend_open(const struct gw_qemu *qemu, const struct backend *b,
			struct godwit_region *ret, struct gw_err *err)
{
	int r = open_by_name(qemu, b, ret);

	if (r)
		r = open_by_mapping(qemu, b, true, ret, err);
	if (r > 0)
		r = open_by_mapping(qemu, b, false, ret, err);
	if (r <= 0)
		return r;
	return gw_err_set(
		err, -ENOENT,
		"the file of guest RAM '%s' (%s) cannot be opened for writing, or "
		"process %d does not have %lu MiB of it mapped: run godwit as "
		"root, and check that this is QEMU's process",
		b->id, b->path[0] ? b->path : b->type, qemu->pid, b->size >> 20);
}

/* ---- all of it ---- */

static int add_backend(struct gw_qemu *qemu, const json_t *memdev,
		       struct gw_qemu_ram *ram, struct gw_err *err)
{
	struct godwit_region *region = &ram->regions[ram->n];
	struct backend b;
	int r;

	if (ram->n == GW_REGIONS_MAX)
		return gw_err_set(err, -E2BIG,
				  "QEMU has more than %d memory backends; that is more "
				  "than godwit moves",
				  GW_REGIONS_MAX);
	r = backend_read(qemu, memdev, &b, err);
	if (!r)
		r = backend_check(qemu, &b, err);
	if (!r)
		r = backend_open(qemu, &b, region, err);
	if (r < 0)
		return r;
	strcpy(ram->names[ram->n], b.id);
	region->name = ram->names[ram->n];
	region->offset = b.offset;
	region->size = b.size;
	ram->n++;
	return 0;
}

/* RAM that no backend holds would be missing at the destination. */
static int sum_check(struct gw_qemu *qemu, const struct gw_qemu_ram *ram,
		     struct gw_err *err)
{
	json_t *summary;
	json_int_t base = 0, plugged = 0;
	uint64_t sum = 0;
	int r;

	r = gw_qmp_execute(qemu->qmp, "query-memory-size-summary", NULL, -1, err,
			   &summary);
	if (r < 0)
		return r;
	base = json_integer_value(json_object_get(summary, "base-memory"));
	plugged = json_integer_value(json_object_get(summary, "plugged-memory"));
	json_decref(summary);
	for (size_t i = 0; i < ram->n; i++)
		sum += ram->regions[i].size;
	if (base < 0 || plugged < 0 || sum < (uint64_t)base + (uint64_t)plugged)
		return gw_err_set(err, -EOPNOTSUPP,
				  "the guest has %lld MiB of RAM, but QEMU's memory "
				  "backends hold only %lu: give all RAM a "
				  "memory-backend-file with share=on",
				  (long long)(base + plugged) >> 20, sum >> 20);
	return 0;
}

int gw_qemu_ram_find(struct gw_qemu *qemu, struct gw_qemu_ram *ram, struct gw_err *err)
{
	json_t *list, *memdev;
	size_t i;
	int r;

	memset(ram, 0, sizeof(*ram));
	r = gw_qmp_execute(qemu->qmp, "query-memdev", NULL, -1, err, &list);
	if (r < 0)
		return r;
	json_array_foreach(list, i, memdev)
	{
		r = add_backend(qemu, memdev, ram, err);
		if (r < 0)
			break;
	}
	json_decref(list);
	return r < 0 ? r : sum_check(qemu, ram, err);
}

void gw_qemu_ram_deinit(struct gw_qemu_ram *ram)
{
	while (ram->n)
		gw_close(&ram->regions[--ram->n].fd);
}
