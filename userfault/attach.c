/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Getting a userfaultfd that belongs to another, running process.
 *
 * Happy path: one thread of the process is held (userfault/inject.c), makes
 * one userfaultfd() call and waits while we take the descriptor with
 * pidfd_getfd() and do the UFFDIO_API handshake from outside; unless the
 * process is to keep its reference, the thread then closes its own. All else
 * (registering, scanning, serving) happens from outside on our descriptor.
 * Where the call is refused to the process, the same thread tries
 * /dev/userfaultfd. For our own process both are plain system calls.
 *
 * Failure modes: every refusal is decided here and says what to do about it:
 * no permission to attach (userfault/proc.c), none for the process to have a
 * userfaultfd (sysctl, capability or device node), a kernel without the
 * features (which version has them). Whatever fails after the process got the
 * descriptor closes it there again while the thread is still held. If we are
 * killed with @keep, the process is left with one descriptor; that is the
 * point of it, and another godwit finds it in /proc/PID/fd.
 *
 * Threads: any thread may attach; one thread at a time for one struct. The
 * thread that traces is made inside the call and ends with it. While it lasts
 * no other thread of the program may reap children with waitpid(-1), which
 * would also swallow the stops of a traced thread.
 *
 * Ownership: struct gw_uffd owns our descriptor, and with @keep answers for
 * the process's one: gw_uffd_release() closes both, gw_uffd_detach() leaves
 * the process its own.
 */
#include "userfault/attach.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "base/util.h"
#include "userfault/inject.h"
#include "userfault/proc.h"
#include "userfault/uapi.h"

#define UFFD_FLAGS  (O_CLOEXEC | O_NONBLOCK)
#define UFFD_DEVICE "/dev/userfaultfd"
#define UFFD_LINK   "anon_inode:[userfaultfd]"

static const struct {
	uint64_t bit;
	const char *name;
} feature_names[] = {
	{UFFD_FEATURE_PAGEFAULT_FLAG_WP, "write-protection"},
	{UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "write-protection of shared memory"},
	{UFFD_FEATURE_WP_UNPOPULATED, "write-protection of unpopulated memory"},
	{UFFD_FEATURE_WP_ASYNC, "asynchronous write-protection"},
	{UFFD_FEATURE_MISSING_SHMEM, "missing pages of shared memory"},
	{UFFD_FEATURE_MISSING_HUGETLBFS, "missing pages of hugetlbfs"},
	{UFFD_FEATURE_MINOR_SHMEM, "minor faults of shared memory"},
	{UFFD_FEATURE_MINOR_HUGETLBFS, "minor faults of hugetlbfs"},
};

static const struct {
	uint64_t features;
	const char *purpose, *kernel;
} needs[] = {
	[GW_UFFD_TRACK] = {UFFD_FEATURE_PAGEFAULT_FLAG_WP |
				   UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
				   UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC,
			   "tracking the writes of a running guest", "6.7"},
	[GW_UFFD_FAULTS] = {UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS |
				    UFFD_FEATURE_MINOR_SHMEM |
				    UFFD_FEATURE_MINOR_HUGETLBFS,
			    "serving missing pages (post-copy)", "5.14"},
};

/* A userfaultfd of our own process, or negative errno. */
static int local_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, UFFD_FLAGS), device, saved;

	if (fd >= 0)
		return fd;
	saved = errno;
	device = open(UFFD_DEVICE, O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -saved;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, UFFD_FLAGS);
	saved = errno;
	close(device);
	return fd >= 0 ? fd : -saved;
}

/* What the running kernel has, asked of a descriptor of our own; 0: no telling. */
static uint64_t kernel_features(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	GW_AUTO_CLOSE int fd = local_uffd();

	return fd >= 0 && !ioctl(fd, UFFDIO_API, &api) ? api.features : 0;
}

