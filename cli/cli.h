/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the command's files share: exit statuses and the subcommands. */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "godwit/godwit.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Scripts rely on these numbers: godwit(1) documents them. */
enum cli_status {
	CLI_DONE = 0,
	CLI_FAILED = 1, /* the source runs on, the destination never ran */
	CLI_USAGE = 2,
	CLI_CANCELLED = 3, /* as CLI_FAILED, on request */
	CLI_TIMEOUT = 4,   /* receive: no source came */
	CLI_UNDECIDED = 5, /* COMMIT left, no answer: the source must not run */
	CLI_PAUSED = 6,	   /* the destination runs and lacks pages */
	CLI_N_STATUSES,
};

/* Each takes the words after its name and returns the exit status. */
enum cli_status cli_send(int argc, char **argv);
enum cli_status cli_receive(int argc, char **argv);
enum cli_status cli_list(int argc, char **argv);
enum cli_status cli_cancel(int argc, char **argv);
enum cli_status cli_switch(int argc, char **argv);
enum cli_status cli_set(int argc, char **argv);
enum cli_status cli_bench(int argc, char **argv);

/* Closes *@fd once: a descriptor at rest is -1. */
static inline void cli_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}
