/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest: its process, its regions and its callbacks, checked once when it
 * is made, so that nothing later has to doubt them.
 *
 * A region counts as valid when its name can go over the wire, its file can be
 * mapped by us as well, and the guest's process has the named bytes of that very
 * file mapped shared at the named address. Regions may neither share addresses
 * nor bytes of a file: a page belongs to one region.
 */
#include "migrate/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/util.h"
#include "userfault/maps.h"

/* ---- one region ---- */

static int name_check(const char *name, size_t index, struct gw_err *err)
{
	if (!name || !name[0])
		return gw_err_set(err, -EINVAL, "region %zu has no name", index);
	if (strlen(name) >= GW_REGION_NAME_MAX)
		return gw_err_set(err, -ENAMETOOLONG,
				  "region '%.80s': a name has at most %d bytes", name,
				  GW_REGION_NAME_MAX - 1);
	return 0;
}

static int page_size_find(struct gw_region *region, struct gw_err *err)
{
	uint64_t actual;
	int r = gw_maps_page_size(region->fd, err, &actual);

	if (r < 0)
		return gw_err_prefix(err, "region '%s'", region->name), r;
	if (region->page_size && region->page_size != actual)
		return gw_err_set(err, -EINVAL,
				  "region '%s': page size %lu given, but its file has "
				  "pages of %lu bytes",
				  region->name, region->page_size, actual);
	region->page_size = actual;
	return 0;
}

/* Needs page_size. */
static int extent_check(const struct gw_region *region, struct gw_err *err)
{
	uint64_t mask = region->page_size - 1;

	if (!region->size || region->size & mask)
		return gw_err_set(err, -EINVAL,
				  "region '%s': its size of %lu bytes is no multiple of "
				  "its page size, %lu",
				  region->name, region->size, region->page_size);
	if (region->offset & mask || region->address & mask)
		return gw_err_set(
			err, -EINVAL,
			"region '%s': offset %#lx or address %#lx is not aligned "
			"to its page size, %lu",
			region->name, region->offset, region->address, region->page_size);
	if (region->offset + region->size < region->size ||
	    region->address + region->size < region->size)
		return gw_err_set(err, -EINVAL, "region '%s' wraps around", region->name);
	return 0;
}

static int file_check(const struct gw_region *region, struct gw_err *err)
{
	int flags = fcntl(region->fd, F_GETFL);
	struct stat st;

	if (flags < 0 || fstat(region->fd, &st) < 0)
		return gw_err_errno(err, -errno, "region '%s'", region->name);
	if (!S_ISREG(st.st_mode))
		return gw_err_set(err, -EINVAL,
				  "region '%s': not a file, memfd or shm object",
				  region->name);
	if ((flags & O_ACCMODE) != O_RDWR)
		return gw_err_set(err, -EACCES,
				  "region '%s': its file is not open for reading and "
				  "writing",
				  region->name);
	if ((uint64_t)st.st_size < region->offset + region->size)
		return gw_err_set(err, -EINVAL,
				  "region '%s' ends at byte %lu of its file, which has "
				  "only %lu",
				  region->name, region->offset + region->size,
				  (uint64_t)st.st_size);
	return 0;
}

/* A file system may allow neither shared nor writable mappings; find out now. */
static int mapping_try(const struct gw_region *region, struct gw_err *err)
{
	void *p = mmap(NULL, region->page_size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_NORESERVE, region->fd, (off_t)region->offset);

	if (p == MAP_FAILED)
		return gw_err_errno(err, -errno, "region '%s': mapping its file",
				    region->name);
	munmap(p, region->page_size);
	return 0;
}

struct cover {
	const struct gw_region *region;
	struct stat st;
	uint64_t covered; /* address up to which the region's bytes were seen */
};

/* Mappings come in the order of their addresses, so a gap is never filled later. */
static int cover_map(const struct gw_map *map, void *opaque)
{
	struct cover *c = opaque;
	const struct gw_region *region = c->region;

	if (map->end <= c->covered || map->start > c->covered)
		return 0;
	if (map->inode != c->st.st_ino || map->dev != c->st.st_dev)
		return 0;
	if (map->perms[3] != 's' || map->perms[1] != 'w')
		return 0;
	if (map->offset + (c->covered - map->start) !=
	    region->offset + (c->covered - region->address))
		return 0;
	c->covered = map->end;
	return c->covered >= region->address + region->size;
}

static int mapped_check(pid_t pid, const struct gw_region *region, struct gw_err *err)
{
	struct cover c = {.region = region, .covered = region->address};
	uint64_t address;
	int r;

	/* the usual case; a file that is mapped twice needs the closer look */
	if (!gw_maps_find(pid, region->fd, region->offset, region->size, NULL,
			  &address) &&
	    address == region->address)
		return 0;
	if (fstat(region->fd, &c.st) < 0)
		return gw_err_errno(err, -errno, "region '%s'", region->name);
	r = gw_maps_walk(pid, cover_map, &c, err);
	if (r < 0)
		return gw_err_prefix(err, "region '%s'", region->name), r;
	if (!r)
		return gw_err_set(err, -EFAULT,
				  "region '%s': process %d does not have its file mapped "
				  "shared and writable at %#lx-%#lx (it is at %#lx)",
				  region->name, pid, region->address,
				  region->address + region->size, c.covered);
	return 0;
}

