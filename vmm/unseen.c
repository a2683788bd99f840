/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writers that tracking cannot see. Write tracking and missing-page faults work
 * on the page tables of the guest's process: what the kernel does on its behalf
 * (vhost) passes through them, a device's DMA and another process's mapping do
 * not. Such guests can only be moved while they are stopped.
 */
#include "vmm/unseen.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "userfault/maps.h"

static const struct {
	const char *prefix; /* of what a descriptor's link says */
	const char *what;
} dma_devices[] = {
	{"/dev/vfio/", "VFIO"},
	{"anon_inode:[vfio", "VFIO"},
	{"/dev/iommu", "VFIO (iommufd)"},
	{"/dev/vhost-vdpa", "vDPA"},
};

/*
 * Calls @fn with the name and the link of each descriptor of @pid until it
 * returns non-zero, which is then returned.
 */
static int walk_descriptors(pid_t pid, const char *looking_for,
			    int (*fn)(pid_t pid, const char *name, const char *target,
				      void *opaque),
			    void *opaque, struct gw_err *err)
{
	char path[64], target[256];
	struct dirent *entry;
	int r = 0;
	ssize_t n;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		return gw_err_errno(
			err, -errno,
			"looking for %s in %s (run godwit as the user of that "
			"process, or as root)",
			looking_for, path);
	while (!r && (entry = readdir(dir))) {
		n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
		if (n < 0)
			continue; /* "." and "..", or closed meanwhile */
		target[n] = '\0';
		r = fn(pid, entry->d_name, target, opaque);
	}
	closedir(dir);
	return r;
}

static int check_device(pid_t pid, const char *name, const char *target, void *opaque)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(dma_devices); i++) {
		if (strncmp(target, dma_devices[i].prefix, strlen(dma_devices[i].prefix)))
			continue;
		return gw_err_set(
			opaque, -EOPNOTSUPP,
			"process %d uses a %s device (%s), whose DMA into guest "
			"memory cannot be seen: unplug it, or move the guest "
			"with mode offline",
			pid, dma_devices[i].what, target);
	}
	return 0;
}

int gw_unseen_devices(pid_t pid, struct gw_err *err)
{
	return walk_descriptors(pid, "VFIO devices", check_device, err, err);
}

/* Whether descriptor @name of @pid is a file or disk open with O_DIRECT. */
static bool is_direct(pid_t pid, const char *name)
{
	unsigned long flags = 0;
	char path[300], line[128];
	struct stat st;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid, name);
	if (stat(path, &st) || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, name);
	info = fopen(path, "re");
	if (!info)
		return false; /* closed meanwhile */
	while (fgets(line, sizeof(line), info))
		if (sscanf(line, "flags: %lo", &flags) == 1)
			break;
	fclose(info);
	return flags & O_DIRECT;
}

struct direct_io {
	char *text;
	size_t size;
};

static int check_direct(pid_t pid, const char *name, const char *target, void *opaque)
{
	struct direct_io *found = opaque;

	if (!is_direct(pid, name))
		return 0;
	snprintf(found->text, found->size,
		 "process %d reads %.128s by direct I/O (O_DIRECT, QEMU's "
		 "cache=none), whose data can arrive in guest memory unseen: use "
		 "--mode postcopy or offline, or another cache mode for that disk",
		 pid, target);
	return 1;
}

int gw_unseen_direct_io(pid_t pid, struct gw_err *err, char *ret, size_t size)
{
	struct direct_io found = {ret, size};

	return walk_descriptors(pid, "direct I/O", check_direct, &found, err);
}

int gw_unseen_writer(pid_t pid, int fd, const char *what, struct gw_err *err)
{
	pid_t other = gw_maps_other_writer(pid, fd);
	char path[64], name[32] = "";
	FILE *comm;

	if (!other)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/comm", other);
	comm = fopen(path, "re");
	if (comm) {
		if (fgets(name, sizeof(name), comm))
			name[strcspn(name, "\n")] = '\0';
		fclose(comm);
	}
	return gw_err_set(
		err, -EOPNOTSUPP,
		"process %d (%s) has %s mapped for writing too, as a vhost-user "
		"backend does, and its writes cannot be seen: end it, or move "
		"the guest with mode offline",
		other, name[0] ? name : "unknown", what);
}
