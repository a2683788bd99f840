/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What both sides of a migration have in common: the guest's memory, the
 * channels, the control messages, the first error, the state, the statistics.
 *
 * Threads: one, inside godwit_source_run() or godwit_dest_run(), drives the
 * state machine and is called the driver here; it alone receives control
 * messages and changes the state. Page threads report failures through
 * gw_engine_fail(). Callers of cancel, switch and stats come from anywhere.
 *
 * Locks: `lock` protects the first error and the point of no return;
 * `control_lock` serialises senders on the control channel. Neither is taken
 * while the other is held; the queues', limiter's and sender's locks are leaves.
 */
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include "base/event.h"
#include "base/hist.h"
#include "base/log.h"
#include "migrate/guest.h"
#include "migrate/options.h"
#include "migrate/state.h"
#include "multifd/memory.h"
#include "multifd/pack.h"
#include "transport/chan.h"
#include "transport/handshake.h"
#include "wire/message.h"

/* Positive results of gw_engine_wait(): conditions, not failures. */
enum {
	GW_ENGINE_WOKEN = 1,   /* something to look at: a flag, a round's end */
	GW_ENGINE_TIMEOUT = 2, /* the deadline has passed */
};

#define GW_NO_DEADLINE UINT64_MAX

/* A control message, as received. */
struct gw_message {
	enum gw_message_type type;
	size_t length;
	uint8_t payload[GW_MESSAGE_MAX];
};

struct gw_engine {
	enum godwit_side side;
	struct godwit_options options;
	godwit_guest *guest; /* borrowed */
	struct gw_memory memory;
	struct gw_page_counters counters;

	struct gw_session session;
	/* The driver's; set and freed under stats_lock, since statistics count bytes. */
	struct gw_chan *control;
	struct gw_chan *bulk[GW_CHANNELS_MAX];
	unsigned int n_bulk;
	struct gw_chan *urgent; /* NULL where the mode has no post-copy */
	pthread_mutex_t control_lock;
	struct gw_message message;   /* the last one received */
	uint8_t out[GW_MESSAGE_MAX]; /* payload being built, by the driver */

	struct gw_event wake; /* set whenever the driver should look around */
	int vmm_pidfd; /* readable once the guest's process is gone; -1: ourselves */
	int wake_set;  /* epoll of both: one descriptor to wait on */

	pthread_mutex_t lock;
	struct gw_err first; /* the first error; under lock */
	bool cancelled;	     /* asked for; under lock */
	bool no_cancel;	     /* too late for one; under lock */
	bool owned;	     /* destination: COMMIT was taken; under lock */

	struct godwit_stats stats;  /* plain fields by the driver, copied with care */
	pthread_mutex_t stats_lock; /* a leaf: the driver's updates against readers */
	struct gw_hist fault_hist; /* what the stats' fault_… are of; under stats_lock */
	uint64_t started_at;	   /* ns; when the handshake was done */
	uint64_t ended_at;	   /* ns; when the state became final */
};

int gw_engine_init(struct gw_engine *engine, enum godwit_side side, godwit_guest *guest,
		   const struct godwit_options *options, struct gw_err *err);
void gw_engine_deinit(struct gw_engine *engine);

/*
 * Keeps @err if it is the first, and wakes the driver. Any thread. Returns
 * whether the guest is this side's since gw_engine_own().
 */
bool gw_engine_fail(struct gw_engine *engine, const struct gw_err *err);
/* The `failed` callback of page threads: @opaque is the engine. */
void gw_engine_failed(void *opaque, const struct gw_err *err);
/* -EBUSY when it is too late. Any thread. */
int gw_engine_cancel(struct gw_engine *engine);
/*
 * From here on cancels come too late: at the source before COMMIT, at the
 * destination before LOADED, after which COMMIT may be on its way. Driver. An
 * earlier cancel or failure is returned, and then nothing has changed.
 */
int gw_engine_close_cancel(struct gw_engine *engine, struct gw_err *err);
/*
 * The destination takes the guest over. With @intact a page thread's earlier
 * failure is in the way: it may have let missing pages go. Driver.
 */
int gw_engine_own(struct gw_engine *engine, bool intact, struct gw_err *err);

/* Checks the edge, logs, publishes. Driver. */
void gw_engine_set_state(struct gw_engine *engine, enum godwit_state state);
enum godwit_state gw_engine_state(struct gw_engine *engine);

/* Takes the control channel of a session that both sides know of now. Driver. */
void gw_engine_begin_session(struct gw_engine *engine, struct gw_chan *control);

/* Sends a control message. Any thread. */
int gw_engine_send(struct gw_engine *engine, enum gw_message_type type,
		   const uint8_t *payload, size_t length, struct gw_err *err);
/*
 * Waits for a control message (then in engine->message), a reason to look
 * around, or @deadline (gw_now() time). Failures, the end of the guest's
 * process, a cancel and the peer's ABORT come as negative codes with @err. What
 * the peer managed to say before a link broke is heard before the loss.
 */
int gw_engine_wait(struct gw_engine *engine, uint64_t deadline, struct gw_err *err);
/*
 * After the wake descriptor became readable while the driver waited for
 * something else: 0, or what gw_engine_wait() would return.
 */
int gw_engine_look(struct gw_engine *engine, struct gw_err *err);
/*
 * Waits for one type of message; anything else is -EPROTO, silence past
 * @deadline -ETIMEDOUT.
 */
int gw_engine_expect(struct gw_engine *engine, enum gw_message_type type,
		     uint64_t deadline, struct gw_err *err);
/* What happens to the guest's process is of no concern any more. Driver. */
void gw_engine_ignore_process(struct gw_engine *engine);
/* For messages that carry one number. */
int gw_engine_number(struct gw_engine *engine, uint64_t *ret, struct gw_err *err);

/*
 * A connection that broke may be the peer's way out after an ABORT that says
 * why, still to be read: if so, @err becomes that. Driver.
 */
void gw_engine_explain_loss(struct gw_engine *engine, struct gw_err *err);
/* Tells the peer why we stop, if it still listens. */
void gw_engine_send_abort(struct gw_engine *engine, const struct gw_err *err);
/* Makes every blocked page thread come back. */
void gw_engine_shutdown_channels(struct gw_engine *engine);
void gw_engine_free_channels(struct gw_engine *engine);

/* Lets the driver change statistics while others read them. */
#define GW_STATS(engine, ...)                                                            \
	do {                                                                             \
		pthread_mutex_lock(&(engine)->stats_lock);                               \
		struct godwit_stats *stats = &(engine)->stats;                           \
		__VA_ARGS__;                                                             \
		pthread_mutex_unlock(&(engine)->stats_lock);                             \
	} while (0)

/* The destination's word, or at the destination its own, into the statistics. */
void gw_engine_publish_progress(struct gw_engine *engine,
				const struct gw_progress *progress);
/* As godwit_source_histogram(). Any thread. */
size_t gw_engine_histogram(struct gw_engine *engine, enum godwit_histogram which,
			   struct godwit_bucket *ret, size_t max);
/* A picture of now, with what is counted elsewhere filled in. Any thread. */
void gw_engine_stats(struct gw_engine *engine, struct godwit_stats *ret);
/* Copies what a caller who knows @size bytes of the struct can take. */
void gw_stats_copy(const struct godwit_stats *stats, struct godwit_stats *ret,
		   size_t size);
