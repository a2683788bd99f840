/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What both sides of a migration have in common. */
#include "migrate/engine.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "base/util.h"

/* How long a broken link is given to deliver the ABORT that explains it. */
#define EXPLAIN_TIME (GW_NSEC / 10)

static const char *peer_name(const struct gw_engine *engine)
{
	return engine->side == GODWIT_SOURCE ? "destination" : "source";
}

/* ---- life ---- */

static int open_wakers(struct gw_engine *engine, struct gw_err *err)
{
	struct epoll_event in = {.events = EPOLLIN};
	int r = gw_event_init(&engine->wake);

	if (r)
		return gw_err_errno(err, r, "creating an eventfd");
	engine->wake_set = epoll_create1(EPOLL_CLOEXEC);
	if (engine->wake_set < 0 ||
	    epoll_ctl(engine->wake_set, EPOLL_CTL_ADD, engine->wake.fd, &in))
		return gw_err_errno(err, -errno, "creating an epoll descriptor");
	if (engine->guest->pid == getpid())
		return 0;
	engine->vmm_pidfd = (int)syscall(SYS_pidfd_open, engine->guest->pid, 0);
	if (engine->vmm_pidfd < 0)
		return gw_err_errno(err, -errno, "the guest's process %d",
				    engine->guest->pid);
	if (epoll_ctl(engine->wake_set, EPOLL_CTL_ADD, engine->vmm_pidfd, &in))
		return gw_err_errno(err, -errno, "watching the guest's process");
	return 0;
}

static int map_memory(struct gw_engine *engine, struct gw_err *err)
{
	struct gw_memory_spec specs[GW_REGIONS_MAX];
	const godwit_guest *guest = engine->guest;

	for (unsigned int i = 0; i < guest->n_regions; i++) {
		const struct gw_region *region = &guest->regions[i];

		specs[i] = (struct gw_memory_spec){
			.name = region->name,
			.fd = region->fd,
			.offset = region->offset,
			.size = region->size,
			.address = region->address,
			.page_size = region->page_size,
		};
	}
	return gw_memory_init(&engine->memory, specs, guest->n_regions, err);
}

int gw_engine_init(struct gw_engine *engine, enum godwit_side side, godwit_guest *guest,
		   const struct godwit_options *options, struct gw_err *err)
{
	int r;

	memset(engine, 0, sizeof(*engine));
	engine->side = side;
	engine->guest = guest;
	engine->wake.fd = engine->vmm_pidfd = engine->wake_set = -1;
	if (options)
		engine->options = *options;
	else
		gw_options_init(&engine->options);
	pthread_mutex_init(&engine->control_lock, NULL);
	pthread_mutex_init(&engine->lock, NULL);
	pthread_mutex_init(&engine->stats_lock, NULL);
	r = open_wakers(engine, err);
	if (!r)
		r = map_memory(engine, err);
	if (r) {
		gw_engine_deinit(engine);
		return r;
	}
	engine->stats.guest_bytes = engine->memory.bytes;
	engine->stats.downtime_limit_ns = engine->options.max_downtime_ns;
	return 0;
}

void gw_engine_deinit(struct gw_engine *engine)
{
	gw_engine_free_channels(engine);
	gw_memory_deinit(&engine->memory);
	gw_session_forget(&engine->session);
	gw_close(&engine->wake_set);
	gw_close(&engine->vmm_pidfd);
	gw_event_deinit(&engine->wake);
	pthread_mutex_destroy(&engine->stats_lock);
	pthread_mutex_destroy(&engine->lock);
	pthread_mutex_destroy(&engine->control_lock);
}

/* ---- errors, cancel, commit ---- */

bool gw_engine_fail(struct gw_engine *engine, const struct gw_err *err)
{
	bool first, owned;

	pthread_mutex_lock(&engine->lock);
	first = !engine->first.code;
	if (first)
		engine->first = *err;
	owned = engine->owned;
	pthread_mutex_unlock(&engine->lock);
	if (!first)
		gw_debug(&engine->options.log, "later failure: %s", err->text);
	gw_event_set(&engine->wake);
	return owned;
}

