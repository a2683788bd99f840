/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a process has mapped: /proc/PID/maps, read and searched.
 *
 * A file is the same file when its inode number and device agree. On some
 * file systems (btrfs, overlayfs) maps names another device than stat() does;
 * then /proc/PID/map_files, which stat() follows to the mapped file itself,
 * has the last word.
 */
#include "userfault/maps.h"

#include <dirent.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "base/util.h"

#define DEFAULT_PAGE_SIZE 4096

int gw_map_parse(const char *line, struct gw_map *ret)
{
	unsigned int major_nr, minor_nr;
	struct gw_map map = {};
	int used = -1;
	size_t len;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 "%n",
		   &map.start, &map.end, map.perms, &map.offset, &major_nr, &minor_nr,
		   &map.inode, &used) != 7 ||
	    used < 0)
		return -EINVAL;
	if (strlen(map.perms) != 4 || map.start >= map.end)
		return -EINVAL;
	map.dev = makedev(major_nr, minor_nr);
	/* The rest of the line, whatever is in it: paths may hold spaces. */
	line += used;
	line += strspn(line, " ");
	len = GW_MIN(strcspn(line, "\n"), sizeof(map.path) - 1);
	memcpy(map.path, line, len);
	*ret = map;
	return 0;
}

static FILE *open_maps(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", pid ? pid : getpid());
	return fopen(path, "re");
}

int gw_maps_walk(pid_t pid, int (*fn)(const struct gw_map *map, void *opaque),
		 void *opaque, struct gw_err *err)
{
	GW_AUTO_FREE char *line = NULL;
	FILE *file = open_maps(pid);
	size_t size = 0;
	int result = 0;

	if (!file && errno == ENOENT)
		return gw_err_set(err, -ESRCH, "there is no process %d", pid);
	if (!file)
		return gw_err_errno(
			err, -errno,
			"cannot read the memory map of process %d (run as its "
			"user, or with sudo)",
			pid);
	while (!result && getline(&line, &size, file) > 0) {
		struct gw_map map;

		if (!gw_map_parse(line, &map))
			result = fn(&map, opaque);
	}
	/* A process that ends meanwhile, or that we may not look at, reads as an error. */
	if (!result && ferror(file))
		result = gw_err_errno(err, errno ? -errno : -EIO,
				      "cannot read the memory map of process %d", pid);
	fclose(file);
	return result;
}

static bool mapped_file_is(pid_t pid, const struct gw_map *map, const struct stat *file)
{
	struct stat st;
	char path[96];

	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64,
		 pid ? pid : getpid(), map->start, map->end);
	return !stat(path, &st) && st.st_dev == file->st_dev && st.st_ino == file->st_ino;
}

static bool maps_file(pid_t pid, const struct gw_map *map, const struct stat *file)
{
	if (!map->inode || map->inode != file->st_ino)
		return false;
	return map->dev == file->st_dev || mapped_file_is(pid, map, file);
}

static bool shared_and_writable(const struct gw_map *map)
{
	return map->perms[1] == 'w' && map->perms[3] == 's';
}

struct search {
	pid_t pid;
	struct stat file;
	uint64_t offset, end; /* wanted, in the file */
	struct gw_map run;    /* the piece found so far; start 0: none */
	bool seen, seen_private, seen_readonly;
};

static bool continues(const struct gw_map *run, const struct gw_map *map)
{
	return run->start && map->start == run->end &&
	       map->offset == run->offset + (run->end - run->start);
}

static int search_one(const struct gw_map *map, void *opaque)
{
	struct search *search = opaque;
	struct gw_map *run = &search->run;

	if (!maps_file(search->pid, map, &search->file))
		return 0;
	search->seen = true;
	if (!shared_and_writable(map)) {
		search->seen_private |= map->perms[3] != 's';
		search->seen_readonly |= map->perms[3] == 's';
		return 0;
	}
	if (continues(run, map))
		run->end = map->end;
	else
		*run = *map;
	return run->offset <= search->offset &&
	       search->end <= run->offset + (run->end - run->start);
}

static int not_found(const struct search *search, struct gw_err *err)
{
	if (search->seen_private)
		return gw_err_set(
			err, -ENOENT,
			"process %d has the file mapped privately, so its writes "
			"never reach the file: start QEMU with share=on for that "
			"memory backend",
			search->pid);
	if (search->seen_readonly)
		return gw_err_set(
			err, -ENOENT,
			"process %d has the file mapped read-only: guest memory "
			"must be mapped shared and writable",
			search->pid);
	if (search->seen)
		return gw_err_set(err, -ENOENT,
				  "process %d has not all of the file's bytes %" PRIu64
				  " to %" PRIu64 " mapped in one piece",
				  search->pid, search->offset, search->end);
	return gw_err_set(
		err, -ENOENT,
		"process %d has not mapped the file: guest memory must be a shared "
		"mapping (QEMU: -object memory-backend-file,share=on,mem-path=… or "
		"memory-backend-memfd,share=on)",
		search->pid);
}

int gw_maps_find(pid_t pid, int fd, uint64_t offset, uint64_t size, struct gw_err *err,
		 uint64_t *ret_address)
{
	struct search search = {
		.pid = pid ? pid : getpid(),
		.offset = offset,
		.end = offset + size,
	};
	int r;

	if (search.end <= offset)
		return gw_err_set(err, -EINVAL,
				  "an empty range of a file cannot be found");
	if (fstat(fd, &search.file))
		return gw_err_errno(err, -errno, "cannot look at the memory file");
	r = gw_maps_walk(pid, search_one, &search, err);
	if (r < 0)
		return r;
	if (!r)
		return not_found(&search, err);
	*ret_address = search.run.start + (offset - search.run.offset);
	return 0;
}

static int writer_one(const struct gw_map *map, void *opaque)
{
	struct search *search = opaque;

	return shared_and_writable(map) && maps_file(search->pid, map, &search->file);
}

pid_t gw_maps_other_writer(pid_t pid, int fd)
{
	struct search search = {};
	struct dirent *entry;
	pid_t writer = 0;
	DIR *dir;

	if (fstat(fd, &search.file))
		return 0;
	dir = opendir("/proc");
	if (!dir)
		return 0;
	while (!writer && (entry = readdir(dir))) {
		search.pid = (pid_t)atoi(entry->d_name);
		if (search.pid <= 0 || search.pid == pid || search.pid == getpid())
			continue;
		if (gw_maps_walk(search.pid, writer_one, &search, NULL) > 0)
			writer = search.pid;
	}
	closedir(dir);
	return writer;
}

int gw_maps_page_size(int fd, struct gw_err *err, uint64_t *ret_size)
{
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return gw_err_errno(err, -errno,
				    "cannot look at the memory file's file system");
	*ret_size =
		fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : DEFAULT_PAGE_SIZE;
	return 0;
}
