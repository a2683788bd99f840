/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A pair of channels within the process, for tests.
 *
 * A link is two lanes, one each way; a lane is a ring of bytes whose positions
 * count from the start and never wrap. A full lane blocks its sender, an empty
 * one its receiver.
 *
 * Failure modes are asked for: a lane may be cut at an exact byte, which fails
 * the whole link once that byte has been put; what was put before can still be
 * received. Late bytes: each send remembers when its bytes may be seen. That
 * list is bounded; when it is full a send joins the one before it, so a byte is
 * delayed by at most twice the latency.
 *
 * Threads: one mutex for the link, a leaf. Each lane has one condition that all
 * its waiters share. So that poll() works, a lane also keeps an eventfd in step
 * (set iff its receiver would not block) and a timerfd for late bytes, both
 * under one epoll descriptor.
 *
 * Ownership: the two ends hold the link together; the last to go frees it.
 */
#include "transport/net.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "base/event.h"
#include "base/util.h"

#define LATE_MAX 256U

/* Bytes from @start on (to the next entry's start) can be seen at @due. */
struct late {
	uint64_t start;
	uint64_t due;
};

struct lane {
	char *ring;
	uint64_t capacity;
	uint64_t head;	  /* position of the next byte to take */
	uint64_t tail;	  /* position of the next byte to put */
	uint64_t cut_at;  /* the link fails when tail gets here; UINT64_MAX: never */
	uint64_t latency; /* ns, for bytes to come */
	struct late late[LATE_MAX];
	unsigned int late_first, late_used;
	bool no_sender, no_receiver; /* that end is shut down */
	bool event_is_set, timer_is_set;
	struct gw_event event;
	int timer_fd;
	int poll_fd; /* epoll over the two */
	pthread_cond_t changed;
};

struct link {
	pthread_mutex_t lock; /* everything below */
	bool cut;
	unsigned int refs;
	struct lane lanes[2]; /* lane i carries what end i sends */
};

struct mem_chan {
	struct gw_chan chan;
	struct link *link;
	unsigned int side;
	uint64_t timeout_ns; /* 0: none; under the link's lock */
};

static struct mem_chan *mem_of(struct gw_chan *chan);

static struct lane *out_lane(struct mem_chan *mem)
{
	return &mem->link->lanes[mem->side];
}

static struct lane *in_lane(struct mem_chan *mem)
{
	return &mem->link->lanes[!mem->side];
}

/* ---- late bytes ---- */

/* Forgets entries that are due. */
static void settle(struct lane *lane, uint64_t now)
{
	while (lane->late_used && lane->late[lane->late_first].due <= now) {
		lane->late_first = (lane->late_first + 1) % LATE_MAX;
		lane->late_used--;
	}
}

/* Bytes that can be taken, as of the last settle(). */
static uint64_t visible(const struct lane *lane)
{
	uint64_t end = lane->late_used ? lane->late[lane->late_first].start : lane->tail;

	return end - lane->head;
}

/* When the next late bytes are due, or UINT64_MAX. */
static uint64_t next_due(const struct lane *lane)
{
	return lane->late_used ? lane->late[lane->late_first].due : UINT64_MAX;
}

/* The bytes from @start to the tail were put just now. */
static void note_late(struct lane *lane, uint64_t start)
{
	uint64_t now = gw_now(), due = now + lane->latency;
	struct late *last;

	settle(lane, now);
	if (!lane->latency && !lane->late_used)
		return;
	last = &lane->late[(lane->late_first + lane->late_used - 1) % LATE_MAX];
	/* No byte overtakes another when the latency gets smaller. */
	if (lane->late_used)
		due = GW_MAX(due, last->due);
	if (lane->late_used == LATE_MAX) {
		last->due = due;
		return;
	}
	lane->late[(lane->late_first + lane->late_used) % LATE_MAX] =
		(struct late){start, due};
	lane->late_used++;
}

/* ---- waking whoever waits ---- */