void gw_engine_failed(void *opaque, const struct gw_err *err)
{
	gw_engine_fail(opaque, err);
}

int gw_engine_cancel(struct gw_engine *engine)
{
	bool late;

	pthread_mutex_lock(&engine->lock);
	late = engine->no_cancel;
	if (!late)
		engine->cancelled = true;
	pthread_mutex_unlock(&engine->lock);
	gw_event_set(&engine->wake);
	return late ? -EBUSY : 0;
}

/* What should end the driver's wait; 0: nothing. Under lock. */
static int trouble(const struct gw_engine *engine, struct gw_err *err)
{
	if (engine->first.code) {
		if (err)
			*err = engine->first;
		return engine->first.code;
	}
	if (engine->cancelled && !engine->no_cancel)
		return gw_err_set(err, -ECANCELED, "cancelled");
	return 0;
}

static int look_around(struct gw_engine *engine, struct gw_err *err)
{
	int r;

	pthread_mutex_lock(&engine->lock);
	r = trouble(engine, err);
	pthread_mutex_unlock(&engine->lock);
	return r;
}

int gw_engine_close_cancel(struct gw_engine *engine, struct gw_err *err)
{
	int r;

	pthread_mutex_lock(&engine->lock);
	r = trouble(engine, err);
	engine->no_cancel |= !r;
	pthread_mutex_unlock(&engine->lock);
	return r;
}

int gw_engine_own(struct gw_engine *engine, bool intact, struct gw_err *err)
{
	int r = 0;

	pthread_mutex_lock(&engine->lock);
	if (intact)
		r = trouble(engine, err);
	engine->owned = !r;
	pthread_mutex_unlock(&engine->lock);
	return r;
}

/* ---- state ---- */

enum godwit_state gw_engine_state(struct gw_engine *engine)
{
	return __atomic_load_n(&engine->stats.state, __ATOMIC_ACQUIRE);
}

void gw_engine_set_state(struct gw_engine *engine, enum godwit_state state)
{
	enum godwit_state old = gw_engine_state(engine);

	if (old == state)
		return;
	assert(gw_state_may_follow(old, state));
	gw_debug(&engine->options.log, "%s -> %s", godwit_state_name(old),
		 godwit_state_name(state));
	GW_STATS(engine, {
		if (gw_state_is_final(state))
			engine->ended_at = gw_now();
		__atomic_store_n(&stats->state, state, __ATOMIC_RELEASE);
	});
}

/* ---- control messages ---- */

void gw_engine_begin_session(struct gw_engine *engine, struct gw_chan *control)
{
	/* A peer that takes nothing for so long would keep a cancel waiting as well. */
	gw_chan_set_timeout(control, engine->options.peer_timeout_ns);
	GW_STATS(engine, {
		engine->control = control;
		engine->started_at = gw_now();
		gw_session_name(&engine->session, stats->session);
	});
}

static int send_locked(struct gw_engine *engine, enum gw_message_type type,
		       const uint8_t *payload, size_t length)
{
	struct gw_message_header header = {.type = (uint16_t)type,
					   .length = (uint32_t)length};
	uint8_t buf[GW_MESSAGE_HEADER_LEN];
	struct iovec iov[2] = {
		{.iov_base = buf, .iov_len = sizeof(buf)},
		{.iov_base = (void *)payload, .iov_len = length},
	};
	int r;

	gw_message_header_encode(&header, buf);
	pthread_mutex_lock(&engine->control_lock);
	r = gw_chan_sendv(engine->control, iov, length ? 2 : 1);
	pthread_mutex_unlock(&engine->control_lock);
	return r;
}

