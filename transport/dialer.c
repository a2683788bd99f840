/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connecting to a peer over TCP or a Unix socket.
 *
 * The name is resolved once; every dial tries each of its addresses in turn,
 * each with the full time limit, and the error names all that were tried. The
 * socket does not block while it connects, so that a wake descriptor can end
 * the attempt.
 */
#include "transport/net.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "transport/address.h"

/* How long to wait before asking again for a place in a Unix socket's queue. */
#define UNIX_RETRY_NS (5 * GW_NSEC / 1000)

struct socket_dialer {
	struct gw_dialer base;
	struct gw_net_options options;
	char *text; /* the address as it was given, for messages */
	struct gw_endpoints endpoints;
};

static void dialer_free(struct gw_dialer *base)
{
	struct socket_dialer *dialer = (struct socket_dialer *)base;

	free(dialer->text);
	free(dialer);
}

/* A positive answer of gw_net_poll() as the error it means here. */
static int poll_error(int r)
{
	if (r == GW_CHAN_WOKEN)
		return -ECANCELED;
	return r == GW_CHAN_TIMEOUT ? -ETIMEDOUT : r;
}

/* Waits for the answer of a connection under way. */
static int finish_connect(int fd, uint64_t deadline, int wake_fd)
{
	socklen_t len = sizeof(int);
	int code, r;

	r = gw_net_poll(fd, POLLOUT, deadline, wake_fd);
	if (r != GW_CHAN_READY)
		return poll_error(r);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len))
		return -errno;
	return -code;
}

static int connect_until(int fd, const struct gw_endpoint *to, uint64_t deadline,
			 int wake_fd)
{
	for (;;) {
		uint64_t retry;
		int r;

		if (!connect(fd, &to->u.any, to->len))
			return 0;
		if (errno == EINPROGRESS || errno == EINTR)
			return finish_connect(fd, deadline, wake_fd);
		if (errno != EAGAIN || to->u.any.sa_family != AF_UNIX)
			return -errno;
		/* The peer's queue is full, and nothing tells when it no longer is. */
		retry = GW_MIN(gw_net_deadline(UNIX_RETRY_NS), deadline);
		r = gw_net_poll(-1, 0, retry, wake_fd);
		if (r != GW_CHAN_TIMEOUT || retry == deadline)
			return poll_error(r);
	}
}

/*
 * A port of this host that the kernel also hands out to clients can be
 * connected to itself when nobody listens on it.
 */
static bool is_own_echo(int fd)
{
	struct gw_endpoint here = {.len = sizeof(here.u)},
			   there = {.len = sizeof(there.u)};

	return !getsockname(fd, &here.u.any, &here.len) &&
	       !getpeername(fd, &there.u.any, &there.len) &&
	       here.u.any.sa_family != AF_UNIX && here.len == there.len &&
	       !memcmp(&here.u, &there.u, here.len);
}

static int set_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) ? -errno : 0;
}

/* A connected, blocking socket, or negative errno. */
static int connect_endpoint(const struct gw_endpoint *to, uint64_t timeout_ns,
			    int wake_fd)
{
	uint64_t deadline = gw_net_deadline(timeout_ns ? timeout_ns : UINT64_MAX);
	GW_AUTO_CLOSE int fd = -1;
	int r;

	fd = socket(to->u.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = connect_until(fd, to, deadline, wake_fd);
	if (!r && is_own_echo(fd))
		r = -ECONNREFUSED;
	if (!r)
		r = set_blocking(fd);
	if (r)
		return r;
	r = fd;
	fd = -1;
	return r;
}

static const char *reason(int code)
{
	return strerrordesc_np(-code) ?: "unknown error";
}

/* Adds "ADDRESS: REASON" to the list of what was tried. */
static void note_attempt(const struct gw_endpoint *to, int code, char *tried, size_t size)
{
	char where[GW_NET_ADDRESS_MAX];
	size_t used = strlen(tried);

	gw_endpoint_format(to, where, sizeof(where));
	snprintf(tried + used, size - used, "%s%s: %s", used ? ", " : "", where,
		 reason(code));
}

/* What the user can do about @code. */
static int dial_error(const struct socket_dialer *dialer, int code, const char *why,
		      struct gw_err *err)
{
	const char *to = dialer->text;

	switch (code) {
	case -ECANCELED:
		return gw_err_set(err, code, "connecting to %s was called off", to);
	case -ECONNREFUSED:
	case -ENOENT:
		return gw_err_set(err, code,
				  "cannot connect to %s: %s: is `godwit receive --listen "
				  "%s` running there?",
				  to, why, to);
	case -ETIMEDOUT:
		return gw_err_set(
			err, code,
			"cannot connect to %s: %s (limit %.1f s): check the "
			"address, that the host is up, and firewalls on the way",
			to, why, (double)dialer->options.connect_timeout_ns / 1e9);
	case -ENETUNREACH:
	case -EHOSTUNREACH:
		return gw_err_set(err, code,
				  "cannot connect to %s: %s: check the address and the "
				  "route to it (`ip route get ADDRESS`)",
				  to, why);
	case -EACCES:
	case -EPERM:
		return gw_err_set(
			err, code,
			"cannot connect to %s: %s: run as the user that listens "
			"there, or check the firewall of this host",
			to, why);
	default:
		return gw_err_set(err, code, "cannot connect to %s: %s", to, why);
	}
}

static int dial(struct gw_dialer *base, int wake_fd, struct gw_err *err,
		struct gw_chan **ret)
{
	struct socket_dialer *dialer = (struct socket_dialer *)base;
	char tried[GW_ERR_TEXT_MAX / 2] = "";
	int r = 0;

	for (unsigned int i = 0; i < dialer->endpoints.n; i++) {
		const struct gw_endpoint *to = &dialer->endpoints.list[i];
		char peer[GW_NET_ADDRESS_MAX];

		r = connect_endpoint(to, dialer->options.connect_timeout_ns, wake_fd);
		if (r >= 0) {
			gw_endpoint_format(to, peer, sizeof(peer));
			return gw_socket_chan_new(r, to->u.any.sa_family, peer,
						  &dialer->options, err, ret);
		}
		if (r == -ECANCELED)
			break;
		note_attempt(to, r, tried, sizeof(tried));
	}
	return dial_error(dialer, r, dialer->endpoints.n > 1 ? tried : reason(r), err);
}

static const struct gw_dialer_ops dialer_ops = {
	.dial = dial,
	.free = dialer_free,
};

int gw_dialer_new(const char *text, const struct gw_net_options *options,
		  struct gw_err *err, struct gw_dialer **ret)
{
	struct socket_dialer *dialer;
	struct gw_address address;
	int r;

	r = gw_address_parse(text, err, &address);
	if (r)
		return r;
	if (address.host[0] && !address.port)
		return gw_err_set(
			err, -EINVAL,
			"cannot connect to %s: port 0 is for listening; give the "
			"port that the receiving side printed",
			text);
	dialer = calloc(1, sizeof(*dialer));
	if (!dialer || !(dialer->text = strdup(text))) {
		free(dialer);
		return gw_err_errno(err, -ENOMEM, "cannot connect to %s", text);
	}
	dialer->base.ops = &dialer_ops;
	dialer->options = *options;
	r = gw_address_resolve(&address, false, err, &dialer->endpoints);
	if (r) {
		dialer_free(&dialer->base);
		return r;
	}
	*ret = &dialer->base;
	return 0;
}
