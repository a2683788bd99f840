/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The all-or-error loops over the one-attempt operations of a channel.
 *
 * An implementation may move fewer bytes than asked, or be interrupted; here
 * the attempts are strung together until everything has moved. The caller's
 * iovec is consumed in place, so nothing is allocated however long it is.
 */
#include "transport/chan.h"

#include <poll.h>

#include "base/util.h"
#include "transport/net.h"

/* The kernel's UIO_MAXIOV: sendmsg() refuses more entries with EMSGSIZE. */
#define BATCH_MAX 1024U

/* What is left of a transfer. */
struct cursor {
	struct iovec *iov;
	unsigned int n;
};

/*
 * Steps over @done bytes and over empty entries, so that the first entry left
 * is never empty and an attempt that moves nothing always means something.
 */
static void advance(struct cursor *left, size_t done)
{
	while (left->n && done >= left->iov->iov_len) {
		done -= left->iov->iov_len;
		left->iov++;
		left->n--;
	}
	if (!done)
		return;
	left->iov->iov_base = (char *)left->iov->iov_base + done;
	left->iov->iov_len -= done;
}

/* The counters have one writer each: a relaxed store keeps readers whole. */
static void count(uint64_t *counter, size_t bytes)
{
	__atomic_store_n(counter, *counter + bytes, __ATOMIC_RELAXED);
}

/* Acquire: pairs with the release in gw_chan_shutdown(). */
static bool is_stopped(const struct gw_chan *chan)
{
	return __atomic_load_n(&chan->stopped, __ATOMIC_ACQUIRE);
}

typedef ssize_t (*attempt_fn)(struct gw_chan *chan, const struct iovec *iov,
			      unsigned int n);

/*
 * One attempt, again when a signal interrupted it. After a shutdown whatever
 * it says is our own doing, also a received 0, and reported as that.
 */
static ssize_t try_once(struct gw_chan *chan, attempt_fn attempt,
			const struct cursor *left)
{
	ssize_t n;

	do {
		if (is_stopped(chan))
			return -ESHUTDOWN;
		n = attempt(chan, left->iov, GW_MIN(left->n, BATCH_MAX));
	} while (n == -EINTR);
	return n <= 0 && is_stopped(chan) ? -ESHUTDOWN : n;
}

int gw_chan_sendv(struct gw_chan *chan, struct iovec *iov, unsigned int n)
{
	struct cursor left = {iov, n};

	advance(&left, 0);
	while (left.n) {
		ssize_t done = try_once(chan, chan->ops->sendv, &left);

		if (done < 0)
			return (int)done;
		if (!done)
			return -EPIPE;
		count(&chan->sent, (size_t)done);
		advance(&left, (size_t)done);
	}
	return 0;
}

static int recv_until(struct gw_chan *chan, struct cursor left, uint64_t deadline)
{
	bool begun = false;

	advance(&left, 0);
	while (left.n) {
		ssize_t done = 0;

		if (deadline != UINT64_MAX)
			done = gw_net_poll(chan->poll_fd, POLLIN, deadline, -1);
		if (done == GW_CHAN_TIMEOUT)
			return -ETIMEDOUT;
		if (done >= 0)
			done = try_once(chan, chan->ops->recvv, &left);
		if (done < 0)
			return (int)done;
		if (!done)
			return begun ? -EPIPE : GW_CHAN_EOF;
		begun = true;
		count(&chan->received, (size_t)done);
		advance(&left, (size_t)done);
	}
	return 0;
}

int gw_chan_recvv(struct gw_chan *chan, struct iovec *iov, unsigned int n)
{
	return recv_until(chan, (struct cursor){iov, n}, UINT64_MAX);
}

int gw_chan_recv_by(struct gw_chan *chan, void *data, size_t len, uint64_t deadline)
{
	struct iovec iov = {data, len};

	return recv_until(chan, (struct cursor){&iov, 1}, deadline);
}

int gw_chan_send(struct gw_chan *chan, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	return gw_chan_sendv(chan, &iov, 1);
}

int gw_chan_recv(struct gw_chan *chan, void *data, size_t len)
{
	struct iovec iov = {data, len};

	return gw_chan_recvv(chan, &iov, 1);
}

int gw_chan_wait(struct gw_chan *chan, uint64_t timeout_ns, int wake_fd)
{
	return gw_net_poll(chan->poll_fd, POLLIN, gw_net_deadline(timeout_ns), wake_fd);
}

int gw_chan_set_timeout(struct gw_chan *chan, uint64_t ns)
{
	return chan->ops->set_timeout(chan, ns);
}

void gw_chan_shutdown(struct gw_chan *chan)
{
	/*
	 * Release, and before the operation: a thread that the operation wakes
	 * finds the flag set.
	 */
	__atomic_store_n(&chan->stopped, true, __ATOMIC_RELEASE);
	chan->ops->shutdown(chan);
}

struct gw_chan *gw_chan_free(struct gw_chan *chan)
{
	if (!chan)
		return NULL;
	gw_chan_shutdown(chan);
	chan->ops->free(chan);
	return NULL;
}