int gw_engine_send(struct gw_engine *engine, enum gw_message_type type,
		   const uint8_t *payload, size_t length, struct gw_err *err)
{
	int r;

	assert(length <= GW_MESSAGE_MAX);
	r = send_locked(engine, type, payload, length);
	if (r)
		return gw_err_errno(err, r, "control channel (%s): sending %s",
				    engine->control->name, gw_message_name(type));
	gw_debug(&engine->options.log, "sent %s, %zu bytes", gw_message_name(type),
		 length);
	return 0;
}

static int lost(struct gw_engine *engine, int code, struct gw_err *err)
{
	if (code == GW_CHAN_EOF || code == -EPIPE || code == -ECONNRESET)
		return gw_err_set(err, -ECONNRESET,
				  "control channel (%s): the %s closed the connection",
				  engine->control->name, peer_name(engine));
	return gw_err_errno(err, code, "control channel (%s): receiving",
			    engine->control->name);
}

static int peer_gave_up(struct gw_engine *engine, struct gw_err *err)
{
	struct gw_abort msg;

	if (gw_abort_decode(engine->message.payload, engine->message.length, &msg))
		return gw_err_set(err, -EPROTO, "malformed ABORT from the %s",
				  peer_name(engine));
	if (msg.code == -ECANCELED)
		return gw_err_set(err, -ECANCELED, "cancelled at the %s",
				  peer_name(engine));
	/* That code is ours to give: it means that nobody knows who has the guest. */
	if (msg.code == -EUNATCH)
		msg.code = -EREMOTEIO;
	return gw_err_set(err, msg.code, "the %s gave up: %s", peer_name(engine),
			  msg.text);
}

static int receive(struct gw_engine *engine, struct gw_err *err)
{
	struct gw_message *message = &engine->message;
	struct gw_message_header header;
	uint8_t buf[GW_MESSAGE_HEADER_LEN];
	/* A message that has begun comes whole, or its sender has stopped in it. */
	uint64_t deadline = gw_now() + engine->options.peer_timeout_ns;
	int r = gw_chan_recv_by(engine->control, buf, sizeof(buf), deadline);

	if (r)
		return lost(engine, r, err);
	if (gw_message_header_decode(buf, &header))
		return gw_err_set(err, -EPROTO,
				  "control channel (%s): malformed message from the %s",
				  engine->control->name, peer_name(engine));
	r = gw_chan_recv_by(engine->control, message->payload, header.length, deadline);
	if (r)
		return lost(engine, r, err);
	message->type = (enum gw_message_type)header.type;
	message->length = header.length;
	gw_debug(&engine->options.log, "received %s, %zu bytes",
		 gw_message_name(message->type), message->length);
	return message->type == GW_MSG_ABORT ? peer_gave_up(engine, err) : 0;
}

static bool vmm_is_gone(const struct gw_engine *engine)
{
	struct pollfd p = {.fd = engine->vmm_pidfd, .events = POLLIN};

	return engine->vmm_pidfd >= 0 && poll(&p, 1, 0) > 0;
}

int gw_engine_look(struct gw_engine *engine, struct gw_err *err)
{
	gw_event_clear(&engine->wake);
	if (vmm_is_gone(engine))
		return gw_err_set(err, -ESRCH, "the guest's process %d has ended",
				  engine->guest->pid);
	return look_around(engine, err);
}

static bool is_loss(int code)
{
	return code == -ECONNRESET || code == -EPIPE;
}

/*
 * A link that broke tells every channel's thread at once, in any order. What
 * the peer said before, COMMIT and RUNNING above all, counts and comes first.
 */
static int wait_after_loss(struct gw_engine *engine, struct gw_err *err)
{
	struct gw_err end = {0};

	if (gw_chan_wait(engine->control, 0, -1) != GW_CHAN_READY)
		return err->code;
	if (!receive(engine, &end))
		return 0;
	if (engine->message.type == GW_MSG_ABORT)
		*err = end;
	return err->code;
}

