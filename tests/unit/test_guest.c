/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What godwit_guest_new() takes and what it refuses. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/util.h"
#include "migrate/guest.h"

#define SIZE (64 * GW_UNIT_SIZE)

struct memory {
	int fd;
	char *at;
};

static struct memory memory_new(int prot, int flags)
{
	struct memory m = {.fd = memfd_create("guest", MFD_CLOEXEC)};

	cr_assert(!ftruncate(m.fd, SIZE));
	m.at = mmap(NULL, SIZE, prot, flags, m.fd, 0);
	cr_assert_neq(m.at, MAP_FAILED);
	return m;
}

static struct godwit_region region_of(const struct memory *m, const char *name)
{
	return (struct godwit_region){
		.name = name, .fd = m->fd, .size = SIZE, .address = (uintptr_t)m->at};
}

static const struct godwit_guest_ops no_ops;

static int make(const struct godwit_region *regions, size_t n, struct gw_err *err,
		godwit_guest **ret)
{
	const struct godwit_guest_desc desc = {
		.regions = regions, .n_regions = n, .ops = &no_ops};

	return godwit_guest_new(&desc, err, ret);
}

static void refused(const struct godwit_region *regions, size_t n, int code,
		    const char *words)
{
	struct gw_err err = {0};
	godwit_guest *guest = NULL;

	cr_assert_eq(make(regions, n, &err, &guest), code, "%s", err.text);
	cr_assert(strstr(err.text, words), "%s", err.text);
	cr_assert_null(guest);
}

Test(guest, holds_its_own_descriptors_and_finds_the_page_size)
{
	struct memory m = memory_new(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct godwit_region region = region_of(&m, "ram");
	struct gw_err err = {0};
	godwit_guest *guest = NULL;

	cr_assert_eq(make(&region, 1, &err, &guest), 0, "%s", err.text);
	cr_assert_eq(guest->pid, getpid());
	cr_assert_eq(guest->n_regions, 1);
	cr_assert_str_eq(guest->regions[0].name, "ram");
	cr_assert_eq(guest->regions[0].page_size, 4096);
	cr_assert_neq(guest->regions[0].fd, m.fd);
	cr_assert(fcntl(guest->regions[0].fd, F_GETFD) & FD_CLOEXEC);
	cr_assert_null(godwit_guest_free(guest));
	cr_assert_null(godwit_guest_free(NULL));
}

Test(guest, a_part_of_a_file_is_a_region)
{
	struct memory m = memory_new(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct godwit_region regions[] = {region_of(&m, "a"), region_of(&m, "b")};
	struct gw_err err = {0};
	godwit_guest *guest = NULL;

	regions[0].size = SIZE / 2;
	regions[1].size = SIZE / 2;
	regions[1].offset = SIZE / 2;
	regions[1].address += SIZE / 2;
	cr_assert_eq(make(regions, 2, &err, &guest), 0, "%s", err.text);
	godwit_guest_free(guest);
}

Test(guest, names_are_there_unique_and_short)
{
	struct memory m = memory_new(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct memory other = memory_new(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct godwit_region regions[] = {region_of(&m, "ram"), region_of(&other, "ram")};
	char name[65];

	refused(regions, 2, -EINVAL, "two regions are called 'ram'");
	regions[0].name = "";
	refused(regions, 1, -EINVAL, "no name");
	regions[0].name = NULL;
	refused(regions, 1, -EINVAL, "no name");
	memset(name, 'n', 64);
	name[64] = '\0';
	regions[0].name = name;
	refused(regions, 1, -ENAMETOOLONG, "at most 63");
	refused(regions, 0, -EINVAL, "1 to 64");
	refused(regions, 65, -EINVAL, "1 to 64");
}

Test(guest, sizes_and_places_must_be_aligned_and_inside)
{
	struct memory m = memory_new(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct godwit_region region = region_of(&m, "ram");

	region.size = 0;
	refused(&region, 1, -EINVAL, "no multiple");
	region.size = SIZE - 1;
	refused(&region, 1, -EINVAL, "no multiple");
	region.size = SIZE + GW_UNIT_SIZE;
	refused(&region, 1, -EINVAL, "ends at byte");
	region.size = -GW_UNIT_SIZE;
	refused(&region, 1, -EINVAL, "wraps");
	region.size = SIZE;
	region.offset = 17;
	refused(&region, 1, -EINVAL, "aligned");
	region.offset = 0;
	region.address += 5;
	refused(&region, 1, -EINVAL, "aligned");
	region.address -= 5;
	region.page_size = 2 << 20;
	refused(&region, 1, -EINVAL, "page size");
}

Test(guest, regions_share_nothing)
{
	struct memory m = memory_new(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct godwit_region regions[] = {region_of(&m, "a"), region_of(&m, "b")};
	char *again = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);

	refused(regions, 2, -EINVAL, "share addresses");
	regions[1].address = (uintptr_t)again;
	refused(regions, 2, -EINVAL, "share bytes");
}

Test(guest, the_file_must_be_mapped_shared_and_writable_where_it_is_said_to_be)
{
	struct memory m = memory_new(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct memory private = memory_new(PROT_READ | PROT_WRITE, MAP_PRIVATE);
	struct memory readonly = memory_new(PROT_READ, MAP_SHARED);
	struct godwit_region region = region_of(&private, "ram");

	refused(&region, 1, -EFAULT, "mapped shared");
	region = region_of(&readonly, "ram");
	refused(&region, 1, -EFAULT, "mapped shared");
	region = region_of(&m, "ram");
	region.fd = private.fd;
	refused(&region, 1, -EFAULT, "mapped shared");
	region = region_of(&m, "ram");
	munmap(m.at + SIZE / 2, GW_UNIT_SIZE);
	refused(&region, 1, -EFAULT, "mapped shared");
}

Test(guest, the_descriptor_must_be_a_file_open_for_writing)
{
	struct memory m = memory_new(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct godwit_region region = region_of(&m, "ram");
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", m.fd);
	region.fd = open(path, O_RDONLY);
	refused(&region, 1, -EACCES, "reading and writing");
	close(region.fd);
	refused(&region, 1, -EBADF, "descriptor");
	region.fd = open("/dev/zero", O_RDWR);
	refused(&region, 1, -EINVAL, "not a file");
}

Test(guest, a_process_that_is_not_there_is_named)
{
	struct memory m = memory_new(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct godwit_region region = region_of(&m, "ram");
	struct godwit_guest_desc desc = {.regions = &region, .n_regions = 1};
	struct gw_err err = {0};
	godwit_guest *guest = NULL;

	desc.pid = fork();
	if (!desc.pid)
		_exit(0);
	waitpid(desc.pid, NULL, 0);
	cr_assert_eq(godwit_guest_new(&desc, &err, &guest), -ESRCH);
	cr_assert(strstr(err.text, "no process"), "%s", err.text);
}
