/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /proc/PID/maps: the parser, and finding a file in a process. */
#include "userfault/maps.h"

#include <linux/memfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "userfault_child.h"

/* A test that waits for ever has failed. */
TestSuite(maps, .timeout = 30);

#define PAGE 4096UL

Test(maps, a_line_with_a_path_is_parsed)
{
	struct gw_map map;

	cr_assert_eq(gw_map_parse("7f0000001000-7f0000003000 rw-s 0000a000 fd:11 4242   "
				  "                   /dev/shm/guest ram (deleted)\n",
				  &map),
		     0);
	cr_assert_eq(map.start, 0x7f0000001000);
	cr_assert_eq(map.end, 0x7f0000003000);
	cr_assert_eq(map.offset, 0xa000);
	cr_assert_eq(map.dev, makedev(0xfd, 0x11));
	cr_assert_eq(map.inode, 4242);
	cr_assert_str_eq(map.perms, "rw-s");
	cr_assert_str_eq(map.path, "/dev/shm/guest ram (deleted)");
}

Test(maps, an_anonymous_line_has_no_path)
{
	struct gw_map map;

	cr_assert_eq(
		gw_map_parse("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0",
			     &map),
		0);
	cr_assert_eq(map.start, 0xffffffffff600000);
	cr_assert_eq(map.inode, 0);
	cr_assert_str_eq(map.path, "");
}

Test(maps, a_long_path_is_cut)
{
	char line[1000] = "1000-2000 rw-p 00000000 00:01 7 /";
	struct gw_map map;

	memset(line + strlen(line), 'a', 600);
	cr_assert_eq(gw_map_parse(line, &map), 0);
	cr_assert_eq(strlen(map.path), sizeof(map.path) - 1);
}

Test(maps, lines_that_are_none_are_refused)
{
	static const char *const lines[] = {
		"",
		"\n",
		"hello",
		"1000-2000",
		"1000-2000 rw-p",
		"1000-2000 rw 0 0:0 0",
		"2000-1000 rw-p 0 0:0 0",
		"1000-1000 rw-p 0 0:0 0",
		"1000-2000 rw-p 0 0:0",
		"x000-2000 rw-p 0 0:0 0",
	};
	struct gw_map map;

	for (size_t i = 0; i < GW_ARRAY_SIZE(lines); i++)
		cr_assert_eq(gw_map_parse(lines[i], &map), -EINVAL, "\"%s\"", lines[i]);
}

static int count_maps(const struct gw_map *map, void *opaque)
{
	return ++*(int *)opaque == 3 ? 77 : 0;
}

Test(maps, a_walk_ends_when_the_callback_says_so)
{
	int n = 0;

	cr_assert_eq(gw_maps_walk(0, count_maps, &n, NULL), 77);
	cr_assert_eq(n, 3);
}

Test(maps, a_walk_of_a_process_that_is_gone_says_so)
{
	struct gw_err err = {};
	struct child child = child_start(mapper_child, &(struct mapper){.fd = -1});
	int n = 0;

	child_kill(&child);
	cr_assert_eq(gw_maps_walk(child.pid, count_maps, &n, &err), -ESRCH);
	cr_assert(strstr(err.text, "no process"));
}

Test(maps, a_file_is_found_in_another_process)
{
	int fd = memory_file(8 * PAGE);
	struct mapper m = mapper_start(fd, 8 * PAGE);
	uint64_t address;

	cr_assert_eq(gw_maps_find(m.child.pid, fd, 0, 8 * PAGE, NULL, &address), 0);
	cr_assert_eq(address, m.address);
	cr_assert_eq(gw_maps_find(m.child.pid, fd, 2 * PAGE, PAGE, NULL, &address), 0);
	cr_assert_eq(address, m.address + 2 * PAGE);
	mapper_end(&m);
}