int gw_engine_wait(struct gw_engine *engine, uint64_t deadline, struct gw_err *err)
{
	uint64_t now = gw_now(), left = UINT64_MAX;
	int r = look_around(engine, err);

	if (is_loss(r))
		return wait_after_loss(engine, err);
	if (r)
		return r;
	if (deadline != GW_NO_DEADLINE)
		left = deadline > now ? deadline - now : 0;
	r = gw_chan_wait(engine->control, left, engine->wake_set);
	switch (r) {
	case GW_CHAN_READY:
		return receive(engine, err);
	case GW_CHAN_TIMEOUT:
		return GW_ENGINE_TIMEOUT;
	case GW_CHAN_WOKEN:
		r = gw_engine_look(engine, err);
		if (is_loss(r))
			return wait_after_loss(engine, err);
		return r ? r : GW_ENGINE_WOKEN;
	default:
		return lost(engine, r, err);
	}
}

int gw_engine_expect(struct gw_engine *engine, enum gw_message_type type,
		     uint64_t deadline, struct gw_err *err)
{
	int r;

	do
		r = gw_engine_wait(engine, deadline, err);
	while (r == GW_ENGINE_WOKEN);
	if (r == GW_ENGINE_TIMEOUT)
		return gw_err_set(err, -ETIMEDOUT, "no %s from the %s in time",
				  gw_message_name(type), peer_name(engine));
	if (!r && engine->message.type != type)
		return gw_err_set(err, -EPROTO, "the %s sent %s where %s belongs",
				  peer_name(engine),
				  gw_message_name(engine->message.type),
				  gw_message_name(type));
	return r;
}

void gw_engine_ignore_process(struct gw_engine *engine)
{
	/* Closing takes it out of the epoll set. */
	gw_close(&engine->vmm_pidfd);
}

int gw_engine_number(struct gw_engine *engine, uint64_t *ret, struct gw_err *err)
{
	if (gw_number_decode(engine->message.payload, engine->message.length, ret))
		return gw_err_set(err, -EPROTO, "malformed %s from the %s",
				  gw_message_name(engine->message.type),
				  peer_name(engine));
	return 0;
}

void gw_engine_explain_loss(struct gw_engine *engine, struct gw_err *err)
{
	uint64_t deadline = gw_now() + EXPLAIN_TIME;
	struct gw_err why = {0};

	if (!engine->control || !is_loss(err->code))
		return;
	/* It has been heard already, and may carry one of these codes itself. */
	if (engine->message.type == GW_MSG_ABORT)
		return;
	while (gw_now() < deadline && !why.code) {
		if (gw_chan_wait(engine->control, deadline - gw_now(), -1) !=
		    GW_CHAN_READY)
			return;
		if (receive(engine, &why) && engine->message.type != GW_MSG_ABORT)
			return;
	}
	if (why.code)
		*err = why;
}

void gw_engine_send_abort(struct gw_engine *engine, const struct gw_err *err)
{
	struct gw_abort msg = {.code = err->code};
	uint8_t payload[GW_MESSAGE_HEADER_LEN + sizeof(msg)];

	if (!engine->control)
		return;
	snprintf(msg.text, sizeof(msg.text), "%.*s", GW_ABORT_TEXT_LEN - 1, err->text);
	/* A peer that does not take it within a second will hear of the end anyway. */
	gw_chan_set_timeout(engine->control, GW_NSEC);
	(void)send_locked(engine, GW_MSG_ABORT, payload, gw_abort_encode(&msg, payload));
}

/* ---- channels ---- */

void gw_engine_shutdown_channels(struct gw_engine *engine)
{
	for (unsigned int i = 0; i < engine->n_bulk; i++)
		if (engine->bulk[i])
			gw_chan_shutdown(engine->bulk[i]);
	if (engine->urgent)
		gw_chan_shutdown(engine->urgent);
	if (engine->control)
		gw_chan_shutdown(engine->control);
}

