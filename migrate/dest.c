/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The destination: from a waiting VMM to a running guest.
 *
 * Happy path: wait for a source, agree on the regions, take its channels, then
 * do what its control messages say, one at a time: see handle(). Pages arrive
 * meanwhile on the channels' own threads. COMMIT makes the guest ours: run it,
 * say so, announce it, and in post-copy serve faults until nothing is missing.
 *
 * Failure modes: strangers and garbage on the listener are dropped and the wait
 * goes on. Whatever fails before COMMIT ends in undo_before_commit(): the source
 * is told, and the guest here is never run. After COMMIT a lost link means
 * PAUSED: the guest goes on, threads that touch a missing page wait in the
 * kernel, and the userfaultfd stays open in the VMM, so nobody ever sees zeroes
 * where a page is missing.
 *
 * Threads: the driver (the caller of godwit_dest_run()), a receiver for each
 * channel, the pager's fault thread.
 *
 * Ownership: the guest is borrowed; everything else is struct godwit_dest's.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "base/io.h"
#include "base/util.h"
#include "migrate/engine.h"
#include "migrate/inject.h"
#include "migrate/pager.h"
#include "multifd/receiver.h"
#include "wire/cursor.h"

/* A connection that does not finish its handshake in this time is no source. */
#define HANDSHAKE_TIMEOUT (2 * GW_NSEC)
/* Between looks at the control channel while page channels are awaited. */
#define CHANNELS_POLL (GW_NSEC / 10)
/* For the source to hang up first, having understood that we are done. */
#define LINGER		(5 * GW_NSEC)
#define PROGRESS_PERIOD (GW_NSEC / 4)
/* More is no device state. */
#define STATE_MAX (1ULL << 30)

struct godwit_dest {
	struct gw_engine engine;
	struct gw_listener *listener;
	struct gw_pager *pager;
	struct gw_receiver *receivers[GW_CHANNELS_MAX + 1];
	unsigned int n_receivers;
	enum gw_mode mode; /* the source's choice */
	bool lz4;	   /* as well */

	pthread_mutex_t barrier_lock; /* a leaf */
	uint64_t round;		      /* of the barriers being awaited; under it */
	unsigned int arrived;	      /* channels that are through; under it */

	int state_fd; /* memfd; -1 before the first piece */
	uint64_t state_bytes;
	XXH3_state_t *hash;
	uint64_t named;	  /* units since the last MISSING_END */
	bool naming_seen; /* the source switched to post-copy */
	bool loaded;
	bool naming;	/* MISSING has come, its MISSING_END has not */
	bool committed; /* atomic: the guest is ours */
	bool pushed;	/* atomic: all channels' last barrier has come */
};

static struct gw_log *log_of(struct godwit_dest *dest)
{
	return &dest->engine.options.log;
}

static void *guest_of(struct godwit_dest *dest)
{
	return dest->engine.guest->opaque;
}

static const struct godwit_guest_ops *ops_of(struct godwit_dest *dest)
{
	return &dest->engine.guest->ops;
}

/* ---- life ---- */

int godwit_dest_new(godwit_guest *guest, const godwit_options *options, godwit_error *err,
		    godwit_dest **ret)
{
	struct godwit_dest *dest = calloc(1, sizeof(*dest));
	int r;

	if (!dest)
		return gw_err_set(err, -ENOMEM, "out of memory");
	dest->state_fd = -1;
	dest->round = 1;
	r = gw_engine_init(&dest->engine, GODWIT_DEST, guest, options, err);
	if (r) {
		free(dest);
		return r;
	}
	pthread_mutex_init(&dest->barrier_lock, NULL);
	dest->hash = XXH3_createState();
	if (!dest->hash) {
		godwit_dest_free(dest);
		return gw_err_set(err, -ENOMEM, "out of memory");
	}
	XXH3_64bits_reset(dest->hash);
	*ret = dest;
	return 0;
}

godwit_dest *godwit_dest_free(godwit_dest *dest)
{
	if (!dest)
		return NULL;
	gw_pager_free(dest->pager);
	gw_listener_free(dest->listener);
	XXH3_freeState(dest->hash);
	gw_close(&dest->state_fd);
	pthread_mutex_destroy(&dest->barrier_lock);
	gw_engine_deinit(&dest->engine);
	free(dest);
	return NULL;
}

