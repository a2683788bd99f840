/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the makers of channels share: dialers and listeners as small tables of
 * functions (sockets and the in-memory net fill them), and waiting.
 */
#pragma once

#include <sys/socket.h>

#include "transport/chan.h"

/* "unix:" and the longest path, or "[V6%scope]:port". */
#define GW_NET_ADDRESS_MAX 128

struct gw_dialer_ops {
	int (*dial)(struct gw_dialer *dialer, int wake_fd, struct gw_err *err,
		    struct gw_chan **ret);
	void (*free)(struct gw_dialer *dialer);
};

/* Embedded first in an implementation's own struct. */
struct gw_dialer {
	const struct gw_dialer_ops *ops;
};

struct gw_listener_ops {
	/*
	 * Takes a peer that is there already: 0, GW_CHAN_TIMEOUT when there is
	 * none at the moment, or negative errno. Never waits.
	 */
	int (*accept)(struct gw_listener *listener, struct gw_err *err,
		      struct gw_chan **ret);
	void (*free)(struct gw_listener *listener);
};

/* Embedded first in an implementation's own struct. */
struct gw_listener {
	const struct gw_listener_ops *ops;
	int poll_fd; /* readable when a peer may be there */
	char address[GW_NET_ADDRESS_MAX];
};

/* The moment @timeout_ns from now on gw_now()'s clock; UINT64_MAX stays "never". */
uint64_t gw_net_deadline(uint64_t timeout_ns);
/*
 * Waits for @events on @fd (-1: none), @wake_fd (-1: none) readable, or
 * @deadline. GW_CHAN_WOKEN (before all else), GW_CHAN_READY, GW_CHAN_TIMEOUT or
 * negative errno.
 */
int gw_net_poll(int fd, short events, uint64_t deadline, int wake_fd);

/*
 * A channel over the connected, blocking stream socket @fd, which it takes
 * also when it fails. @peer is for messages. Sets the TCP options where
 * @family is not AF_UNIX.
 */
int gw_socket_chan_new(int fd, int family, const char *peer,
		       const struct gw_net_options *options, struct gw_err *err,
		       struct gw_chan **ret);

/*
 * Speed in Mbit/s of the link @name as the folder @class_dir (of the form of
 * /sys/class/net) tells it; 0 when unknown or not a device of its own.
 */
uint64_t gw_link_speed_at(const char *class_dir, const char *name);
