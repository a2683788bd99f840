/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting for peers on TCP or a Unix socket.
 *
 * A Unix socket leaves a file behind when its program dies. Such a file is
 * replaced; one that somebody still has open is not, nor is anything that is
 * not a socket. At the end the file is removed if it is still the one that was
 * made here.
 */
#include "transport/net.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "transport/address.h"

struct socket_listener {
	struct gw_listener base;
	struct gw_net_options options;
	struct gw_endpoint bound;
	dev_t dev; /* of the Unix socket's file; 0 with ino: none */
	ino_t ino;
};

/* What the user can do about @code. */
static int listen_error(const char *where, int code, struct gw_err *err)
{
	const char *remedy = "";

	switch (code) {
	case -EADDRINUSE:
		remedy =
			": another program listens there (`ss -lxtp` names it); end it or "
			"choose another address";
		break;
	case -EADDRNOTAVAIL:
		remedy =
			": no interface of this host has that address (`ip address` lists "
			"them); [::] stands for all";
		break;
	case -EAFNOSUPPORT:
		remedy =
			": IPv6 is switched off on this host; 0.0.0.0 stands for all of IPv4";
		break;
	case -EACCES:
		remedy = ": ports below 1024 and foreign folders need privileges; choose "
			 "another address";
		break;
	case -ENOENT:
		remedy = ": the folder does not exist";
		break;
	case -EEXIST:
		remedy = ": it is there and is not a socket; choose another path";
		break;
	}
	return gw_err_set(err, code, "cannot listen on %s: %s%s", where,
			  strerrordesc_np(-code) ?: "unknown error", remedy);
}

/*
 * 0 when nobody has the socket file @local open, or -EADDRINUSE. A datagram
 * socket asks: a live stream socket refuses it by its type without noticing.
 */
static int probe_unix(const struct sockaddr_un *local)
{
	GW_AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)local, sizeof(*local)) &&
	    (errno == ECONNREFUSED || errno == ENOENT))
		return 0;
	return errno == EACCES ? -EACCES : -EADDRINUSE;
}

/* Makes way for a new socket file, or says why not. */
static int clear_unix_path(const struct sockaddr_un *local)
{
	struct stat st;
	int r;

	if (lstat(local->sun_path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	r = probe_unix(local);
	if (r)
		return r;
	return unlink(local->sun_path) && errno != ENOENT ? -errno : 0;
}

static int prepare_unix(int fd, const struct gw_endpoint *at)
{
	int r = clear_unix_path(&at->u.local);

	if (r)
		return r;
	/* On Linux bind() gives the file the mode of the descriptor: no gap, no umask. */
	return fchmod(fd, 0600) ? -errno : 0;
}

static int prepare_tcp(int fd, const struct gw_endpoint *at)
{
	int on = 1, off = 0;

	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)))
		return -errno;
	/* The wildcard takes IPv4 too, whatever the system's default. */
	if (at->u.any.sa_family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)))
		return -errno;
	return 0;
}