int godwit_dest_listen(godwit_dest *dest, const char *address, godwit_error *err)
{
	struct gw_net_options net = {
		.connect_timeout_ns = dest->engine.options.connect_timeout_ns,
		.user_timeout_ns = dest->engine.options.peer_timeout_ns,
	};

	return gw_listener_new(address, &net, err, &dest->listener);
}

const char *godwit_dest_address(godwit_dest *dest)
{
	return dest->listener ? gw_listener_address(dest->listener) : "";
}

void gw_dest_use_listener(godwit_dest *dest, struct gw_listener *listener)
{
	dest->listener = listener;
}

/* ---- waiting for a source ---- */

/* The next connection before @deadline. */
static int accept_one(struct godwit_dest *dest, uint64_t deadline, struct gw_err *err,
		      struct gw_chan **ret)
{
	uint64_t now = gw_now(), left = UINT64_MAX;
	int r;

	if (deadline != GW_NO_DEADLINE)
		left = deadline > now ? deadline - now : 0;
	r = gw_listener_accept(dest->listener, left, dest->engine.wake_set, err, ret);
	if (r == GW_CHAN_WOKEN) {
		r = gw_engine_look(&dest->engine, err);
		return r ? r : GW_CHAN_WOKEN;
	}
	return r;
}

/* A channel whose handshake went well; strangers are dropped on the way. */
static int accept_channel(struct godwit_dest *dest, bool control, uint64_t deadline,
			  struct gw_err *err, struct gw_hello *ret_hello,
			  struct gw_chan **ret)
{
	struct gw_err stranger = {0};
	struct gw_chan *chan;
	int r;

	for (;;) {
		r = accept_one(dest, deadline, err, &chan);
		if (r == GW_CHAN_WOKEN)
			continue;
		if (r)
			return r;
		r = gw_handshake_answer(chan, &dest->engine.session, control,
					HANDSHAKE_TIMEOUT, &stranger, ret_hello);
		if (!r)
			break;
		gw_warn(log_of(dest), "%s", stranger.text);
		gw_chan_free(chan);
	}
	*ret = chan;
	return 0;
}

static int await_source(struct godwit_dest *dest, struct gw_err *err)
{
	struct gw_engine *engine = &dest->engine;
	uint64_t timeout = engine->options.timeout_ns;
	uint64_t deadline = timeout ? gw_now() + timeout : GW_NO_DEADLINE;
	struct gw_hello hello;
	struct gw_chan *chan;
	int r = accept_channel(dest, true, deadline, err, &hello, &chan);

	if (r == GW_CHAN_TIMEOUT)
		return gw_err_set(err, -ETIMEDOUT, "no source has come within %.1f s",
				  (double)timeout / 1e9);
	if (r)
		return r;
	gw_engine_begin_session(engine, chan);
	gw_info(log_of(dest), "source connected: %s, session %s", engine->control->name,
		engine->stats.session);
	return 0;
}

/* ---- agreement ---- */

static int check_region(struct godwit_dest *dest, unsigned int index,
			const struct gw_setup_region *theirs, struct gw_err *err)
{
	struct gw_memory *memory = &dest->engine.memory;
	const struct gw_memory_region *ours;
	uint64_t size;

	if (gw_memory_put_at(memory, index, theirs->name))
		return gw_err_set(err, -EINVAL,
				  "the source's memory region '%s' does not exist at the "
				  "destination: give the memory backend the same id",
				  theirs->name);
	ours = &memory->regions[index];
	size = ours->units << GW_UNIT_SHIFT;
	if (theirs->size != size)
		return gw_err_set(
			err, -EINVAL,
			"memory region '%s' has %llu MiB at the source and %llu "
			"MiB at the destination: start the destination with the "
			"same memory size",
			theirs->name, (unsigned long long)theirs->size >> 20,
			(unsigned long long)size >> 20);
	if (gw_mode_may_postcopy(dest->mode) && theirs->page_size != ours->page_size)
		return gw_err_set(
			err, -EINVAL,
			"memory region '%s' has pages of %llu KiB at the source and "
			"%llu KiB at the destination: post-copy needs the same",
			theirs->name, (unsigned long long)theirs->page_size >> 10,
			(unsigned long long)ours->page_size >> 10);
	return 0;
}