/* True when the receiver of @lane would not block, as of the last settle(). */
static bool is_ready(const struct link *link, const struct lane *lane)
{
	if (visible(lane) || lane->no_receiver)
		return true;
	return lane->head == lane->tail && (link->cut || lane->no_sender);
}

/* Late bytes are due at @due (UINT64_MAX: none are); takes back an old alarm. */
static void set_timer(struct lane *lane, uint64_t due)
{
	struct itimerspec when = {0};

	if (due != UINT64_MAX) {
		when.it_value.tv_sec = (time_t)(due / GW_NSEC);
		when.it_value.tv_nsec = (long)(due % GW_NSEC);
	}
	lane->timer_is_set = due != UINT64_MAX;
	timerfd_settime(lane->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* After every change of a lane: poll() and waiting threads learn of it. */
static void publish(const struct link *link, struct lane *lane)
{
	bool ready;

	settle(lane, gw_now());
	ready = is_ready(link, lane);
	if (ready && !lane->event_is_set)
		gw_event_set(&lane->event);
	else if (!ready && lane->event_is_set)
		gw_event_clear(&lane->event);
	lane->event_is_set = ready;
	if (lane->late_used || lane->timer_is_set)
		set_timer(lane, next_due(lane));
	pthread_cond_broadcast(&lane->changed);
}

/* Waits for a change of @lane or until @until. */
static void wait_change(struct link *link, struct lane *lane, uint64_t until)
{
	struct timespec ts = {.tv_sec = (time_t)(until / GW_NSEC),
			      .tv_nsec = (long)(until % GW_NSEC)};

	if (until == UINT64_MAX)
		pthread_cond_wait(&lane->changed, &link->lock);
	else
		pthread_cond_timedwait(&lane->changed, &link->lock, &ts);
}

static uint64_t deadline_of(const struct mem_chan *mem)
{
	return mem->timeout_ns ? gw_net_deadline(mem->timeout_ns) : UINT64_MAX;
}

/* ---- sending ---- */

static int why_not_send(const struct link *link, const struct lane *lane)
{
	if (lane->no_sender)
		return -ESHUTDOWN;
	if (link->cut)
		return -ECONNRESET;
	return lane->no_receiver ? -EPIPE : 0;
}

/* Bytes that may be put now, at least one, or negative errno. */
static ssize_t wait_room(struct mem_chan *mem)
{
	struct lane *lane = out_lane(mem);
	uint64_t deadline = deadline_of(mem);

	for (;;) {
		uint64_t room = lane->capacity - (lane->tail - lane->head);
		int r = why_not_send(mem->link, lane);

		if (r)
			return r;
		if (room)
			return (ssize_t)GW_MIN(room, lane->cut_at - lane->tail);
		if (gw_now() >= deadline)
			return -ETIMEDOUT;
		wait_change(mem->link, lane, deadline);
	}
}

static void put(struct lane *lane, const char *data, size_t len)
{
	size_t at = (size_t)(lane->tail % lane->capacity);
	size_t first = GW_MIN(len, (size_t)lane->capacity - at);

	memcpy(lane->ring + at, data, first);
	memcpy(lane->ring, data + first, len - first);
	lane->tail += len;
}

static ssize_t put_all(struct lane *lane, const struct iovec *iov, unsigned int n,
		       size_t room)
{
	uint64_t start = lane->tail;

	for (unsigned int i = 0; i < n && room; i++) {
		size_t len = GW_MIN(iov[i].iov_len, room);

		if (len)
			put(lane, iov[i].iov_base, len);
		room -= len;
	}
	note_late(lane, start);
	return (ssize_t)(lane->tail - start);
}

static void cut(struct link *link)
{
	link->cut = true;
	publish(link, &link->lanes[0]);
	publish(link, &link->lanes[1]);
}

static ssize_t mem_sendv(struct gw_chan *chan, const struct iovec *iov, unsigned int n)
{
	struct mem_chan *mem = mem_of(chan);
	struct lane *lane = out_lane(mem);
	ssize_t done;

	pthread_mutex_lock(&mem->link->lock);
	done = wait_room(mem);
	if (done > 0) {
		done = put_all(lane, iov, n, (size_t)done);
		publish(mem->link, lane);
		if (lane->tail == lane->cut_at)
			cut(mem->link);
	}
	pthread_mutex_unlock(&mem->link->lock);
	return done;
}

/* ---- receiving ---- */

/* Bytes that may be taken now, 0 at the end of the stream, or negative errno. */
static ssize_t wait_bytes(struct mem_chan *mem)
{
	struct lane *lane = in_lane(mem);
	uint64_t deadline = deadline_of(mem);

	for (;;) {
		uint64_t now = gw_now();

		settle(lane, now);
		if (lane->no_receiver)
			return -ESHUTDOWN;
		if (visible(lane))
			return (ssize_t)visible(lane);
		if (is_ready(mem->link, lane))
			return mem->link->cut ? -ECONNRESET : 0;
		if (now >= deadline)
			return -ETIMEDOUT;
		wait_change(mem->link, lane, GW_MIN(deadline, next_due(lane)));
	}
}

static void take(struct lane *lane, char *data, size_t len)
{
	size_t at = (size_t)(lane->head % lane->capacity);
	size_t first = GW_MIN(len, (size_t)lane->capacity - at);

	memcpy(data, lane->ring + at, first);
	memcpy(data + first, lane->ring, len - first);
	lane->head += len;
}

static ssize_t take_all(struct lane *lane, const struct iovec *iov, unsigned int n,
			size_t have)
{
	uint64_t start = lane->head;

	for (unsigned int i = 0; i < n && have; i++) {
		size_t len = GW_MIN(iov[i].iov_len, have);

		if (len)
			take(lane, iov[i].iov_base, len);
		have -= len;
	}
	return (ssize_t)(lane->head - start);
}

static ssize_t mem_recvv(struct gw_chan *chan, const struct iovec *iov, unsigned int n)
{
	struct mem_chan *mem = mem_of(chan);
	ssize_t done;

	pthread_mutex_lock(&mem->link->lock);
	done = wait_bytes(mem);
	if (done > 0) {
		done = take_all(in_lane(mem), iov, n, (size_t)done);
		publish(mem->link, in_lane(mem));
	}
	pthread_mutex_unlock(&mem->link->lock);
	return done;
}

/* ---- the other operations ---- */

static int mem_set_timeout(struct gw_chan *chan, uint64_t ns)
{
	struct mem_chan *mem = mem_of(chan);

	pthread_mutex_lock(&mem->link->lock);
	mem->timeout_ns = ns;
	pthread_mutex_unlock(&mem->link->lock);
	return 0;
}

static void mem_shutdown(struct gw_chan *chan)
{
	struct mem_chan *mem = mem_of(chan);

	pthread_mutex_lock(&mem->link->lock);
	out_lane(mem)->no_sender = true;
	in_lane(mem)->no_receiver = true;
	publish(mem->link, out_lane(mem));
	publish(mem->link, in_lane(mem));
	pthread_mutex_unlock(&mem->link->lock);
}

static void lane_deinit(struct lane *lane)
{
	gw_close(&lane->poll_fd);
	gw_close(&lane->timer_fd);
	gw_event_deinit(&lane->event);
	pthread_cond_destroy(&lane->changed);
	free(lane->ring);
}

static void link_unref(struct link *link)
{
	bool last;

	pthread_mutex_lock(&link->lock);
	last = !--link->refs;
	pthread_mutex_unlock(&link->lock);
	if (!last)
		return;
	lane_deinit(&link->lanes[0]);
	lane_deinit(&link->lanes[1]);
	pthread_mutex_destroy(&link->lock);
	free(link);
}

static void mem_free(struct gw_chan *chan)
{
	struct mem_chan *mem = mem_of(chan);

	link_unref(mem->link);
	free(mem);
}

static const struct gw_chan_ops mem_ops = {
	.sendv = mem_sendv,
	.recvv = mem_recvv,
	.set_timeout = mem_set_timeout,
	.shutdown = mem_shutdown,
	.free = mem_free,
};

static struct mem_chan *mem_of(struct gw_chan *chan)
{
	assert(chan->ops == &mem_ops);
	return (struct mem_chan *)chan;
}

/* ---- making a pair ---- */

static void init_condition(pthread_cond_t *condition)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	/* The clock of gw_now(). */
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(condition, &attr);
	pthread_condattr_destroy(&attr);
}

static int watch(int poll_fd, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	return epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

/* After a failure too, lane_deinit() is due. */
static int lane_init(struct lane *lane, size_t capacity)
{
	int r;

	lane->capacity = capacity;
	lane->cut_at = UINT64_MAX;
	lane->timer_fd = lane->poll_fd = lane->event.fd = -1;
	init_condition(&lane->changed);
	lane->ring = malloc(capacity);
	if (!lane->ring)
		return -ENOMEM;
	r = gw_event_init(&lane->event);
	if (r)
		return r;
	lane->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	lane->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (lane->timer_fd < 0 || lane->poll_fd < 0)
		return -errno;
	r = watch(lane->poll_fd, lane->event.fd);
	return r ? r : watch(lane->poll_fd, lane->timer_fd);
}

/* One reference, for the caller. */
static int link_new(size_t capacity, struct link **ret)
{
	struct link *link = calloc(1, sizeof(*link));
	int first, second;

	if (!link)
		return -ENOMEM;
	pthread_mutex_init(&link->lock, NULL);
	link->refs = 1;
	first = lane_init(&link->lanes[0], capacity);
	second = lane_init(&link->lanes[1], capacity);
	if (first || second) {
		link_unref(link);
		return first ? first : second;
	}
	*ret = link;
	return 0;
}

/* Takes a reference of its own. */
static struct gw_chan *end_new(struct link *link, unsigned int side, const char *name)
{
	struct mem_chan *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return NULL;
	pthread_mutex_lock(&link->lock);
	link->refs++;
	pthread_mutex_unlock(&link->lock);
	mem->chan.ops = &mem_ops;
	mem->chan.poll_fd = link->lanes[!side].poll_fd;
	snprintf(mem->chan.name, sizeof(mem->chan.name), "memory %s", name);
	mem->link = link;
	mem->side = side;
	return &mem->chan;
}

int gw_mem_pair(size_t capacity, struct gw_chan **ret_a, struct gw_chan **ret_b)
{
	struct link *link = NULL;
	struct gw_chan *a, *b;
	int r;

	assert(capacity);
	r = link_new(capacity, &link);
	if (r)
		return r;
	a = end_new(link, 0, "a");
	b = end_new(link, 1, "b");
	link_unref(link);
	if (!a || !b) {
		gw_chan_free(a);
		gw_chan_free(b);
		return -ENOMEM;
	}
	*ret_a = a;
	*ret_b = b;
	return 0;
}

/* ---- trouble to order ---- */

void gw_mem_cut_after(struct gw_chan *chan, uint64_t bytes)
{
	struct mem_chan *mem = mem_of(chan);
	struct lane *lane = out_lane(mem);

	pthread_mutex_lock(&mem->link->lock);
	lane->cut_at = bytes > UINT64_MAX - lane->tail ? UINT64_MAX : lane->tail + bytes;
	if (!bytes)
		cut(mem->link);
	pthread_mutex_unlock(&mem->link->lock);
}

void gw_mem_set_latency(struct gw_chan *chan, uint64_t ns)
{
	struct mem_chan *mem = mem_of(chan);

	pthread_mutex_lock(&mem->link->lock);
	out_lane(mem)->latency = ns;
	pthread_mutex_unlock(&mem->link->lock);
}