/* A socket that listens at @at, or negative errno. */
static int listen_at(const struct gw_endpoint *at)
{
	GW_AUTO_CLOSE int fd = -1;
	bool local = at->u.any.sa_family == AF_UNIX;
	int r;

	fd = socket(at->u.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = local ? prepare_unix(fd, at) : prepare_tcp(fd, at);
	if (r)
		return r;
	if (bind(fd, &at->u.any, at->len))
		return -errno;
	if (listen(fd, SOMAXCONN)) {
		r = -errno;
		if (local)
			unlink(at->u.local.sun_path);
		return r;
	}
	r = fd;
	fd = -1;
	return r;
}

static void remove_own_file(const struct socket_listener *listener)
{
	const char *path = listener->bound.u.local.sun_path;
	struct stat st;

	if (!listener->ino || lstat(path, &st))
		return;
	if (st.st_dev == listener->dev && st.st_ino == listener->ino)
		unlink(path);
}

static void listener_free(struct gw_listener *base)
{
	struct socket_listener *listener = (struct socket_listener *)base;

	remove_own_file(listener);
	gw_close(&listener->base.poll_fd);
	free(listener);
}

static int accept_error(const struct socket_listener *listener, int code,
			struct gw_err *err)
{
	if (code == -EMFILE || code == -ENFILE)
		return gw_err_errno(err, code,
				    "cannot accept on %s (raise `ulimit -n` or use fewer "
				    "channels)",
				    listener->base.address);
	return gw_err_errno(err, code, "cannot accept on %s", listener->base.address);
}

/* Lack of something here; all else accept() reports is a peer that failed early. */
static bool is_our_failure(int code)
{
	switch (code) {
	case -EMFILE:
	case -ENFILE:
	case -ENOMEM:
	case -ENOBUFS:
	case -EBADF:
	case -EINVAL:
	case -ENOTSOCK:
		return true;
	default:
		return false;
	}
}

static int listener_accept(struct gw_listener *base, struct gw_err *err,
			   struct gw_chan **ret)
{
	struct socket_listener *listener = (struct socket_listener *)base;
	struct gw_endpoint peer = {.len = sizeof(peer.u)};
	int family = listener->bound.u.any.sa_family;
	char name[GW_NET_ADDRESS_MAX];
	int fd;

	fd = accept4(base->poll_fd, &peer.u.any, &peer.len, SOCK_CLOEXEC);
	if (fd < 0 && is_our_failure(-errno))
		return accept_error(listener, -errno, err);
	if (fd < 0)
		return GW_CHAN_TIMEOUT;
	/* The connecting side of a Unix socket has no name: the file's has to do. */
	gw_endpoint_format(family == AF_UNIX ? &listener->bound : &peer, name,
			   sizeof(name));
	return gw_socket_chan_new(fd, family, name, &listener->options, err, ret);
}

static const struct gw_listener_ops listener_ops = {
	.accept = listener_accept,
	.free = listener_free,
};

/* Remembers where it is bound, and which file that made. */
static int note_bound(struct socket_listener *listener, const struct gw_endpoint *at)
{
	struct stat st;

	listener->bound = *at;
	if (at->u.any.sa_family != AF_UNIX) {
		listener->bound.len = sizeof(listener->bound.u);
		if (getsockname(listener->base.poll_fd, &listener->bound.u.any,
				&listener->bound.len))
			return -errno;
	} else if (!lstat(at->u.local.sun_path, &st)) {
		listener->dev = st.st_dev;
		listener->ino = st.st_ino;
	}
	gw_endpoint_format(&listener->bound, listener->base.address,
			   sizeof(listener->base.address));
	return 0;
}

/* Listens at the first address of the name that can be had. */
static int open_listener(struct socket_listener *listener,
			 const struct gw_endpoints *endpoints)
{
	int fd = -EADDRNOTAVAIL;
	unsigned int i;

	for (i = 0; i < endpoints->n; i++) {
		fd = listen_at(&endpoints->list[i]);
		if (fd >= 0)
			break;
	}
	if (fd < 0)
		return fd;
	listener->base.poll_fd = fd;
	return note_bound(listener, &endpoints->list[i]);
}

int gw_listener_new(const char *text, const struct gw_net_options *options,
		    struct gw_err *err, struct gw_listener **ret)
{
	struct socket_listener *listener;
	struct gw_endpoints endpoints;
	struct gw_address address;
	int r;

	r = gw_address_parse(text, err, &address);
	if (!r)
		r = gw_address_resolve(&address, true, err, &endpoints);
	if (r)
		return r;
	listener = calloc(1, sizeof(*listener));
	if (!listener)
		return listen_error(text, -ENOMEM, err);
	listener->base.ops = &listener_ops;
	listener->base.poll_fd = -1;
	listener->options = *options;
	r = open_listener(listener, &endpoints);
	if (r) {
		listener_free(&listener->base);
		return listen_error(text, r, err);
	}
	*ret = &listener->base;
	return 0;
}