static int check_setup(struct godwit_dest *dest, const struct gw_setup *setup,
		       struct gw_err *err)
{
	int r = 0;

	if (!setup->mode || setup->mode >= GW_N_MODES || !setup->channels ||
	    setup->channels > GW_CHANNELS_MAX)
		return gw_err_set(err, -EPROTO, "malformed SETUP from the source");
	dest->mode = (enum gw_mode)setup->mode;
	dest->lz4 = setup->compress;
	if (setup->n_regions != dest->engine.memory.n_regions)
		return gw_err_set(err, -EINVAL,
				  "the source has %u memory regions, the destination %u: "
				  "start both with the same memory options",
				  setup->n_regions, dest->engine.memory.n_regions);
	for (unsigned int i = 0; i < setup->n_regions && !r; i++)
		r = check_region(dest, i, &setup->regions[i], err);
	return r;
}

static void dest_failed(void *opaque, const struct gw_err *err);

static void dest_complete(void *opaque)
{
	struct godwit_dest *dest = opaque;

	gw_event_set(&dest->engine.wake);
}

static int make_pager(struct godwit_dest *dest, struct gw_err *err)
{
	struct gw_pager_config config = {
		.memory = &dest->engine.memory,
		.pid = dest->engine.guest->pid,
		.log = log_of(dest),
		.failed = dest_failed,
		.complete = dest_complete,
		.opaque = dest,
	};
	int r = gw_pager_new(&config, err, &dest->pager);

	if (!r)
		GW_STATS(&dest->engine,
			 stats->bitmap_bytes = gw_pager_bitmap_bytes(dest->pager));
	if (!r && gw_mode_may_postcopy(dest->mode))
		r = gw_pager_attach(dest->pager, err);
	return r;
}

static int agree_on_setup(struct godwit_dest *dest, struct gw_err *err,
			  unsigned int *ret_channels)
{
	struct gw_engine *engine = &dest->engine;
	struct gw_setup *setup = malloc(sizeof(*setup));
	int r;

	if (!setup)
		return gw_err_set(err, -ENOMEM, "out of memory");
	r = gw_engine_expect(engine, GW_MSG_SETUP,
			     gw_now() + engine->options.connect_timeout_ns, err);
	if (!r && gw_setup_decode(engine->message.payload, engine->message.length, setup))
		r = gw_err_set(err, -EPROTO, "malformed SETUP from the source");
	if (!r)
		r = check_setup(dest, setup, err);
	if (!r)
		r = make_pager(dest, err);
	if (!r) {
		*ret_channels = setup->channels;
		GW_STATS(engine, snprintf(stats->mode, sizeof(stats->mode), "%s",
					  gw_mode_name(dest->mode)));
		r = gw_engine_send(engine, GW_MSG_SETUP_OK, NULL, 0, err);
	}
	free(setup);
	return r;
}

/* ---- page channels ---- */

static int adopt(struct godwit_dest *dest, const struct gw_hello *hello,
		 struct gw_chan *chan, unsigned int n_bulk)
{
	struct gw_engine *engine = &dest->engine;
	struct gw_chan **slot = NULL;

	if (hello->kind == GW_CHAN_BULK && hello->index < n_bulk)
		slot = &engine->bulk[hello->index];
	else if (hello->kind == GW_CHAN_URGENT && gw_mode_may_postcopy(dest->mode))
		slot = &engine->urgent;
	if (!slot || *slot)
		return -EPROTO;
	GW_STATS(engine, *slot = chan; (void)stats);
	return 0;
}

/* 0: nothing to hear; a source that gave up says so on the control channel. */
static int source_gave_up(struct godwit_dest *dest, struct gw_err *err)
{
	int r = gw_engine_wait(&dest->engine, 0, err);

	if (r)
		return GW_MIN(r, 0);
	return gw_err_set(err, -EPROTO, "the source sent %s before its page channels",
			  gw_message_name(dest->engine.message.type));
}