Test(maps, a_file_on_a_disk_file_system_is_found)
{
	char path[] = "/tmp/godwit test XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	uint64_t address;
	void *base;

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, PAGE), 0);
	base = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unlink(path);
	cr_assert_eq(gw_maps_find(0, fd, 0, PAGE, NULL, &address), 0);
	cr_assert_eq(address, (uintptr_t)base);
}

Test(maps, a_mapping_in_several_pieces_is_found_whole)
{
	int fd = memory_file(8 * PAGE);
	char *base = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint64_t address;

	/* Another attribute in the middle makes three mappings of one. */
	cr_assert_eq(madvise(base + 2 * PAGE, PAGE, MADV_DONTFORK), 0);
	cr_assert_eq(gw_maps_find(0, fd, 0, 8 * PAGE, NULL, &address), 0);
	cr_assert_eq(address, (uintptr_t)base);
	cr_assert_eq(gw_maps_find(0, fd, PAGE, 4 * PAGE, NULL, &address), 0);
	cr_assert_eq(address, (uintptr_t)base + PAGE);
}

Test(maps, pieces_out_of_order_are_not_taken_for_one)
{
	int fd = memory_file(2 * PAGE);
	char *base = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct gw_err err = {};
	uint64_t address;

	mmap(base, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, PAGE);
	mmap(base + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	cr_assert_eq(gw_maps_find(0, fd, 0, 2 * PAGE, &err, &address), -ENOENT);
	cr_assert(strstr(err.text, "in one piece"), "%s", err.text);
	cr_assert_eq(gw_maps_find(0, fd, PAGE, PAGE, NULL, &address), 0);
	cr_assert_eq(address, (uintptr_t)base);
}

Test(maps, a_private_mapping_is_refused_with_the_option_to_use)
{
	int fd = memory_file(PAGE);
	struct gw_err err = {};
	uint64_t address;

	mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	cr_assert_eq(gw_maps_find(0, fd, 0, PAGE, &err, &address), -ENOENT);
	cr_assert(strstr(err.text, "share=on"), "%s", err.text);
}

Test(maps, a_file_not_mapped_at_all_is_refused)
{
	int fd = memory_file(PAGE);
	struct gw_err err = {};
	uint64_t address;

	cr_assert_eq(gw_maps_find(0, fd, 0, PAGE, &err, &address), -ENOENT);
	cr_assert(strstr(err.text, "memory-backend"), "%s", err.text);
}

Test(maps, another_writer_of_the_file_is_seen)
{
	int fd = memory_file(PAGE);
	struct mapper a = mapper_start(fd, PAGE), b;

	cr_assert_eq(gw_maps_other_writer(a.child.pid, fd), 0);
	b = mapper_start(fd, PAGE);
	cr_assert_eq(gw_maps_other_writer(a.child.pid, fd), b.child.pid);
	cr_assert_eq(gw_maps_other_writer(b.child.pid, fd), a.child.pid);
	mapper_end(&a);
	mapper_end(&b);
}

Test(maps, our_own_mapping_is_no_other_writer)
{
	int fd = memory_file(PAGE);

	mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_eq(gw_maps_other_writer(1, fd), 0);
}

Test(maps, the_page_size_of_a_memfd_is_4096)
{
	int fd = memory_file(PAGE);
	uint64_t size = 0;

	cr_assert_eq(gw_maps_page_size(fd, NULL, &size), 0);
	cr_assert_eq(size, 4096);
}

Test(maps, the_page_size_of_a_huge_memfd_is_that_of_a_huge_page)
{
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	uint64_t size = 0;

	if (fd < 0)
		cr_skip_test("no hugetlbfs with 2 MiB pages here");
	cr_assert_eq(gw_maps_page_size(fd, NULL, &size), 0);
	cr_assert_eq(size, 2 << 20);
}

Test(maps, the_page_size_of_a_bad_descriptor_is_an_error)
{
	struct gw_err err = {};
	uint64_t size;

	cr_assert_eq(gw_maps_page_size(-1, &err, &size), -EBADF);
	cr_assert_neq(err.text[0], '\0');
}