static int features_missing(enum gw_uffd_need need, struct gw_err *err)
{
	uint64_t have = kernel_features();
	struct utsname kernel = {};
	char names[256] = "";

	for (size_t i = 0; have && i < GW_ARRAY_SIZE(feature_names); i++) {
		size_t used = strlen(names);

		if (needs[need].features & ~have & feature_names[i].bit)
			snprintf(names + used, sizeof(names) - used, "%s%s",
				 used ? ", " : "", feature_names[i].name);
	}
	uname(&kernel);
	return gw_err_set(err, -ENOSYS,
			  "%s needs Linux %s or newer on this host; it runs %s, whose "
			  "userfaultfd lacks %s",
			  needs[need].purpose, needs[need].kernel, kernel.release,
			  names[0] ? names : "it");
}

static int handshake(int fd, enum gw_uffd_need need, struct gw_err *err)
{
	struct uffdio_api api = {.api = UFFD_API, .features = needs[need].features};

	if (!ioctl(fd, UFFDIO_API, &api))
		return 0;
	if (errno == EINVAL)
		return features_missing(need, err);
	return gw_err_errno(err, -errno, "the userfaultfd handshake failed");
}

static int refused(pid_t pid, int code, struct gw_err *err)
{
	long uid = gw_proc_status(pid, pid, "Uid");

	if (code == -ENOSYS)
		return gw_err_set(
			err, code,
			"this kernel has no userfaultfd (CONFIG_USERFAULTFD), or a "
			"seccomp filter hides it from process %d",
			pid);
	if (code != -EPERM)
		return gw_err_errno(err, code, "process %d cannot create a userfaultfd",
				    pid);
	return gw_err_set(
		err, code,
		"process %d (user %ld) may not create a userfaultfd: run `sysctl "
		"vm.unprivileged_userfaultfd=1`, or give that user read and write "
		"permission on " UFFD_DEVICE ", or start the process with CAP_SYS_PTRACE",
		pid, uid);
}

/*
 * Our own threads fault here, so the reference that keeps them waiting when the
 * page server ends is a second descriptor.
 */
static int attach_self(enum gw_uffd_need need, bool keep, struct gw_err *err,
		       struct gw_uffd *ret)
{
	int fd = local_uffd(), kept = -1, r;

	if (fd < 0)
		return refused(getpid(), fd, err);
	r = handshake(fd, need, err);
	if (!r && keep) {
		kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (kept < 0)
			r = gw_err_errno(err, -errno, "keeping a userfaultfd open");
	}
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret = (struct gw_uffd){.fd = fd, .pid = getpid(), .remote_fd = kept};
	return 0;
}

/* One attempt: what the held thread needs to know, and what it got. */
struct attempt {
	struct gw_uffd uffd;
	enum gw_uffd_need need;
	bool keep;
	int pidfd;
	struct gw_err *err;
};

/* A call in the process; what failed there and here alike as negative errno. */
static long remote_call(struct gw_inject *in, long nr, uint64_t a, uint64_t b, uint64_t c,
			uint64_t d)
{
	const uint64_t args[] = {a, b, c, d};
	long ret;
	int r = gw_inject_syscall(in, nr, args, &ret);

	return r < 0 ? r : ret;
}

static long remote_device(struct gw_inject *in)
{
	uint64_t path;
	long device, fd;

	if (gw_inject_bytes(in, UFFD_DEVICE, sizeof(UFFD_DEVICE), &path))
		return -EPERM;
	device = remote_call(in, SYS_openat, (uint64_t)AT_FDCWD, path, O_RDWR | O_CLOEXEC,
			     0);
	if (device < 0)
		return device == -ESRCH ? device : -EPERM;
	fd = remote_call(in, SYS_ioctl, (uint64_t)device, USERFAULTFD_IOC_NEW, UFFD_FLAGS,
			 0);
	remote_call(in, SYS_close, (uint64_t)device, 0, 0, 0);
	return fd;
}

static int remote_uffd(struct gw_inject *in, struct attempt *attempt)
{
	long fd = remote_call(in, SYS_userfaultfd, UFFD_FLAGS, 0, 0, 0);

	if (fd == -EPERM)
		fd = remote_device(in);
	if (fd == -ESRCH)
		return gw_err_set(attempt->err, -ESRCH, "process %d has ended",
				  attempt->uffd.pid);
	if (fd < 0)
		return refused(attempt->uffd.pid, (int)fd, attempt->err);
	attempt->uffd.remote_fd = (int)fd;
	return 0;
}