static int accept_page_channels(struct godwit_dest *dest, unsigned int n,
				struct gw_err *err)
{
	struct gw_engine *engine = &dest->engine;
	unsigned int left = n + (gw_mode_may_postcopy(dest->mode) ? 1 : 0);
	uint64_t deadline = gw_now() + engine->options.connect_timeout_ns;

	GW_STATS(engine, engine->n_bulk = n; (void)stats);
	while (left) {
		uint64_t slice = GW_MIN(deadline, gw_now() + CHANNELS_POLL);
		struct gw_hello hello;
		struct gw_chan *chan;
		int r = accept_channel(dest, false, slice, err, &hello, &chan);

		if (r == GW_CHAN_TIMEOUT && gw_now() < deadline) {
			r = source_gave_up(dest, err);
			if (r)
				return r;
			continue;
		}
		if (r == GW_CHAN_TIMEOUT)
			return gw_err_set(err, -ETIMEDOUT,
					  "%u of the source's channels did not come",
					  left);
		if (r)
			return r;
		if (adopt(dest, &hello, chan, n)) {
			gw_warn(log_of(dest), "%s: a channel that is not expected",
				chan->name);
			gw_chan_free(chan);
			continue;
		}
		left--;
	}
	GW_STATS(engine, stats->channels = n);
	/* Nobody else is expected: whoever connects now learns it at once. */
	dest->listener = gw_listener_free(dest->listener);
	return 0;
}

/* ---- what page threads call ---- */

static int sink_place(void *opaque, unsigned int region, uint64_t unit, uint64_t count,
		      void **ret)
{
	return gw_pager_place(((struct godwit_dest *)opaque)->pager, region, unit, count,
			      ret);
}

static int sink_install(void *opaque, unsigned int region, uint64_t unit, uint64_t count,
			const void *data, bool urgent)
{
	return gw_pager_install(((struct godwit_dest *)opaque)->pager, region, unit,
				count, data, urgent);
}

static int sink_zero(void *opaque, unsigned int region, uint64_t unit, uint64_t count,
		     bool urgent)
{
	return gw_pager_zero(((struct godwit_dest *)opaque)->pager, region, unit, count,
			     urgent);
}

static int end_of_round(struct godwit_dest *dest, uint64_t number)
{
	uint8_t payload[8];
	struct gw_writer w = gw_writer_of(payload, sizeof(payload));

	if (__atomic_load_n(&dest->committed, __ATOMIC_ACQUIRE)) {
		__atomic_store_n(&dest->pushed, true, __ATOMIC_RELEASE);
		gw_event_set(&dest->engine.wake);
		return 0;
	}
	gw_put_u64(&w, number);
	return gw_engine_send(&dest->engine, GW_MSG_ROUND_DONE, payload, sizeof(payload),
			      NULL);
}

/* Each channel says once a round that it is through; the last one tells the source. */
static int sink_barrier(void *opaque, uint64_t number)
{
	struct godwit_dest *dest = opaque;
	bool last;

	pthread_mutex_lock(&dest->barrier_lock);
	if (number != dest->round) {
		pthread_mutex_unlock(&dest->barrier_lock);
		return -EPROTO;
	}
	last = ++dest->arrived == dest->engine.n_bulk;
	if (last) {
		dest->arrived = 0;
		dest->round++;
	}
	pthread_mutex_unlock(&dest->barrier_lock);
	GW_STATS(&dest->engine, stats->round = (uint32_t)number);
	return last ? end_of_round(dest, number) : 0;
}

static const struct gw_sink sink = {
	.place = sink_place,
	.install = sink_install,
	.zero = sink_zero,
	.barrier = sink_barrier,
};

/*
 * Before COMMIT a VMM that loads its state may be waiting for a page that will
 * not come; nobody will run it, so it may go on.
 */
static void dest_failed(void *opaque, const struct gw_err *err)
{
	struct godwit_dest *dest = opaque;
	bool owned = gw_engine_fail(&dest->engine, err);

	if (!owned && dest->pager)
		gw_pager_let_go(dest->pager);
}

