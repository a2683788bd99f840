/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Waiting for a descriptor, and the public side of dialers and listeners. */
#include "transport/net.h"

#include <poll.h>

#include "base/util.h"

uint64_t gw_net_deadline(uint64_t timeout_ns)
{
	uint64_t now = gw_now();

	return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

/* The time left until @deadline, or NULL for poll()'s "for ever". */
static const struct timespec *time_left(uint64_t deadline, struct timespec *ret)
{
	uint64_t now, left;

	if (deadline == UINT64_MAX)
		return NULL;
	now = gw_now();
	left = deadline > now ? deadline - now : 0;
	ret->tv_sec = (time_t)(left / GW_NSEC);
	ret->tv_nsec = (long)(left % GW_NSEC);
	return ret;
}

int gw_net_poll(int fd, short events, uint64_t deadline, int wake_fd)
{
	struct pollfd fds[] = {{.fd = fd, .events = events},
			       {.fd = wake_fd, .events = POLLIN}};
	struct timespec ts;
	int n;

	do
		n = ppoll(fds, 2, time_left(deadline, &ts), NULL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if ((fds[0].revents | fds[1].revents) & POLLNVAL)
		return -EBADF;
	if (fds[1].revents)
		return GW_CHAN_WOKEN;
	return fds[0].revents ? GW_CHAN_READY : GW_CHAN_TIMEOUT;
}

int gw_dialer_dial(struct gw_dialer *dialer, int wake_fd, struct gw_err *err,
		   struct gw_chan **ret)
{
	return dialer->ops->dial(dialer, wake_fd, err, ret);
}

struct gw_dialer *gw_dialer_free(struct gw_dialer *dialer)
{
	if (dialer)
		dialer->ops->free(dialer);
	return NULL;
}

const char *gw_listener_address(const struct gw_listener *listener)
{
	return listener->address;
}

int gw_listener_accept(struct gw_listener *listener, uint64_t timeout_ns, int wake_fd,
		       struct gw_err *err, struct gw_chan **ret)
{
	uint64_t deadline = gw_net_deadline(timeout_ns);
	int r;

	for (;;) {
		r = gw_net_poll(listener->poll_fd, POLLIN, deadline, wake_fd);
		if (r < 0)
			return gw_err_errno(err, r, "cannot wait for a peer on %s",
					    listener->address);
		if (r != GW_CHAN_READY)
			return r;
		/* The peer may have gone again: then the wait goes on. */
		r = listener->ops->accept(listener, err, ret);
		if (r != GW_CHAN_TIMEOUT)
			return r;
	}
}

struct gw_listener *gw_listener_free(struct gw_listener *listener)
{
	if (listener)
		listener->ops->free(listener);
	return NULL;
}