static int take_descriptor(struct attempt *attempt)
{
	attempt->uffd.fd =
		(int)syscall(SYS_pidfd_getfd, attempt->pidfd, attempt->uffd.remote_fd, 0);
	if (attempt->uffd.fd < 0)
		return gw_err_errno(attempt->err, -errno,
				    "cannot take the userfaultfd of process %d",
				    attempt->uffd.pid);
	return handshake(attempt->uffd.fd, attempt->need, attempt->err);
}

static int attach_held(struct gw_inject *in, void *opaque)
{
	struct attempt *attempt = opaque;
	int r = remote_uffd(in, attempt);

	if (r < 0)
		return r;
	r = take_descriptor(attempt);
	if (r < 0 || !attempt->keep) {
		remote_call(in, SYS_close, (uint64_t)attempt->uffd.remote_fd, 0, 0, 0);
		attempt->uffd.remote_fd = -1;
	}
	return r;
}

static int attach_other(struct attempt *attempt, const struct gw_log *log)
{
	pid_t pid = attempt->uffd.pid;
	GW_AUTO_CLOSE int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	int r;

	if (pidfd < 0 && (errno == ESRCH || errno == EINVAL))
		return gw_err_set(attempt->err, -ESRCH, "there is no process %d", pid);
	if (pidfd < 0)
		return gw_err_errno(attempt->err, -errno, "cannot open process %d", pid);
	attempt->pidfd = pidfd;
	r = gw_inject_run(pid, attach_held, attempt, log, attempt->err);
	if (r < 0)
		gw_close(&attempt->uffd.fd);
	return r;
}

int gw_uffd_attach(pid_t pid, enum gw_uffd_need need, bool keep, const struct gw_log *log,
		   struct gw_err *err, struct gw_uffd *ret)
{
	struct attempt attempt = {
		.uffd = {.fd = -1, .pid = pid, .remote_fd = -1},
		.need = need,
		.keep = keep,
		.err = err,
	};
	int r;

	if (pid == 0 || pid == getpid())
		return attach_self(need, keep, err, ret);
	r = attach_other(&attempt, log);
	if (r < 0)
		return r;
	*ret = attempt.uffd;
	return 0;
}

/*
 * Whether number @remote_fd of the process is still the descriptor we left
 * there: the process may have closed it and opened something else.
 */
static bool still_ours(const struct gw_uffd *uffd)
{
	char path[64], link[64] = "";

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", uffd->pid, uffd->remote_fd);
	if (readlink(path, link, sizeof(link) - 1) < 0 || strcmp(link, UFFD_LINK))
		return false;
	/* 0: the same open file; negative: the kernel cannot tell. */
	return syscall(SYS_kcmp, getpid(), uffd->pid, KCMP_FILE, uffd->fd,
		       uffd->remote_fd) <= 0;
}

static int close_held(struct gw_inject *in, void *opaque)
{
	const struct gw_uffd *uffd = opaque;

	/* Asked again while held: a moment ago another thread may have closed it. */
	if (still_ours(uffd))
		remote_call(in, SYS_close, (uint64_t)uffd->remote_fd, 0, 0, 0);
	return 0;
}

int gw_uffd_release(struct gw_uffd *uffd, struct gw_err *err)
{
	int r = 0;

	if (uffd->remote_fd >= 0 && uffd->pid == getpid())
		close(uffd->remote_fd);
	else if (uffd->remote_fd >= 0 && still_ours(uffd))
		r = gw_inject_run(uffd->pid, close_held, uffd, NULL, err);
	gw_uffd_detach(uffd);
	return r == -ESRCH ? 0 : r;
}

void gw_uffd_detach(struct gw_uffd *uffd)
{
	gw_close(&uffd->fd);
	uffd->remote_fd = -1;
}