static int start_receiver(struct godwit_dest *dest, struct gw_chan *chan,
			  unsigned int index, bool urgent, struct gw_err *err)
{
	struct gw_receiver_config config = {
		.memory = &dest->engine.memory,
		.chan = chan,
		.index = index,
		.urgent = urgent,
		.lz4 = dest->lz4 && !urgent,
		.sink = &sink,
		.counters = &dest->engine.counters,
		.failed = dest_failed,
		.opaque = dest,
	};
	int r = gw_receiver_start(&config, err, &dest->receivers[dest->n_receivers]);

	if (!r)
		dest->n_receivers++;
	return r;
}

static int start_receivers(struct godwit_dest *dest, struct gw_err *err)
{
	struct gw_engine *engine = &dest->engine;
	int r = 0;

	for (unsigned int i = 0; i < engine->n_bulk && !r; i++)
		r = start_receiver(dest, engine->bulk[i], i, false, err);
	if (!r && engine->urgent) {
		gw_pager_set_urgent(dest->pager, engine->urgent);
		r = start_receiver(dest, engine->urgent, 0, true, err);
	}
	return r;
}

static int prepare(struct godwit_dest *dest, struct gw_err *err)
{
	unsigned int channels = 0;
	int r;

	if (!dest->listener)
		return gw_err_set(err, -EINVAL, "no address to listen on was given");
	r = await_source(dest, err);
	if (!r)
		r = agree_on_setup(dest, err, &channels);
	if (!r)
		r = accept_page_channels(dest, channels, err);
	if (!r)
		r = start_receivers(dest, err);
	if (!r && (dest->mode == GW_MODE_PRECOPY || dest->mode == GW_MODE_HYBRID))
		gw_engine_set_state(&dest->engine, GODWIT_STATE_PRECOPY);
	return r;
}

/* ---- what the source's messages mean ---- */

static int out_of_turn(struct godwit_dest *dest, struct gw_err *err)
{
	return gw_err_set(err, -EPROTO, "the source sent %s out of turn (%s)",
			  gw_message_name(dest->engine.message.type),
			  godwit_state_name(gw_engine_state(&dest->engine)));
}

static int handle_missing(struct godwit_dest *dest, struct gw_err *err)
{
	const struct gw_message *message = &dest->engine.message;
	struct gw_runs_reader runs;
	uint64_t first, count;
	uint16_t region;
	int r;

	if (!gw_mode_may_postcopy(dest->mode) || dest->state_fd >= 0 || dest->loaded)
		return out_of_turn(dest, err);
	dest->naming = true;
	if (gw_runs_region(message->payload, message->length, &region) ||
	    region >= dest->engine.memory.n_regions)
		return gw_err_set(err, -EPROTO, "malformed MISSING from the source");
	gw_engine_set_state(&dest->engine, GODWIT_STATE_SWITCHOVER);
	gw_runs_open(&runs, message->payload, message->length,
		     dest->engine.memory.regions[region].units);
	while ((r = gw_runs_next(&runs, &first, &count)) > 0) {
		r = gw_pager_drop(dest->pager, region, first, count, err);
		if (r)
			return r;
		dest->named += count;
	}
	return r ? gw_err_set(err, -EPROTO, "malformed MISSING from the source") : 0;
}

static int handle_missing_end(struct godwit_dest *dest, struct gw_err *err)
{
	struct gw_engine *engine = &dest->engine;
	const struct gw_message *message = &engine->message;
	struct gw_missing_end end;
	uint64_t missing;
	int r;

	if (!gw_mode_may_postcopy(dest->mode) || dest->state_fd >= 0 || dest->loaded)
		return out_of_turn(dest, err);
	if (gw_missing_end_decode(message->payload, message->length, &end))
		return gw_err_set(err, -EPROTO, "malformed MISSING_END from the source");
	if (end.units != dest->named)
		return gw_err_set(
			err, -EPROTO,
			"the source announced %llu missing pages and named %llu",
			(unsigned long long)end.units, (unsigned long long)dest->named);
	missing = gw_pager_missing(dest->pager);
	if (end.data > missing)
		return gw_err_set(err, -EPROTO, "malformed MISSING_END from the source");
	dest->named = 0;
	dest->naming = false;
	dest->naming_seen = true;
	gw_engine_set_state(engine, GODWIT_STATE_SWITCHOVER);
	r = gw_pager_arm(dest->pager, end.data, err);
	if (r)
		return r;
	GW_STATS(engine, {
		stats->postcopy_bytes = missing << GW_UNIT_SHIFT;
		stats->remaining_bytes = missing << GW_UNIT_SHIFT;
	});
	return gw_engine_send(engine, GW_MSG_ARMED, engine->out,
			      gw_number_encode(missing, engine->out), err);
}

