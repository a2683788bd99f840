/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A channel: a reliable, ordered, two-way stream of bytes to one peer.
 *
 * One thread may send and another receive at the same time; two senders need a
 * lock of their own. Calls block; gw_chan_shutdown() from any thread makes
 * every call, blocked or to come, fail, and is how a thread is stopped.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

struct gw_chan;

/* Positive results: conditions, not failures. */
enum {
	GW_CHAN_EOF = 1,     /* the peer ended the stream before the first byte */
	GW_CHAN_READY = 2,   /* bytes (or the end) can be received */
	GW_CHAN_TIMEOUT = 3, /* nothing within the time */
	GW_CHAN_WOKEN = 4,   /* the caller's wake descriptor became readable */
};

/*
 * Implementations fill this. Each does one attempt and may do less than asked.
 * sendv/recvv: bytes moved, 0 (recvv: end of stream), or negative errno.
 */
struct gw_chan_ops {
	ssize_t (*sendv)(struct gw_chan *chan, const struct iovec *iov, unsigned int n);
	ssize_t (*recvv)(struct gw_chan *chan, const struct iovec *iov, unsigned int n);
	int (*set_timeout)(struct gw_chan *chan, uint64_t ns);
	void (*shutdown)(struct gw_chan *chan);
	void (*free)(struct gw_chan *chan);
};

/* Embedded first in an implementation's own struct. */
struct gw_chan {
	const struct gw_chan_ops *ops;
	int poll_fd;	   /* readable when recvv has something; for poll() only */
	char name[96];	   /* for messages: "tcp 192.0.2.2:49152" */
	uint64_t sent;	   /* bytes; written by the sender, read by anybody */
	uint64_t received; /* bytes; written by the receiver, read by anybody */
	bool stopped;	   /* set by gw_chan_shutdown(), read by anybody; atomic */
};

/*
 * Sends all of it: 0 or negative errno (-EPIPE, -ECONNRESET, -ETIMEDOUT, …;
 * -ESHUTDOWN: this side called gw_chan_shutdown(), so it is never taken for
 * the peer's doing).
 */
int gw_chan_send(struct gw_chan *chan, const void *data, size_t len);
/* As above from @n pieces; the entries of @iov are changed. Any @n. */
int gw_chan_sendv(struct gw_chan *chan, struct iovec *iov, unsigned int n);
/* Receives exactly @len: 0, GW_CHAN_EOF, or negative errno (-EPIPE: ended within). */
int gw_chan_recv(struct gw_chan *chan, void *data, size_t len);
int gw_chan_recvv(struct gw_chan *chan, struct iovec *iov, unsigned int n);
/*
 * As gw_chan_recv(), all of it before @deadline (on gw_now()'s clock), however
 * the bytes come in; past it -ETIMEDOUT.
 */
int gw_chan_recv_by(struct gw_chan *chan, void *data, size_t len, uint64_t deadline);
/*
 * Waits until something can be received, @wake_fd (-1: none) is readable, or
 * @timeout_ns (UINT64_MAX: no limit) have passed.
 */
int gw_chan_wait(struct gw_chan *chan, uint64_t timeout_ns, int wake_fd);
/* A limit on each blocking attempt (0: none); past it calls return -ETIMEDOUT. */
int gw_chan_set_timeout(struct gw_chan *chan, uint64_t ns);
void gw_chan_shutdown(struct gw_chan *chan);
/* Shuts down and frees; takes NULL, returns NULL. */
struct gw_chan *gw_chan_free(struct gw_chan *chan);

/* ---- making channels ---- */

/* What the source connects through, and the destination accepts from. */
struct gw_dialer;
struct gw_listener;

struct gw_net_options {
	uint64_t connect_timeout_ns;
	uint64_t
		user_timeout_ns; /* TCP_USER_TIMEOUT and keepalive: a dead peer is noticed */
};

/*
 * @address: "HOST:PORT", "[V6]:PORT" or "unix:PATH". Names are resolved here;
 * each address is tried in turn at every dial.
 */
int gw_dialer_new(const char *address, const struct gw_net_options *options,
		  struct gw_err *err, struct gw_dialer **ret);
/* A new channel; @wake_fd readable ends it with -ECANCELED. */
int gw_dialer_dial(struct gw_dialer *dialer, int wake_fd, struct gw_err *err,
		   struct gw_chan **ret);
struct gw_dialer *gw_dialer_free(struct gw_dialer *dialer);

int gw_listener_new(const char *address, const struct gw_net_options *options,
		    struct gw_err *err, struct gw_listener **ret);
/* The bound address, in the form a dialer takes; port 0 is resolved. */
const char *gw_listener_address(const struct gw_listener *listener);
/*
 * Waits for a peer. 0, GW_CHAN_TIMEOUT, GW_CHAN_WOKEN, or negative errno.
 */
int gw_listener_accept(struct gw_listener *listener, uint64_t timeout_ns, int wake_fd,
		       struct gw_err *err, struct gw_chan **ret);
struct gw_listener *gw_listener_free(struct gw_listener *listener);

/*
 * Speed of the network link a channel leaves by, in Mbit/s; 0 when unknown
 * (Unix sockets, loopback, virtual links).
 */
uint64_t gw_chan_link_speed(const struct gw_chan *chan);

/* Of what has been sent. */
struct gw_chan_backlog {
	uint64_t unsent;  /* bytes that have not been on the network for the first time */
	uint64_t peer_ns; /* how long in all the peer had no room for more */
};

/* False where nobody knows: no TCP. The peer's time may be late by a tick. */
bool gw_chan_backlog(const struct gw_chan *chan, struct gw_chan_backlog *ret);

/* ---- in memory, for tests ---- */

/* Two ends of a pipe of @capacity bytes each way. */
int gw_mem_pair(size_t capacity, struct gw_chan **ret_a, struct gw_chan **ret_b);
/* A dialer and its listener within this process. */
int gw_mem_net(size_t capacity, struct gw_dialer **ret_dialer,
	       struct gw_listener **ret_listener);
/* Cuts the link of @chan after @bytes more have been sent by it: both ends fail. */
void gw_mem_cut_after(struct gw_chan *chan, uint64_t bytes);
/* Delays every byte sent by @chan by @ns. */
void gw_mem_set_latency(struct gw_chan *chan, uint64_t ns);
