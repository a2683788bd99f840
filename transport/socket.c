/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Channels over TCP and Unix stream sockets.
 *
 * The socket blocks; a limit on waiting is SO_RCVTIMEO and SO_SNDTIMEO, so the
 * usual transfer costs one system call and no poll(). Buffer sizes are left to
 * the kernel: setting them would switch its tuning off. The exception is a peer
 * on this very host: there is no delay to bridge, and what waits in a buffer
 * that is larger than the processor's cache is fetched from memory twice.
 */
#include "transport/net.h"

#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include "base/util.h"

/* Probes that go unanswered before a silent peer is given up. */
#define KEEPALIVE_PROBES 3

/* Each way, for a peer on this host; the kernel doubles it. See docs/performance.md. */
#define LOCAL_BUFFER (256 << 10)
/* A receive so long is bulk: it is worth sleeping once for all of it. */
#define WAIT_FOR_ALL (64U << 10)

/* EAGAIN on a blocking socket is the time limit: say it as one. */
static ssize_t moved(ssize_t n)
{
	if (n >= 0)
		return n;
	return errno == EAGAIN ? -ETIMEDOUT : -errno;
}

static ssize_t socket_sendv(struct gw_chan *chan, const struct iovec *iov, unsigned int n)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n};

	return moved(sendmsg(chan->poll_fd, &msg, MSG_NOSIGNAL));
}

static ssize_t socket_recvv(struct gw_chan *chan, const struct iovec *iov, unsigned int n)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n};
	size_t len = 0;

	for (unsigned int i = 0; i < n && len < WAIT_FOR_ALL; i++)
		len += iov[i].iov_len;
	return moved(recvmsg(chan->poll_fd, &msg,
			     MSG_NOSIGNAL | (len >= WAIT_FOR_ALL ? MSG_WAITALL : 0)));
}

static int socket_set_timeout(struct gw_chan *chan, uint64_t ns)
{
	/* Rounded up: 0 would mean "no limit". */
	uint64_t us = GW_DIV_UP(GW_MIN(ns, UINT64_MAX / 2), 1000);
	struct timeval tv = {.tv_sec = (time_t)(us / 1000000),
			     .tv_usec = (suseconds_t)(us % 1000000)};

	if (setsockopt(chan->poll_fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
	    setsockopt(chan->poll_fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)))
		return -errno;
	return 0;
}

static void socket_shutdown(struct gw_chan *chan)
{
	/* ENOTCONN: the peer was faster. Either way nobody waits any more. */
	shutdown(chan->poll_fd, SHUT_RDWR);
}

static void socket_free(struct gw_chan *chan)
{
	gw_close(&chan->poll_fd);
	free(chan);
}

static const struct gw_chan_ops socket_ops = {
	.sendv = socket_sendv,
	.recvv = socket_recvv,
	.set_timeout = socket_set_timeout,
	.shutdown = socket_shutdown,
	.free = socket_free,
};

static int set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) ? -errno : 0;
}

/*
 * A dead peer is noticed after @user_timeout_ns: TCP_USER_TIMEOUT covers bytes
 * that nobody acknowledges, keepalive a connection that is silent. Half of the
 * time is silence before the first probe, the other half is for the probes.
 * The kernel counts a peer that lives but does not read for so long as dead
 * too, so the limit must be longer than any pause that is to be survived.
 */
static int set_dead_peer_limits(int fd, uint64_t user_timeout_ns)
{
	uint64_t ms = user_timeout_ns / 1000000 + !!(user_timeout_ns % 1000000);
	/* The kernel takes at most 32767 s for either. */
	int idle = (int)GW_MIN(GW_MAX(ms / 2000, 1U), 32767U);
	int interval = GW_MAX(idle / KEEPALIVE_PROBES, 1);
	int r;

	if ((r = set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1)) ||
	    (r = set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle)) ||
	    (r = set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval)) ||
	    (r = set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES)))
		return r;
	return set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
			  (int)GW_MIN(ms, (uint64_t)INT_MAX));
}

/* Whether both ends have the same address: of this host, then. */
static bool is_local(int fd)
{
	struct sockaddr_storage ours = {0}, theirs = {0};
	socklen_t n = sizeof(ours), m = sizeof(theirs);

	if (getsockname(fd, (struct sockaddr *)&ours, &n) ||
	    getpeername(fd, (struct sockaddr *)&theirs, &m) ||
	    ours.ss_family != theirs.ss_family)
		return false;
	if (ours.ss_family == AF_INET)
		return ((struct sockaddr_in *)&ours)->sin_addr.s_addr ==
		       ((struct sockaddr_in *)&theirs)->sin_addr.s_addr;
	return ours.ss_family == AF_INET6 &&
	       !memcmp(&((struct sockaddr_in6 *)&ours)->sin6_addr,
		       &((struct sockaddr_in6 *)&theirs)->sin6_addr,
		       sizeof(struct in6_addr));
}

static int set_tcp_options(int fd, const struct gw_net_options *options)
{
	int r = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);

	if (!r && is_local(fd)) {
		r = set_option(fd, SOL_SOCKET, SO_RCVBUF, LOCAL_BUFFER);
		if (!r)
			r = set_option(fd, SOL_SOCKET, SO_SNDBUF, LOCAL_BUFFER);
	}
	if (r || !options->user_timeout_ns)
		return r;
	return set_dead_peer_limits(fd, options->user_timeout_ns);
}

int gw_socket_chan_new(int fd, int family, const char *peer,
		       const struct gw_net_options *options, struct gw_err *err,
		       struct gw_chan **ret)
{
	GW_AUTO_CLOSE int owned = fd;
	struct gw_chan *chan;
	int r;

	r = family == AF_UNIX ? 0 : set_tcp_options(fd, options);
	if (r)
		return gw_err_errno(err, r, "cannot set the TCP options of %s", peer);
	chan = calloc(1, sizeof(*chan));
	if (!chan)
		return gw_err_errno(err, -ENOMEM, "channel to %s", peer);
	chan->ops = &socket_ops;
	chan->poll_fd = owned;
	owned = -1;
	snprintf(chan->name, sizeof(chan->name), "%s%.80s",
		 family == AF_UNIX ? "" : "tcp ", peer);
	*ret = chan;
	return 0;
}
