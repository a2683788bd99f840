/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run directory. Once opened it is used through its descriptor alone
 * (/proc/self/fd/N as the way to a socket), so that it cannot be exchanged
 * behind the check and its path may be longer than a socket's address.
 */
#include "cli/rundir.h"

#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define SUFFIX ".sock"
/* Connections that may wait while the migration is busy; more are told to wait. */
#define BACKLOG 16

bool rundir_name_valid(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > RUNDIR_NAME_MAX || name[0] == '.' || name[0] == '-')
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("._-", *name))
			return false;
	return true;
}

/* ---- the directory ---- */

static void default_path(char *buf, size_t size)
{
	const char *base = getenv("XDG_RUNTIME_DIR");

	if (geteuid() == 0)
		snprintf(buf, size, "/run/godwit");
	else if (base && base[0] == '/')
		snprintf(buf, size, "%s/godwit", base);
	else
		snprintf(buf, size, "/tmp/godwit-%u", geteuid());
}

static int check(int fd, const char *path, godwit_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return godwit_error_set(err, -errno, "%s: %s", path, strerror(errno));
	if (st.st_uid != geteuid())
		return godwit_error_set(
			err, -EPERM,
			"the run directory %s belongs to user %u and not to "
			"you: name another one with --run-dir",
			path, st.st_uid);
	if (st.st_mode & 077)
		return godwit_error_set(
			err, -EPERM,
			"the run directory %s is open to others (mode %o): "
			"chmod 700 it, or name another one with --run-dir",
			path, st.st_mode & 07777);
	return 0;
}

static int open_error(int error, const char *path, godwit_error *err)
{
	if (error == ELOOP || error == ENOTDIR)
		return godwit_error_set(
			err, -error,
			"the run directory %s is no directory: remove it, or "
			"name another one with --run-dir",
			path);
	return godwit_error_set(
		err, -error, "the run directory %s: %s; name another one with --run-dir",
		path, strerror(error));
}

int rundir_open(const char *path, bool create, godwit_error *err, struct rundir *ret)
{
	struct rundir dir = {.fd = -1};
	int r;

	if (path)
		snprintf(dir.path, sizeof(dir.path), "%s", path);
	else
		default_path(dir.path, sizeof(dir.path));
	if (create && mkdir(dir.path, 0700) < 0 && errno != EEXIST)
		return open_error(errno, dir.path, err);
	/* O_NOFOLLOW: in /tmp somebody else may have put a link there */
	dir.fd = open(dir.path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir.fd < 0)
		return open_error(errno, dir.path, err);
	r = check(dir.fd, dir.path, err);
	if (r < 0) {
		close(dir.fd);
		return r;
	}
	*ret = dir;
	return 0;
}

void rundir_close(struct rundir *dir)
{
	cli_close(&dir->fd);
}

/* Closing the directory would let go of it as well. */
static void lock(const struct rundir *dir)
{
	while (flock(dir->fd, LOCK_EX) < 0 && errno == EINTR)
		;
}

static void unlock(const struct rundir *dir)
{
	flock(dir->fd, LOCK_UN);
}

/* ---- sockets ---- */

static void file_name(const char *name, char *buf, size_t size)
{
	snprintf(buf, size, "%s" SUFFIX, name);
}

static struct sockaddr_un address(const struct rundir *dir, const char *name)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};

	static_assert(sizeof(to.sun_path) > sizeof("/proc/self/fd/2147483647/" SUFFIX) +
						    RUNDIR_NAME_MAX,
		      "every valid name fits");
	snprintf(to.sun_path, sizeof(to.sun_path), "/proc/self/fd/%d/%.*s" SUFFIX,
		 dir->fd, RUNDIR_NAME_MAX, name);
	return to;
}

static int new_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? -errno : fd;
}

int rundir_connect(const struct rundir *dir, const char *name)
{
	const struct sockaddr_un to = address(dir, name);
	int fd = new_socket();
	int r;

	if (fd < 0)
		return fd;
	if (connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

/* With the lock. Anything that is no socket refuses connections too: leave it. */
static int remove_stale(const struct rundir *dir, const char *name)
{
	char file[RUNDIR_NAME_MAX + sizeof(SUFFIX)];
	struct stat st;
	int fd = rundir_connect(dir, name);

	if (fd >= 0) {
		close(fd);
		return -EADDRINUSE;
	}
	if (fd == -ENOENT)
		return 0;
	if (fd != -ECONNREFUSED)
		return fd == -EAGAIN ? -EADDRINUSE : fd;
	file_name(name, file, sizeof(file));
	if (fstatat(dir->fd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	return unlinkat(dir->fd, file, 0) < 0 ? -errno : 0;
}

void rundir_sweep(const struct rundir *dir, const char *name)
{
	lock(dir);
	remove_stale(dir, name);
	unlock(dir);
}

void rundir_unlink(const struct rundir *dir, const char *name)
{
	char file[RUNDIR_NAME_MAX + sizeof(SUFFIX)];

	file_name(name, file, sizeof(file));
	unlinkat(dir->fd, file, 0);
}

static int bind_new(const struct rundir *dir, const char *name, int *ret_fd)
{
	const struct sockaddr_un to = address(dir, name);
	int fd = new_socket();
	int r;

	if (fd < 0)
		return fd;
	/* bind() gives the file the socket's own mode; no window, no umask */
	if (fchmod(fd, 0600) < 0 ||
	    bind(fd, (const struct sockaddr *)&to, sizeof(to)) < 0 ||
	    listen(fd, BACKLOG) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

int rundir_listen(const struct rundir *dir, const char *name, godwit_error *err,
		  int *ret_fd)
{
	int r;

	lock(dir);
	r = remove_stale(dir, name);
	if (!r)
		r = bind_new(dir, name, ret_fd);
	unlock(dir);
	if (r == -EADDRINUSE)
		return godwit_error_set(
			err, r,
			"a migration called '%s' is running already: give "
			"this one another --name",
			name);
	if (r < 0)
		return godwit_error_set(err, r, "the control socket %s/%s" SUFFIX ": %s",
					dir->path, name, strerror(-r));
	return 0;
}

/* ---- all of them ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Cuts the suffix off; false when it is no control socket's name. */
static bool socket_name(const char *file, char name[RUNDIR_NAME_MAX + 1])
{
	size_t len = strlen(file), suffix = strlen(SUFFIX);

	if (len <= suffix || len - suffix > RUNDIR_NAME_MAX ||
	    strcmp(file + len - suffix, SUFFIX) != 0)
		return false;
	snprintf(name, RUNDIR_NAME_MAX + 1, "%.*s", (int)(len - suffix), file);
	return rundir_name_valid(name);
}

/* Far more than anyone runs; a directory with more holds something else. */
#define LIST_MAX 1024

int rundir_list(const struct rundir *dir, char ***ret)
{
	size_t room = (LIST_MAX + 1) * sizeof(char *) + LIST_MAX * (RUNDIR_NAME_MAX + 1);
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	char **names = calloc(1, room);
	char *next = (char *)(names + LIST_MAX + 1);
	struct dirent *entry;
	int n = 0;

	if (!stream || !names) {
		free(names);
		if (stream)
			closedir(stream);
		else
			cli_close(&fd);
		return -ENOMEM;
	}
	while (n < LIST_MAX && (entry = readdir(stream))) {
		if (!socket_name(entry->d_name, next))
			continue;
		names[n++] = next;
		next += RUNDIR_NAME_MAX + 1;
	}
	closedir(stream);
	qsort(names, (size_t)n, sizeof(*names), by_name);
	*ret = names;
	return n;
}
