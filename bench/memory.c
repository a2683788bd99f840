/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory that stands for a guest's. */
#include "bench/memory.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/util.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* A nameless file in the folder of @path, or in @path where that is one itself. */
static int open_beside(const char *path)
{
	char folder[PATH_MAX];
	struct stat st;

	snprintf(folder, sizeof(folder), "%s", path);
	if (!stat(path, &st) && S_ISDIR(st.st_mode))
		return open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return open(dirname(folder), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

static int open_ram(const char *path, enum bench_memory_use use)
{
	struct stat st;
	int fd;

	if (use == BENCH_MEMORY_SCRATCH || (!stat(path, &st) && S_ISDIR(st.st_mode)))
		return open_beside(path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0) {
		unlink(path);
		return fd;
	}
	return errno == EEXIST ? open(path, O_RDWR | O_CLOEXEC) : -1;
}

static int check_kind(int fd, const char *path, struct gw_err *err)
{
	struct statfs fs;
	struct stat st;

	if (fstatfs(fd, &fs) || fstat(fd, &st))
		return gw_err_errno(err, -errno, "cannot look at '%s'", path);
	if (S_ISREG(st.st_mode) &&
	    (fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC))
		return 0;
	return gw_err_set(err, -EINVAL,
			  "'%s' is no file in a tmpfs or hugetlbfs, and its contents "
			  "would be lost: name one that is, such as /dev/shm/bench",
			  path);
}

static int open_memory(const char *ram, enum bench_memory_use use, struct gw_err *err)
{
	int fd = ram ? open_ram(ram, use) : memfd_create("godwit-bench", MFD_CLOEXEC);
	int r;

	if (fd < 0)
		return gw_err_errno(err, -errno, "cannot open '%s' as memory",
				    ram ?: "a memfd");
	r = ram ? check_kind(fd, ram, err) : 0;
	if (!r)
		return fd;
	close(fd);
	return r;
}

/* Bytes that the kernel believes can be had without swapping; 0: it does not say. */
static uint64_t available_bytes(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib << 10;
}

/* Asked before anything is allocated: being out of memory ends other processes. */
static int check_available(const struct bench_memory *memory, struct gw_err *err)
{
	uint64_t available = available_bytes(), have, need;
	struct stat st;

	if (fstat(memory->fd, &st))
		return gw_err_errno(err, -errno, "cannot look at the memory");
	have = (uint64_t)st.st_blocks * 512;
	need = memory->size > have ? memory->size - have : 0;
	/* huge pages were set aside: they are not "available" */
	if (!available || st.st_blksize > 65536 || need < available - available / 8)
		return 0;
	return gw_err_set(err, -ENOMEM,
			  "%llu MiB of memory are needed and %llu MiB are available: "
			  "choose a smaller --size",
			  (unsigned long long)need >> 20,
			  (unsigned long long)available >> 20);
}

/* A file that is full is an error here, and would be a SIGBUS later. */
static int make_room(struct bench_memory *memory, struct gw_err *err)
{
	struct stat st;
	int r = check_available(memory, err);

	if (r)
		return r;
	if (fstat(memory->fd, &st))
		return gw_err_errno(err, -errno, "cannot look at the memory");
	if ((uint64_t)st.st_size < memory->size &&
	    ftruncate(memory->fd, (off_t)memory->size))
		return gw_err_errno(err, -errno, "cannot make memory of %llu MiB",
				    (unsigned long long)memory->size >> 20);
	if (fallocate(memory->fd, 0, 0, (off_t)memory->size))
		return gw_err_errno(err, -errno,
				    "cannot allocate %llu MiB (choose a smaller --size, "
				    "or a larger tmpfs for --ram)",
				    (unsigned long long)memory->size >> 20);
	return 0;
}

static int map_memory(struct bench_memory *memory, struct gw_err *err)
{
	memory->map = mmap(NULL, memory->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			   memory->fd, 0);
	if (memory->map == MAP_FAILED) {
		memory->map = NULL;
		return gw_err_errno(err, -errno, "cannot map %llu MiB",
				    (unsigned long long)memory->size >> 20);
	}
	/* before Linux 5.14 the first, unmeasured run does it */
	(void)madvise(memory->map, memory->size, MADV_POPULATE_WRITE);
	return 0;
}

int bench_memory_init(struct bench_memory *memory, const char *ram,
		      enum bench_memory_use use, uint64_t size, struct gw_err *err)
{
	int r;

	*memory = (struct bench_memory){.fd = open_memory(ram, use, err), .size = size};
	if (memory->fd < 0) {
		r = memory->fd;
		memory->fd = -1;
		return r;
	}
	r = make_room(memory, err);
	if (!r)
		r = map_memory(memory, err);
	if (r)
		bench_memory_deinit(memory);
	return r;
}

void bench_memory_deinit(struct bench_memory *memory)
{
	if (memory->map)
		munmap(memory->map, memory->size);
	gw_close(&memory->fd);
	*memory = (struct bench_memory){.fd = -1};
}

int bench_memory_drop(struct bench_memory *memory, struct gw_err *err)
{
	if (fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		      (off_t)memory->size))
		return gw_err_errno(err, -errno, "cannot give memory back");
	return 0;
}

int bench_memory_guest(const struct bench_memory *memory,
		       const struct godwit_guest_ops *ops, void *opaque,
		       godwit_error *err, godwit_guest **ret)
{
	struct godwit_region region = {
		.name = "memory",
		.fd = memory->fd,
		.size = memory->size,
		.address = (uint64_t)(uintptr_t)memory->map,
	};
	struct godwit_guest_desc desc = {
		.regions = &region,
		.n_regions = 1,
		.ops = ops,
		.opaque = opaque,
	};

	return godwit_guest_new(&desc, err, ret);
}