static uint64_t wire_bytes(const struct gw_chan *chan)
{
	if (!chan)
		return 0;
	return __atomic_load_n(&chan->sent, __ATOMIC_RELAXED) +
	       __atomic_load_n(&chan->received, __ATOMIC_RELAXED);
}

static uint64_t all_wire_bytes(const struct gw_engine *engine)
{
	uint64_t sum = wire_bytes(engine->control) + wire_bytes(engine->urgent);

	for (unsigned int i = 0; i < engine->n_bulk; i++)
		sum += wire_bytes(engine->bulk[i]);
	return sum;
}

void gw_engine_free_channels(struct gw_engine *engine)
{
	/* Under the lock: gw_engine_stats() looks at the channels' counters. */
	pthread_mutex_lock(&engine->stats_lock);
	engine->stats.wire_bytes += all_wire_bytes(engine);
	for (unsigned int i = 0; i < engine->n_bulk; i++)
		engine->bulk[i] = gw_chan_free(engine->bulk[i]);
	engine->n_bulk = 0;
	engine->urgent = gw_chan_free(engine->urgent);
	engine->control = gw_chan_free(engine->control);
	pthread_mutex_unlock(&engine->stats_lock);
}

/* ---- statistics ---- */

void gw_engine_stats(struct gw_engine *engine, struct godwit_stats *ret)
{
	uint64_t end;

	pthread_mutex_lock(&engine->stats_lock);
	*ret = engine->stats;
	ret->wire_bytes += all_wire_bytes(engine);
	end = engine->ended_at ? engine->ended_at : gw_now();
	ret->elapsed_ns = engine->started_at ? end - engine->started_at : 0;
	pthread_mutex_unlock(&engine->stats_lock);
	ret->data_pages = __atomic_load_n(&engine->counters.data_units, __ATOMIC_RELAXED);
	ret->zero_pages = __atomic_load_n(&engine->counters.zero_units, __ATOMIC_RELAXED);
	ret->compressed_pages =
		__atomic_load_n(&engine->counters.lz4_units, __ATOMIC_RELAXED);
	ret->compressed_bytes =
		__atomic_load_n(&engine->counters.lz4_bytes, __ATOMIC_RELAXED);
}

void gw_engine_publish_progress(struct gw_engine *engine,
				const struct gw_progress *progress)
{
	const struct gw_hist *faults = &progress->faults;

	GW_STATS(engine, {
		stats->remaining_bytes = progress->missing_units << GW_UNIT_SHIFT;
		stats->faults = faults->count;
		stats->fault_p50_ns = gw_hist_quantile(faults, 0.50);
		stats->fault_p90_ns = gw_hist_quantile(faults, 0.90);
		stats->fault_p99_ns = gw_hist_quantile(faults, 0.99);
		stats->fault_p999_ns = gw_hist_quantile(faults, 0.999);
		stats->fault_max_ns = faults->max;
		stats->fault_mean_ns = gw_hist_mean(faults);
		engine->fault_hist = *faults;
	});
}

static_assert(GODWIT_BUCKETS_MAX == GW_HIST_STEPS, "what the public header promises");

size_t gw_engine_histogram(struct gw_engine *engine, enum godwit_histogram which,
			   struct godwit_bucket *ret, size_t max)
{
	unsigned int step = 0;
	uint64_t upper, count;
	size_t n = 0;

	if (which != GODWIT_HISTOGRAM_FAULT)
		return 0;
	pthread_mutex_lock(&engine->stats_lock);
	while (gw_hist_next(&engine->fault_hist, &step, &upper, &count)) {
		if (n < max)
			ret[n] = (struct godwit_bucket){upper, count};
		n++;
	}
	pthread_mutex_unlock(&engine->stats_lock);
	return n;
}

void gw_stats_copy(const struct godwit_stats *stats, struct godwit_stats *ret,
		   size_t size)
{
	memset(ret, 0, size);
	memcpy(ret, stats, GW_MIN(size, sizeof(*stats)));
}
