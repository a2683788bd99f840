/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client of QEMU's machine protocol (QMP): JSON objects, one a line, over a
 * Unix socket. One thread at a time; every wait has a deadline.
 *
 * Commands carry a number of their own, so the answer to one that was given up
 * is recognised and dropped later. Of the events only those that a migration
 * looks at (STOP, RESUME, MIGRATION) are kept, the newest GW_QMP_EVENTS_MAX of
 * them, until they are asked for.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define GW_QMP_EVENTS_MAX 32U
/* query-* answers can be large, but a line beyond this is no QMP */
#define GW_QMP_LINE_MAX (1U << 20)
#define GW_QMP_TIMEOUT	1 /* an expected condition: nothing came in time */

struct gw_qmp;

struct gw_qmp_event {
	char name[16];
	uint64_t realtime_ns; /* QEMU's own time stamp, CLOCK_REALTIME; 0: it had none */
	json_t *data;	      /* NULL when the event has none */
};

void gw_qmp_event_deinit(struct gw_qmp_event *event);

/*
 * Connects to the monitor at @path and negotiates. @timeout_ns bounds that and
 * each command later. -EBUSY: connected, but never greeted, which is what a
 * monitor does that another client uses.
 */
int gw_qmp_connect(const char *path, uint64_t timeout_ns, struct gw_err *err,
		   struct gw_qmp **ret);
/* The same on a connected socket; takes @fd, also on failure. */
int gw_qmp_adopt(int fd, uint64_t timeout_ns, struct gw_err *err, struct gw_qmp **ret);
struct gw_qmp *gw_qmp_free(struct gw_qmp *qmp);

/* A descriptor that ends every wait with -ECANCELED once readable; -1: none. Borrowed. */
void gw_qmp_set_wake(struct gw_qmp *qmp, int wake_fd);
void gw_qmp_set_timeout(struct gw_qmp *qmp, uint64_t timeout_ns);

/* Major version * 1000 + minor: 7002 for 7.2. */
unsigned int gw_qmp_version(const struct gw_qmp *qmp);
/* The process that opened the monitor; 0 when it cannot be seen from here. */
pid_t gw_qmp_peer(const struct gw_qmp *qmp);
/* To poll() for; readable: call gw_qmp_receive(). */
int gw_qmp_fd(const struct gw_qmp *qmp);

/*
 * Executes @command with @args (taken, also on failure; NULL: none) and hands
 * over @fd with it (-1: none; borrowed). @ret is the answer's "return", owned by
 * the caller, and may be NULL. -EREMOTEIO: QEMU refused, -EOPNOTSUPP: it knows
 * no such command, -ECONNRESET: it is gone, -ETIMEDOUT: it did not answer.
 */
int gw_qmp_execute(struct gw_qmp *qmp, const char *command, json_t *args, int fd,
		   struct gw_err *err, json_t **ret);

/* Takes in what has arrived, without waiting. */
int gw_qmp_receive(struct gw_qmp *qmp, struct gw_err *err);
/* The oldest kept event of that name, which is then ours to deinit; false: none. */
bool gw_qmp_take_event(struct gw_qmp *qmp, const char *name, struct gw_qmp_event *ret);
/* Waits for it until @deadline (gw_now()); GW_QMP_TIMEOUT when it did not come. */
int gw_qmp_wait_event(struct gw_qmp *qmp, const char *name, uint64_t deadline,
		      struct gw_err *err, struct gw_qmp_event *ret);
/* Forgets the events of that name. */
void gw_qmp_drop_events(struct gw_qmp *qmp, const char *name);
