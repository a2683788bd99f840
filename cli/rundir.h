/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run directory: one control socket, NAME.sock, for each migration under
 * way. Whoever can connect can cancel a migration, so the directory belongs to
 * us alone and is refused otherwise. A socket that refuses connections was left
 * by a process that was killed; it may be replaced or removed, under the
 * directory's lock, since a socket just bound refuses them too.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "cli/cli.h"

#define RUNDIR_NAME_MAX 63 /* bytes of a migration's name */

struct rundir {
	int fd;
	char path[PATH_MAX]; /* for messages */
};

/* Letters, digits, '.', '_' and '-', not first '.' or '-'. */
bool rundir_name_valid(const char *name);

/*
 * Opens @path, or the user's own run directory when it is NULL. @create: makes
 * it if needed; otherwise -ENOENT (no migration ever ran).
 */
int rundir_open(const char *path, bool create, godwit_error *err, struct rundir *ret);
void rundir_close(struct rundir *dir);

/* Binds NAME.sock and listens, non-blocking. -EADDRINUSE: such a one is alive. */
int rundir_listen(const struct rundir *dir, const char *name, godwit_error *err,
		  int *ret_fd);
/* Connects, non-blocking: a descriptor, -ECONNREFUSED (stale), -EAGAIN (busy), … */
int rundir_connect(const struct rundir *dir, const char *name);
/* Removes NAME.sock if it is stale. */
void rundir_sweep(const struct rundir *dir, const char *name);
/* Removes our own NAME.sock. */
void rundir_unlink(const struct rundir *dir, const char *name);

/*
 * The names of the sockets that are there, sorted, ended by NULL: one block for
 * free(). Returns their number or a negative errno.
 */
int rundir_list(const struct rundir *dir, char ***ret);
