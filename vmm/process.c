/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that is any process with shared mappings of files: SIGSTOP stops it,
 * SIGCONT runs it, and it has no state besides its memory.
 *
 * At the destination the process is stopped as soon as it is described, since
 * it must not run before COMMIT, and it stays stopped when the migration is
 * called off: its memory is then a mixture that nobody should run on.
 *
 * Signals go through a pidfd taken at the start, so a process id that was given
 * to somebody else meanwhile is never hit. A process that somebody else had
 * stopped before us is not continued by resume.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/util.h"
#include "migrate/guest.h"
#include "userfault/maps.h"
#include "vmm/unseen.h"

/* A thread in an uninterruptible wait stops when that ends; disks take their time. */
#define STOP_TIMEOUT (10 * GW_NSEC)
/* Between looks at the threads; most are stopped at the first. */
#define STOP_POLL_NS 100000

struct process {
	pid_t pid;
	int pidfd;
	bool was_stopped; /* by somebody else, before our stop */
};

/* ---- signals ---- */

static int process_signal(const struct process *p, int number, struct gw_err *err)
{
	if (!syscall(SYS_pidfd_send_signal, p->pidfd, number, NULL, 0))
		return 0;
	if (errno == ESRCH)
		return gw_err_set(err, -ESRCH, "process %d has ended", p->pid);
	return gw_err_errno(err, -errno, "%s to process %d",
			    number == SIGSTOP ? "SIGSTOP" : "SIGCONT", p->pid);
}

/* The letter after the command's name, which may itself hold any character. */
static char state_parse(const char *stat)
{
	const char *end = strrchr(stat, ')');

	return end && end[1] == ' ' ? end[2] : '?';
}