static int region_init(struct gw_region *region, const struct godwit_region *from,
		       size_t index, pid_t pid, struct gw_err *err)
{
	int r;

	r = name_check(from->name, index, err);
	if (r < 0)
		return r;
	strcpy(region->name, from->name);
	region->offset = from->offset;
	region->size = from->size;
	region->address = from->address;
	region->page_size = from->page_size;
	region->fd = fcntl(from->fd, F_DUPFD_CLOEXEC, 0);
	if (region->fd < 0)
		return gw_err_errno(err, -errno, "region '%s': its descriptor %d",
				    region->name, from->fd);
	r = page_size_find(region, err);
	if (!r)
		r = extent_check(region, err);
	if (!r)
		r = file_check(region, err);
	if (!r)
		r = mapping_try(region, err);
	if (!r)
		r = mapped_check(pid, region, err);
	return r;
}

/* ---- regions among themselves ---- */

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a < b + b_size && b < a + a_size;
}

static bool same_file(int a, int b)
{
	struct stat sa, sb;

	return !fstat(a, &sa) && !fstat(b, &sb) && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

static int pair_check(const struct gw_region *a, const struct gw_region *b,
		      struct gw_err *err)
{
	if (!strcmp(a->name, b->name))
		return gw_err_set(err, -EINVAL, "two regions are called '%s'", a->name);
	if (overlap(a->address, a->size, b->address, b->size))
		return gw_err_set(err, -EINVAL, "regions '%s' and '%s' share addresses",
				  a->name, b->name);
	if (overlap(a->offset, a->size, b->offset, b->size) && same_file(a->fd, b->fd))
		return gw_err_set(err, -EINVAL,
				  "regions '%s' and '%s' share bytes of one file",
				  a->name, b->name);
	return 0;
}

static int add_region(struct godwit_guest *guest, const struct godwit_region *from,
		      struct gw_err *err)
{
	struct gw_region *region = &guest->regions[guest->n_regions];
	int r;

	region->fd = -1;
	guest->n_regions++; /* from here on godwit_guest_free() closes it */
	r = region_init(region, from, guest->n_regions - 1, guest->pid, err);
	for (struct gw_region *other = guest->regions; !r && other < region; other++)
		r = pair_check(other, region, err);
	return r;
}

/* ---- the guest ---- */

static int desc_check(const struct godwit_guest_desc *desc, struct gw_err *err)
{
	if (desc->n_regions < 1 || desc->n_regions > GW_REGIONS_MAX)
		return gw_err_set(err, -EINVAL,
				  "a guest has 1 to %d regions of memory, not %zu",
				  GW_REGIONS_MAX, desc->n_regions);
	if (!desc->regions)
		return gw_err_set(err, -EINVAL, "the guest's regions are missing");
	if (desc->pid < 0)
		return gw_err_set(err, -EINVAL, "%d is no process id", desc->pid);
	if (desc->pid && kill(desc->pid, 0) < 0 && errno == ESRCH)
		return gw_err_set(err, -ESRCH, "there is no process %d", desc->pid);
	return 0;
}

static int guest_init(struct godwit_guest *guest, const struct godwit_guest_desc *desc,
		      struct gw_err *err)
{
	int r = 0;

	guest->pid = desc->pid ?: getpid();
	if (desc->ops)
		guest->ops = *desc->ops;
	guest->opaque = desc->opaque;
	guest->regions = calloc(desc->n_regions, sizeof(*guest->regions));
	if (!guest->regions)
		return gw_err_errno(err, -ENOMEM, "the guest's regions");
	for (size_t i = 0; !r && i < desc->n_regions; i++)
		r = add_region(guest, &desc->regions[i], err);
	return r;
}

int godwit_guest_new(const struct godwit_guest_desc *desc, godwit_error *err,
		     godwit_guest **ret)
{
	struct godwit_guest *guest;
	int r;

	r = desc_check(desc, err);
	if (r < 0)
		return r;
	guest = calloc(1, sizeof(*guest));
	if (!guest)
		return gw_err_errno(err, -ENOMEM, "a guest");
	r = guest_init(guest, desc, err);
	if (r < 0) {
		godwit_guest_free(guest);
		return r;
	}
	*ret = guest;
	return 0;
}

godwit_guest *godwit_guest_free(godwit_guest *guest)
{
	if (!guest)
		return NULL;
	if (guest->free_opaque)
		guest->free_opaque(guest->opaque);
	for (unsigned int i = 0; i < guest->n_regions; i++)
		gw_close(&guest->regions[i].fd);
	free(guest->regions);
	free(guest);
	return NULL;
}