static int handle_state(struct godwit_dest *dest, struct gw_err *err)
{
	const struct gw_message *message = &dest->engine.message;
	int r;

	if (dest->loaded || dest->naming)
		return out_of_turn(dest, err);
	if (dest->state_fd < 0) {
		dest->state_fd = memfd_create("godwit device state", MFD_CLOEXEC);
		if (dest->state_fd < 0)
			return gw_err_errno(err, -errno, "memfd for the device state");
	}
	if (message->length > STATE_MAX - dest->state_bytes)
		return gw_err_set(err, -EFBIG, "the device state is larger than %llu MiB",
				  STATE_MAX >> 20);
	r = gw_write_all(dest->state_fd, message->payload, message->length);
	if (r)
		return gw_err_errno(err, r, "keeping the device state");
	XXH3_64bits_update(dest->hash, message->payload, message->length);
	dest->state_bytes += message->length;
	return 0;
}

static int load_state(struct godwit_dest *dest, struct gw_err *err)
{
	uint64_t began = gw_now();
	int r;

	if (dest->state_fd >= 0 && lseek(dest->state_fd, 0, SEEK_SET) < 0)
		return gw_err_errno(err, -errno, "rewinding the device state");
	r = ops_of(dest)->load ? ops_of(dest)->load(guest_of(dest), dest->state_fd,
						    dest->state_bytes, err)
			       : 0;
	if (r)
		return gw_err_prefix(err, "loading the device state");
	/* Loaded with zeroes where a page could not come: not a guest to run. */
	r = gw_engine_look(&dest->engine, err);
	GW_STATS(&dest->engine, {
		stats->state_bytes = dest->state_bytes;
		stats->load_ns = gw_now() - began;
	});
	return r;
}

static int handle_state_end(struct godwit_dest *dest, struct gw_err *err)
{
	struct gw_engine *engine = &dest->engine;
	struct gw_state_end end;
	int r;

	if (dest->loaded || dest->naming)
		return out_of_turn(dest, err);
	if (gw_state_end_decode(engine->message.payload, engine->message.length, &end))
		return gw_err_set(err, -EPROTO, "malformed STATE_END from the source");
	if (end.length != dest->state_bytes || end.hash != XXH3_64bits_digest(dest->hash))
		return gw_err_set(err, -EBADMSG, "the device state arrived damaged");
	if (!dest->naming_seen)
		gw_engine_set_state(engine, GODWIT_STATE_STOPCOPY);
	/* Everything is named and the source's guest stands: answers are final. */
	r = dest->naming_seen ? gw_pager_serve(dest->pager, err) : 0;
	if (!r)
		r = load_state(dest, err);
	/* After LOADED, COMMIT may be on its way: a cancel would come too late. */
	if (!r)
		r = gw_engine_close_cancel(engine, err);
	if (r)
		return r;
	dest->loaded = true;
	return gw_engine_send(engine, GW_MSG_LOADED, NULL, 0, err);
}

static void announce(struct godwit_dest *dest)
{
	struct gw_err err = {0};

	if (ops_of(dest)->announce && ops_of(dest)->announce(guest_of(dest), &err))
		gw_warn(log_of(dest), "announcing the guest on its network: %s",
			err.text);
}