static char thread_state(int task_dir, const char *tid)
{
	char path[300], text[512];
	GW_AUTO_CLOSE int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/stat", tid);
	fd = openat(task_dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 'X'; /* ended while we looked */
	n = read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 'X';
	text[n] = '\0';
	return state_parse(text);
}

/* 1: every thread is stopped (or over); 0: not yet; or negative errno. */
static int all_stopped(const struct process *p, struct gw_err *err)
{
	char path[64];
	struct dirent *entry;
	bool stopped = true;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", p->pid);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT
			       ? gw_err_set(err, -ESRCH, "process %d has ended", p->pid)
			       : gw_err_errno(err, -errno, "%s", path);
	while (stopped && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			stopped = strchr("TtZX", thread_state(dirfd(dir), entry->d_name));
	closedir(dir);
	return stopped;
}

/* The kernel tells only the parent of a stop, so the threads are looked at. */
static int wait_stopped(const struct process *p, struct gw_err *err)
{
	const struct timespec pause = {0, STOP_POLL_NS};
	uint64_t deadline = gw_now() + STOP_TIMEOUT;
	int r;

	for (;;) {
		r = all_stopped(p, err);
		if (r)
			return GW_MIN(r, 0);
		if (gw_now() > deadline)
			return gw_err_set(err, -ETIMEDOUT,
					  "a thread of process %d did not stop within "
					  "%llu s of SIGSTOP",
					  p->pid, STOP_TIMEOUT / GW_NSEC);
		nanosleep(&pause, NULL);
	}
}

/* ---- callbacks ---- */

static int process_stop(void *opaque, struct gw_err *err)
{
	struct process *p = opaque;
	int r = all_stopped(p, err);

	if (r < 0)
		return r;
	p->was_stopped = r;
	r = process_signal(p, SIGSTOP, err);
	if (r < 0)
		return r;
	r = wait_stopped(p, err);
	if (r < 0)
		process_signal(p, SIGCONT, NULL); /* not half stopped */
	return r;
}

static int process_resume(void *opaque, struct gw_err *err)
{
	struct process *p = opaque;

	return p->was_stopped ? 0 : process_signal(p, SIGCONT, err);
}

static int process_run(void *opaque, struct gw_err *err)
{
	return process_signal(opaque, SIGCONT, err);
}

static int process_check_stopped(void *opaque, struct gw_err *err)
{
	struct process *p = opaque;
	int r = all_stopped(p, err);

	if (r)
		return GW_MIN(r, 0);
	return gw_err_set(err, -EBUSY, "process %d runs: somebody sent it SIGCONT",
			  p->pid);
}

static void process_free(void *opaque)
{
	struct process *p = opaque;

	gw_close(&p->pidfd);
	free(p);
}

static const struct godwit_guest_ops source_ops = {
	.stop = process_stop,
	.resume = process_resume,
	.check_stopped = process_check_stopped,
};

static const struct godwit_guest_ops dest_ops = {
	.run = process_run,
};

/* ---- ranges ---- */

struct search {
	struct stat st;
	uint64_t mapped; /* bytes of the file in shared writable mappings */
	bool elsewise;	 /* mapped privately or read-only */
};

static int search_map(const struct gw_map *map, void *opaque)
{
	struct search *s = opaque;

	if (map->inode != s->st.st_ino || map->dev != s->st.st_dev)
		return 0;
	if (map->perms[3] == 's' && map->perms[1] == 'w')
		s->mapped += map->end - map->start;
	else
		s->elsewise = true;
	return 0;
}

/* Says in which way @pid fails to have the whole file mapped. */
static int not_mapped(pid_t pid, int fd, const char *path, struct gw_err *err)
{
	struct search s = {0};
	int r;

	if (fstat(fd, &s.st) < 0)
		return gw_err_errno(err, -errno, "%s", path);
	r = gw_maps_walk(pid, search_map, &s, err);
	if (r < 0)
		return r;
	if (s.mapped)
		return gw_err_set(err, -ENXIO,
				  "process %d has %lu of the %lu bytes of %s mapped "
				  "shared, not all of it in one piece",
				  pid, s.mapped, (uint64_t)s.st.st_size, path);
	if (s.elsewise)
		return gw_err_set(err, -ENXIO,
				  "process %d has %s mapped privately or read-only; it "
				  "must be mapped shared and writable",
				  pid, path);
	return gw_err_set(err, -ENXIO, "process %d does not have %s mapped", pid, path);
}

/* Opens @path and finds it in the process; ret->fd is the caller's. */
static int range_open(const struct godwit_process *process, const char *path,
		      struct godwit_region *ret, struct gw_err *err)
{
	struct stat st;
	int r;

	ret->fd = open(path, O_RDWR | O_CLOEXEC);
	if (ret->fd < 0 || fstat(ret->fd, &st) < 0)
		return gw_err_errno(err, -errno, "the range %s", path);
	if (!S_ISREG(st.st_mode) || !st.st_size)
		return gw_err_set(err, -EINVAL, "the range %s is not a file with content",
				  path);
	ret->size = (uint64_t)st.st_size;
	r = gw_maps_find(process->pid, ret->fd, 0, ret->size, err, &ret->address);
	if (r == -ENOENT)
		return not_mapped(process->pid, ret->fd, path, err);
	if (r < 0 || process->offline)
		return r;
	return gw_unseen_writer(process->pid, ret->fd, path, err);
}

/* ---- making one ---- */

static int process_attach(pid_t pid, struct gw_err *err, struct process **ret)
{
	struct process *p;
	int pidfd;

	if (pid <= 0)
		return gw_err_set(err, -EINVAL, "%d is no process id", pid);
	if (pid == getpid())
		return gw_err_set(err, -EINVAL, "a process cannot stop and move itself");
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0 && errno == ESRCH)
		return gw_err_set(err, -ESRCH, "there is no process %d", pid);
	if (pidfd < 0)
		return gw_err_errno(err, -errno, "process %d", pid);
	p = calloc(1, sizeof(*p));
	if (!p) {
		close(pidfd);
		return gw_err_errno(err, -ENOMEM, "a process guest");
	}
	p->pid = pid;
	p->pidfd = pidfd;
	*ret = p;
	return 0;
}

static int guest_make(const struct godwit_process *process, struct process *p,
		      struct gw_err *err, struct godwit_guest **ret)
{
	char names[GW_REGIONS_MAX][16];
	struct godwit_region regions[GW_REGIONS_MAX];
	const struct godwit_guest_desc desc = {
		.pid = process->pid,
		.regions = regions,
		.n_regions = process->n_ranges,
		.ops = process->side == GODWIT_SOURCE ? &source_ops : &dest_ops,
		.opaque = p,
	};
	size_t n = 0;
	int r = 0;

	memset(regions, 0, sizeof(regions));
	while (!r && n < process->n_ranges) {
		snprintf(names[n], sizeof(names[n]), "range-%zu", n);
		regions[n].name = names[n];
		r = range_open(process, process->ranges[n], &regions[n], err);
		n++;
	}
	if (!r)
		r = godwit_guest_new(&desc, err, ret);
	while (n--)
		gw_close(&regions[n].fd);
	return r;
}

static int devices_check(const struct godwit_process *process, struct gw_err *err)
{
	return process->offline ? 0 : gw_unseen_devices(process->pid, err);
}

static int dest_hold(struct process *p, struct gw_err *err)
{
	int r = process_signal(p, SIGSTOP, err);

	return r < 0 ? r : wait_stopped(p, err);
}

int godwit_guest_new_process(const struct godwit_process *process, godwit_error *err,
			     godwit_guest **ret)
{
	struct godwit_guest *guest = NULL;
	struct process *p = NULL;
	int r;

	if (process->side != GODWIT_SOURCE && process->side != GODWIT_DEST)
		return gw_err_set(err, -EINVAL,
				  "a guest is at the source or the destination");
	if (process->n_ranges < 1 || process->n_ranges > GW_REGIONS_MAX)
		return gw_err_set(err, -EINVAL,
				  "a process guest has 1 to %d ranges, not %zu",
				  GW_REGIONS_MAX, process->n_ranges);
	r = process_attach(process->pid, err, &p);
	if (r < 0)
		return r;
	r = devices_check(process, err);
	if (!r)
		r = guest_make(process, p, err, &guest);
	if (!r && process->side == GODWIT_DEST)
		r = dest_hold(p, err);
	if (!r && process->side == GODWIT_SOURCE)
		r = gw_unseen_direct_io(process->pid, err, guest->untracked,
					sizeof(guest->untracked));
	if (r < 0) {
		godwit_guest_free(guest);
		process_free(p);
		return r;
	}
	guest->free_opaque = process_free;
	*ret = guest;
	return 0;
}
