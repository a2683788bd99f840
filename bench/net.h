/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plain sockets, with nothing of the engine's in them (they are what it is
 * measured against), and lines of JSON over them.
 */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"

#define BENCH_ADDRESS_MAX 300

/* A listening socket at @address ("HOST:PORT", "[V6]:PORT", "unix:PATH"), or an error. */
int bench_listen(const char *address, struct gw_err *err);
/* The port a listening socket has; 0 for a Unix one. */
uint16_t bench_port_of(int fd);
/*
 * The next connection before @deadline (on gw_now()'s clock). -ETIMEDOUT, or
 * -EPIPE when @control (-1: none) became readable or ended: nobody will come.
 */
int bench_accept(int listener, int control, uint64_t deadline, struct gw_err *err);
/* A connected, blocking socket, or an error that names the remedy. */
int bench_connect(const char *address, struct gw_err *err);

/* Exactly @len bytes before @deadline, or negative errno (-EPIPE: the end came). */
int bench_recv_by(int fd, void *data, size_t len, uint64_t deadline);

/* No line is longer. */
#define BENCH_LINE_MAX (256U << 10)

/* One end of a conversation in lines, each a JSON object. */
struct bench_link {
	int fd; /* owned; -1: none */
	char *line;
	size_t used; /* bytes of what comes after the last line taken */
};

/* Takes @fd, also when it fails. */
int bench_link_init(struct bench_link *link, int fd, struct gw_err *err);
void bench_link_deinit(struct bench_link *link);
/*
 * Takes @object (NULL: out of memory). A line that fits into the socket's buffer
 * goes whole, so that two threads may send short ones.
 */
int bench_link_send(struct bench_link *link, json_t *object, struct gw_err *err);
/*
 * The next object, before @deadline. -EPIPE: the peer is gone; -EBADMSG: no
 * JSON object, or too long; -ETIMEDOUT.
 */
int bench_link_recv(struct bench_link *link, uint64_t deadline, struct gw_err *err,
		    json_t **ret);