/* From here on the guest is ours, whatever becomes of the link. */
static int handle_commit(struct godwit_dest *dest, struct gw_err *err)
{
	struct gw_engine *engine = &dest->engine;
	struct gw_err link = {0};
	int r;

	if (!dest->loaded || dest->committed)
		return out_of_turn(dest, err);
	/* Where pages are still to come, a channel that failed may have let some go. */
	r = gw_engine_own(engine, dest->naming_seen, err);
	if (r)
		return r;
	__atomic_store_n(&dest->committed, true, __ATOMIC_RELEASE);
	gw_engine_set_state(engine, GODWIT_STATE_UNDECIDED);
	r = ops_of(dest)->run ? ops_of(dest)->run(guest_of(dest), err) : 0;
	if (r)
		return gw_err_prefix(err, "the guest belongs to this host now, but could "
					  "not be set running");
	GW_STATS(engine, stats->running_at_ns = gw_realtime());
	gw_engine_set_state(engine, dest->naming_seen ? GODWIT_STATE_POSTCOPY
						      : GODWIT_STATE_DONE);
	r = gw_engine_send(engine, GW_MSG_RUNNING, engine->out,
			   gw_number_encode(engine->stats.running_at_ns, engine->out),
			   &link);
	announce(dest);
	if (!r)
		return 0;
	/* Complete here: that the source could not be told does not change it. */
	if (!dest->naming_seen) {
		gw_warn(log_of(dest), "%s", link.text);
		return 0;
	}
	*err = link;
	return r;
}

static int handle(struct godwit_dest *dest, struct gw_err *err)
{
	switch (dest->engine.message.type) {
	case GW_MSG_MISSING:
		return handle_missing(dest, err);
	case GW_MSG_MISSING_END:
		return handle_missing_end(dest, err);
	case GW_MSG_STATE:
		return handle_state(dest, err);
	case GW_MSG_STATE_END:
		return handle_state_end(dest, err);
	case GW_MSG_COMMIT:
		return handle_commit(dest, err);
	default:
		return out_of_turn(dest, err);
	}
}

/* ---- post-copy, seen from the driver ---- */

static int send_progress(struct godwit_dest *dest, enum gw_message_type type,
			 struct gw_err *err)
{
	struct gw_engine *engine = &dest->engine;
	struct gw_progress now;

	gw_pager_progress(dest->pager, &now);
	gw_engine_publish_progress(engine, &now);
	return gw_engine_send(engine, type, engine->out,
			      gw_progress_encode(&now, engine->out), err);
}

/* Nothing is missing and nothing is on its way any more. */
static bool is_complete(struct godwit_dest *dest)
{
	return __atomic_load_n(&dest->pushed, __ATOMIC_ACQUIRE) &&
	       !gw_pager_missing(dest->pager);
}

static int postcopy(struct godwit_dest *dest, struct gw_err *err)
{
	uint64_t tick = gw_now() + PROGRESS_PERIOD;
	int r = 0;

	while (!is_complete(dest)) {
		r = gw_engine_wait(&dest->engine, tick, err);
		if (r < 0)
			return r;
		if (!r)
			return out_of_turn(dest, err);
		if (r != GW_ENGINE_TIMEOUT)
			continue;
		tick = gw_now() + PROGRESS_PERIOD;
		r = send_progress(dest, GW_MSG_PROGRESS, err);
		if (r)
			return r;
	}
	r = send_progress(dest, GW_MSG_COMPLETE, err);
	if (r)
		gw_warn(log_of(dest), "%s", err->text);
	gw_engine_set_state(&dest->engine, GODWIT_STATE_DONE);
	return 0;
}

static int migrate(struct godwit_dest *dest, struct gw_err *err)
{
	int r;

	while (!dest->committed) {
		r = gw_engine_wait(&dest->engine, GW_NO_DEADLINE, err);
		if (r < 0)
			return r;
		if (!r)
			r = handle(dest, err);
		if (r < 0)
			return r;
	}
	if (gw_engine_state(&dest->engine) == GODWIT_STATE_POSTCOPY)
		return postcopy(dest, err);
	return 0;
}

/* ---- the end ---- */

static void stop_threads(struct godwit_dest *dest)
{
	gw_engine_shutdown_channels(&dest->engine);
	while (dest->n_receivers)
		gw_receiver_free(dest->receivers[--dest->n_receivers]);
	if (dest->pager)
		gw_pager_stop(dest->pager);
}

