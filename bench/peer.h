/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The side that drives: a conversation with a bench_serve(), here or elsewhere. */
#pragma once

#include <pthread.h>

#include "bench/bench.h"
#include "bench/net.h"

struct bench_peer {
	const struct bench_config *config;
	struct bench_link link;
	bool open;
	bool local; /* it is a thread of this process */
	pthread_t thread;
	int thread_fd;	/* handed to the thread */
	char host[256]; /* as it is put before a port */
};

/* Connects to config->to, or starts a thread where that is NULL. */
int bench_peer_open(struct bench_peer *peer, const struct bench_config *config,
		    struct gw_err *err);
/* Also on one that was not opened. */
void bench_peer_close(struct bench_peer *peer);

/* Sends @request (taken) and waits for the answer (NULL: not wanted). */
int bench_peer_ask(struct bench_peer *peer, json_t *request, struct gw_err *err,
		   json_t **ret);
/* As above for the next answer of several. What the peer calls a failure is one. */
int bench_peer_hear(struct bench_peer *peer, uint64_t patience_ns, struct gw_err *err,
		    json_t **ret);
/* Where an answer says that the peer listens now. */
int bench_peer_where(const struct bench_peer *peer, const json_t *answer, char *buf,
		     size_t size, struct gw_err *err);

/* Connects @n plain streams, as @request (taken) for them is answered. */
int bench_peer_streams(struct bench_peer *peer, json_t *request, unsigned int n,
		       struct gw_err *err, int *ret_fds);
