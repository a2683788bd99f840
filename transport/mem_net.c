/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A dialer and its listener within the process, for tests: a dial makes a pair
 * of channels and leaves the far end in a bounded queue for accept.
 *
 * The two hold the net together; the last to go frees it. One mutex, which is
 * taken before that of any channel.
 */
#include "transport/net.h"

#include <pthread.h>
#include <stdio.h>

#include "base/event.h"
#include "base/util.h"

#define QUEUE_MAX 128U

struct net {
	pthread_mutex_t lock; /* everything below */
	unsigned int refs;
	bool no_listener;
	struct gw_event event; /* set iff something is queued */
	struct gw_chan *queue[QUEUE_MAX];
	unsigned int first, used;
	size_t capacity; /* of each channel, each way; constant */
};

struct mem_dialer {
	struct gw_dialer base;
	struct net *net;
};

struct mem_listener {
	struct gw_listener base;
	struct net *net;
};

static void net_unref(struct net *net)
{
	bool last;

	pthread_mutex_lock(&net->lock);
	last = !--net->refs;
	pthread_mutex_unlock(&net->lock);
	if (!last)
		return;
	gw_event_deinit(&net->event);
	pthread_mutex_destroy(&net->lock);
	free(net);
}

static int enqueue(struct net *net, struct gw_chan *chan)
{
	int r = 0;

	pthread_mutex_lock(&net->lock);
	if (net->no_listener)
		r = -ECONNREFUSED;
	else if (net->used == QUEUE_MAX)
		r = -EAGAIN;
	if (!r) {
		net->queue[(net->first + net->used++) % QUEUE_MAX] = chan;
		gw_event_set(&net->event);
	}
	pthread_mutex_unlock(&net->lock);
	return r;
}

/* NULL when nothing is queued. */
static struct gw_chan *dequeue(struct net *net)
{
	struct gw_chan *chan = NULL;

	pthread_mutex_lock(&net->lock);
	if (net->used) {
		chan = net->queue[net->first];
		net->first = (net->first + 1) % QUEUE_MAX;
		net->used--;
	}
	if (!net->used)
		gw_event_clear(&net->event);
	pthread_mutex_unlock(&net->lock);
	return chan;
}

static int mem_dial(struct gw_dialer *base, int wake_fd, struct gw_err *err,
		    struct gw_chan **ret)
{
	struct net *net = ((struct mem_dialer *)base)->net;
	struct gw_chan *near, *far;
	int r;

	if (gw_net_poll(-1, 0, 0, wake_fd) == GW_CHAN_WOKEN)
		return gw_err_set(err, -ECANCELED, "connecting in memory was called off");
	r = gw_mem_pair(net->capacity, &near, &far);
	if (r)
		return gw_err_errno(err, r, "cannot make a channel in memory");
	r = enqueue(net, far);
	if (r) {
		gw_chan_free(near);
		gw_chan_free(far);
		return gw_err_errno(err, r, "cannot connect in memory");
	}
	*ret = near;
	return 0;
}

static void mem_dialer_free(struct gw_dialer *base)
{
	net_unref(((struct mem_dialer *)base)->net);
	free(base);
}

static const struct gw_dialer_ops mem_dialer_ops = {
	.dial = mem_dial,
	.free = mem_dialer_free,
};

static int mem_accept(struct gw_listener *base, struct gw_err *err, struct gw_chan **ret)
{
	struct gw_chan *chan = dequeue(((struct mem_listener *)base)->net);

	if (!chan)
		return GW_CHAN_TIMEOUT;
	*ret = chan;
	return 0;
}

static void mem_listener_free(struct gw_listener *base)
{
	struct net *net = ((struct mem_listener *)base)->net;
	struct gw_chan *chan;

	pthread_mutex_lock(&net->lock);
	net->no_listener = true;
	pthread_mutex_unlock(&net->lock);
	while ((chan = dequeue(net)))
		gw_chan_free(chan);
	net_unref(net);
	free(base);
}

static const struct gw_listener_ops mem_listener_ops = {
	.accept = mem_accept,
	.free = mem_listener_free,
};

/* One reference, for the caller. */
static int net_new(size_t capacity, struct net **ret)
{
	struct net *net = calloc(1, sizeof(*net));
	int r;

	if (!net)
		return -ENOMEM;
	r = gw_event_init(&net->event);
	if (r) {
		free(net);
		return r;
	}
	pthread_mutex_init(&net->lock, NULL);
	net->refs = 1;
	net->capacity = capacity;
	*ret = net;
	return 0;
}

int gw_mem_net(size_t capacity, struct gw_dialer **ret_dialer,
	       struct gw_listener **ret_listener)
{
	struct mem_dialer *dialer = calloc(1, sizeof(*dialer));
	struct mem_listener *listener = calloc(1, sizeof(*listener));
	struct net *net = NULL;
	int r = dialer && listener ? net_new(capacity, &net) : -ENOMEM;

	if (r) {
		free(dialer);
		free(listener);
		return r;
	}
	net->refs = 2;
	*dialer = (struct mem_dialer){{&mem_dialer_ops}, net};
	*listener = (struct mem_listener){
		{.ops = &mem_listener_ops, .poll_fd = net->event.fd, .address = "memory"},
		net};
	*ret_dialer = &dialer->base;
	*ret_listener = &listener->base;
	return 0;
}