static int end_done(struct godwit_dest *dest)
{
	/*
	 * Our closing first could reach the source's page threads before it has
	 * read our last message, and look like a loss.
	 */
	(void)gw_chan_wait(dest->engine.control, LINGER, -1);
	stop_threads(dest);
	gw_pager_release(dest->pager);
	return 0;
}

/*
 * The source may have sent COMMIT, and it was lost with the link. Nothing is
 * run, and nothing is undone either: an operator may know more than we do.
 */
static int end_undecided(struct godwit_dest *dest, struct gw_err *err)
{
	struct gw_err cause = *err;

	gw_engine_set_state(&dest->engine, GODWIT_STATE_UNDECIDED);
	stop_threads(dest);
	return gw_err_set(
		err, -EUNATCH,
		"the link was lost when the guest was ready to run here, and "
		"whether the source has handed it over is not known (%.200s): ask "
		"there, and do not start it here if it runs there",
		cause.text);
}

static int undo_before_commit(struct godwit_dest *dest, struct gw_err *err)
{
	struct gw_engine *engine = &dest->engine;

	gw_engine_explain_loss(engine, err);
	if (dest->loaded && engine->message.type != GW_MSG_ABORT &&
	    (err->code == -ECONNRESET || err->code == -EPIPE || err->code == -ETIMEDOUT))
		return end_undecided(dest, err);
	gw_engine_send_abort(engine, err);
	stop_threads(dest);
	if (dest->pager)
		gw_pager_release(dest->pager);
	if (ops_of(dest)->abandon)
		ops_of(dest)->abandon(guest_of(dest));
	gw_engine_set_state(engine, err->code == -ECANCELED ? GODWIT_STATE_CANCELLED
							    : GODWIT_STATE_FAILED);
	return err->code;
}

static int end_paused(struct godwit_dest *dest, struct gw_err *err)
{
	unsigned long long missing = gw_pager_missing(dest->pager);

	gw_engine_explain_loss(&dest->engine, err);
	gw_engine_set_state(&dest->engine, GODWIT_STATE_PAUSED);
	stop_threads(dest);
	gw_pager_open(dest->pager);
	if (err->code == -ESRCH)
		return gw_err_prefix(err,
				     "post-copy ended: the guest was running here "
				     "and lacked %llu pages",
				     missing);
	return gw_err_prefix(err,
			     "post-copy is paused; the guest runs here and lacks %llu "
			     "pages that only the source's VMM has: keep both",
			     missing);
}

static int finish(struct godwit_dest *dest, int r, struct gw_err *err)
{
	switch (gw_engine_state(&dest->engine)) {
	case GODWIT_STATE_DONE:
		return end_done(dest);
	case GODWIT_STATE_POSTCOPY:
		if (gw_pager_missing(dest->pager))
			return end_paused(dest, err);
		/* Nothing that is lost with the link is needed any more. */
		gw_warn(log_of(dest), "%s", err->text);
		*err = (struct gw_err){0};
		gw_engine_set_state(&dest->engine, GODWIT_STATE_DONE);
		return end_done(dest);
	case GODWIT_STATE_UNDECIDED:
		gw_engine_send_abort(&dest->engine, err);
		stop_threads(dest);
		return r;
	default:
		return undo_before_commit(dest, err);
	}
}

int godwit_dest_run(godwit_dest *dest, godwit_error *err)
{
	struct gw_err own = {0};
	int r;

	if (!err)
		err = &own;
	r = prepare(dest, err);
	if (!r)
		r = migrate(dest, err);
	r = finish(dest, r, err);
	gw_session_forget(&dest->engine.session);
	gw_engine_free_channels(&dest->engine);
	return r;
}

/* ---- from other threads ---- */

int godwit_dest_cancel(godwit_dest *dest)
{
	return gw_engine_cancel(&dest->engine);
}

void godwit_dest_stats(godwit_dest *dest, struct godwit_stats *ret, size_t size)
{
	struct godwit_stats now;

	gw_engine_stats(&dest->engine, &now);
	gw_stats_copy(&now, ret, size);
}

size_t godwit_dest_histogram(godwit_dest *dest, enum godwit_histogram which,
			     struct godwit_bucket *ret, size_t max)
{
	return gw_engine_histogram(&dest->engine, which, ret, max);
}
