/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket of a migration under way: JSON lines from `godwit status`,
 * cancel, switch and set, or from any script.
 *
 *     {"command": "status" | "cancel" | "switch" | "set", "name": …, "value": …}
 *     {"ok": true, …}   or   {"ok": false, "error": "…"}
 *
 * One thread serves all clients without ever waiting for one: a client gets its
 * next answer when it has read the last one. When all places are taken, the
 * client that has been silent longest loses its own.
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "cli/rundir.h"

#define CONTROL_LINE_MAX    65536 /* bytes of a request, with its newline */
#define CONTROL_CLIENTS_MAX 16

/* A request; strings are "" when it has none. */
struct control_request {
	const char *command;
	const char *name;
	const char *value;
};

/* Returns the answer; NULL when memory is out. */
typedef json_t *control_fn(void *opaque, const struct control_request *request);

struct control_client {
	int fd;	       /* -1: a free place */
	uint64_t last; /* control->clock when it last sent or took something */
	char *in;      /* CONTROL_LINE_MAX bytes, in_used of them filled */
	size_t in_used;
	char *out; /* the answer on its way, or NULL */
	size_t out_len, out_sent;
	bool ending; /* goes once the answer is out */
};

struct control {
	struct rundir dir;
	char name[RUNDIR_NAME_MAX + 1];
	int listen_fd;
	int epoll_fd; /* readable when control_serve() has something to do */
	bool deaf;    /* accept() failed: not listening until the next control_serve() */
	uint64_t clock;
	control_fn *handler;
	void *opaque;
	struct control_client clients[CONTROL_CLIENTS_MAX];
};

/* Nothing is open; control_close() may be called from now on. */
void control_init(struct control *control);
/* The socket is there afterwards; @handler is called by control_serve() alone. */
int control_open(struct control *control, const char *run_dir, const char *name,
		 control_fn *handler, void *opaque, godwit_error *err);
/* Never waits. */
void control_serve(struct control *control);
/* Ends all connections and removes the socket. */
void control_close(struct control *control);

/* {"ok": false, "error": …}; NULL when memory is out. */
json_t *control_refusal(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
