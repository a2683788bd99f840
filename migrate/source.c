/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The source: from a running guest to one that runs elsewhere.
 *
 * Happy path: connect, agree on the regions, then rounds of pre-copy; each ends
 * with a barrier that the destination acknowledges, and with a scan for what
 * was written meanwhile. When the rest is small enough (or at once, offline)
 * finish_by_stopping(): stop, device state, last round, COMMIT. When it will
 * not get small (or at once, postcopy) finish_by_postcopy(): name what is
 * missing, stop, name the rest, device state, COMMIT, then answer page requests
 * and push until the destination has everything.
 *
 * Failure modes: anything before COMMIT, a cancel included, ends in
 * undo_before_commit(): the peer is told, tracking goes, a stopped guest runs
 * on. COMMIT itself is the point of no return: the state is UNDECIDED from
 * before its first byte until the answer is here, and the guest stays stopped
 * whatever happens. After it a lost link means PAUSED: this side's memory is
 * the only copy of what is missing, and stays.
 *
 * Threads: the driver (the caller of godwit_source_run()), bulk workers and the
 * urgent lane. They start after the handshakes and are joined in stop_threads().
 *
 * Ownership: the guest is borrowed. All bitmaps belong to struct godwit_source;
 * while a round goes on, `todo` belongs to the workers.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "base/parse.h"
#include "base/util.h"
#include "migrate/converge.h"
#include "migrate/engine.h"
#include "migrate/inject.h"
#include "multifd/sender.h"
#include "multifd/urgent.h"
#include "userfault/track.h"

/* Recent faults whose neighbourhood bulk should push next; more are refused. */
#define HOT_EXTENTS 64
/* The destination's answer to COMMIT: a `cont` and its confirmation. */
#define COMMIT_TIMEOUT (30 * GW_NSEC)
/*
 * Other answers while the guest may be standing still; loading a device state
 * is the longest, with time limits of its own at the destination.
 */
#define ANSWER_TIMEOUT (60 * GW_NSEC)
/* A last round in which nothing moves for so long: the destination is stuck. */
#define STALL_TIMEOUT (30 * GW_NSEC)

#define ROUNDS_HYBRID  8
#define ROUNDS_PRECOPY 30

struct godwit_source {
	struct gw_engine engine;
	struct gw_dialer *dialer;
	struct gw_track *track; /* NULL: offline, postcopy, or at the end */
	struct gw_limiter limiter;
	struct gw_sender *sender;
	struct gw_urgent *urgent;
	struct gw_queue hot;
	struct gw_bitmap todo;	 /* to be sent; taken by the workers */
	struct gw_bitmap late;	 /* written between the first naming and the stop */
	struct gw_bitmap backed; /* where there is no tracker to know it */
	struct gw_converge converge;
	uint64_t max_downtime_ns; /* atomic: `set` changes it */
	bool switch_now;	  /* atomic: `switch` asks for post-copy */
	bool stopped;		  /* the stop callback has been called */
	uint64_t precopy_since;	  /* ns */
	uint64_t stop_began;	  /* ns */
	int state_fd;		  /* memfd with the device state */
	uint64_t round;
};

static struct gw_log *log_of(struct godwit_source *source)
{
	return &source->engine.options.log;
}

static const struct godwit_guest_ops *ops_of(struct godwit_source *source)
{
	return &source->engine.guest->ops;
}

/* ---- life ---- */

/* Post-copy at once and offline never ask what was written. */
static bool needs_tracking(const struct godwit_source *source)
{
	return source->engine.options.mode == GW_MODE_PRECOPY ||
	       source->engine.options.mode == GW_MODE_HYBRID;
}

static int init_bitmaps(struct godwit_source *source, struct gw_err *err)
{
	uint64_t units = source->engine.memory.units;
	bool postcopy = gw_mode_may_postcopy(source->engine.options.mode);
	int r = gw_bitmap_init(&source->todo, units);

	if (!r && source->engine.options.mode == GW_MODE_HYBRID)
		r = gw_bitmap_init(&source->late, units);
	if (!r && !needs_tracking(source))
		r = gw_bitmap_init(&source->backed, units);
	if (!r && postcopy)
		r = gw_queue_init(&source->hot, HOT_EXTENTS);
	if (r)
		return gw_err_set(err, r, "out of memory for bitmaps of %llu pages",
				  (unsigned long long)units);
	/* The tracker has one for what is backed where we have none. */
	source->engine.stats.bitmap_bytes =
		2 * gw_bitmap_bytes(&source->todo) + gw_bitmap_bytes(&source->late);
	return 0;
}

int godwit_source_new(godwit_guest *guest, const godwit_options *options,
		      godwit_error *err, godwit_source **ret)
{
	struct godwit_source *source = calloc(1, sizeof(*source));
	int r;

	if (!source)
		return gw_err_set(err, -ENOMEM, "out of memory");
	source->state_fd = -1;
	r = gw_engine_init(&source->engine, GODWIT_SOURCE, guest, options, err);
	if (r) {
		free(source);
		return r;
	}
	gw_limiter_init(&source->limiter, source->engine.options.bandwidth);
	source->max_downtime_ns = source->engine.options.max_downtime_ns;
	r = init_bitmaps(source, err);
	if (r) {
		godwit_source_free(source);
		return r;
	}
	snprintf(source->engine.stats.mode, sizeof(source->engine.stats.mode), "%s",
		 gw_mode_name(source->engine.options.mode));
	*ret = source;
	return 0;
}

godwit_source *godwit_source_free(godwit_source *source)
{
	if (!source)
		return NULL;
	gw_track_free(source->track);
	gw_dialer_free(source->dialer);
	gw_close(&source->state_fd);
	gw_queue_deinit(&source->hot);
	gw_bitmap_deinit(&source->backed);
	gw_bitmap_deinit(&source->late);
	gw_bitmap_deinit(&source->todo);
	gw_limiter_deinit(&source->limiter);
	gw_engine_deinit(&source->engine);
	free(source);
	return NULL;
}

/* ---- preparing: tracker, channels, agreement ---- */

static int start_tracking(struct godwit_source *source, struct gw_err *err)
{
	const struct gw_memory *memory = &source->engine.memory;
	struct gw_track_range ranges[GW_REGIONS_MAX];
	struct gw_uffd uffd;
	int r;

	for (unsigned int i = 0; i < memory->n_regions; i++) {
		const struct gw_memory_region *region = &memory->regions[i];

		ranges[i] = (struct gw_track_range){
			.address = region->address,
			.size = region->units << GW_UNIT_SHIFT,
			.fd = region->fd,
			.offset = region->offset,
			.first_unit = region->first_unit,
		};
	}
	r = gw_uffd_attach(source->engine.guest->pid, GW_UFFD_TRACK, false,
			   log_of(source), err, &uffd);
	if (r)
		return r;
	r = gw_track_new(&uffd, ranges, memory->n_regions, err, &source->track);
	if (r)
		gw_uffd_detach(&uffd);
	return r;
}

static int open_channel(struct godwit_source *source, enum gw_chan_kind kind,
			uint16_t index, struct gw_err *err, struct gw_chan **ret)
{
	struct gw_engine *engine = &source->engine;
	uint64_t required = 0;
	struct gw_chan *chan;
	int r;

	if (engine->options.compress)
		required |= GW_FEATURE_LZ4;
	if (gw_mode_may_postcopy(engine->options.mode))
		required |= GW_FEATURE_POSTCOPY;
	r = gw_dialer_dial(source->dialer, engine->wake_set, err, &chan);
	if (r)
		return r;
	r = gw_handshake_open(chan, &engine->session, kind, index, required,
			      engine->options.connect_timeout_ns, err);
	if (r) {
		gw_chan_free(chan);
		return r;
	}
	*ret = chan;
	return 0;
}

/* One channel for each 10 Gb/s of the link we leave by. */
static unsigned int choose_channels(struct godwit_source *source)
{
	struct gw_engine *engine = &source->engine;
	uint64_t mbits;

	if (engine->options.channels)
		return engine->options.channels;
	mbits = gw_chan_link_speed(engine->control);
	if (!mbits)
		return GW_CHANNELS_DEFAULT;
	return (unsigned int)GW_MIN(GW_DIV_UP(mbits, 10000ULL),
				    (uint64_t)GW_CHANNELS_MAX);
}

static int agree_on_setup(struct godwit_source *source, unsigned int channels,
			  struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	struct gw_setup *setup = calloc(1, sizeof(*setup));
	int r;

	if (!setup)
		return gw_err_set(err, -ENOMEM, "out of memory");
	setup->mode = (uint8_t)engine->options.mode;
	setup->compress = engine->options.compress != GW_COMPRESS_NONE;
	setup->channels = (uint16_t)channels;
	setup->n_regions = (uint16_t)engine->memory.n_regions;
	for (unsigned int i = 0; i < engine->memory.n_regions; i++) {
		const struct gw_memory_region *region = &engine->memory.regions[i];

		snprintf(setup->regions[i].name, GW_SETUP_NAME_LEN, "%s", region->name);
		setup->regions[i].size = region->units << GW_UNIT_SHIFT;
		setup->regions[i].page_size = region->page_size;
	}
	r = gw_engine_send(engine, GW_MSG_SETUP, engine->out,
			   gw_setup_encode(setup, engine->out), err);
	free(setup);
	if (r)
		return r;
	return gw_engine_expect(engine, GW_MSG_SETUP_OK,
				gw_now() + engine->options.connect_timeout_ns, err);
}

static int open_control(struct godwit_source *source, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	struct gw_chan *chan;
	int r = gw_session_init(&engine->session, err);

	if (!r)
		r = open_channel(source, GW_CHAN_CONTROL, 0, err, &chan);
	if (r)
		return r;
	gw_engine_begin_session(engine, chan);
	gw_info(log_of(source), "connected to %s, session %s", engine->control->name,
		engine->stats.session);
	return 0;
}

static int open_page_channels(struct godwit_source *source, unsigned int n,
			      struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	struct gw_chan *chan;
	int r = 0;

	for (unsigned int i = 0; i < n && !r; i++) {
		r = open_channel(source, GW_CHAN_BULK, (uint16_t)i, err, &chan);
		if (!r)
			GW_STATS(engine, {
				engine->bulk[engine->n_bulk] = chan;
				stats->channels = ++engine->n_bulk;
			});
	}
	if (r || !gw_mode_may_postcopy(engine->options.mode))
		return r;
	r = open_channel(source, GW_CHAN_URGENT, 0, err, &chan);
	if (!r)
		GW_STATS(engine, engine->urgent = chan; (void)stats);
	return r;
}

static int start_threads(struct godwit_source *source, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	struct gw_sender_config sender = {
		.memory = &engine->memory,
		.chans = engine->bulk,
		.n_chans = engine->n_bulk,
		.compress = engine->options.compress,
		.limiter = &source->limiter,
		.counters = &engine->counters,
		.failed = gw_engine_failed,
		.opaque = engine,
	};
	struct gw_urgent_config urgent = {
		.memory = &engine->memory,
		.chan = engine->urgent,
		.todo = &source->todo,
		.hot = &source->hot,
		.counters = &engine->counters,
		.failed = gw_engine_failed,
		.opaque = engine,
	};
	int r = gw_sender_start(&sender, err, &source->sender);

	if (!r && engine->urgent)
		r = gw_urgent_start(&urgent, err, &source->urgent);
	return r;
}

static int prepare(struct godwit_source *source, const char *address, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	struct gw_net_options net = {
		.connect_timeout_ns = engine->options.connect_timeout_ns,
		.user_timeout_ns = engine->options.peer_timeout_ns,
	};
	unsigned int channels;
	int r;

	/* What this host refuses is cheapest to learn first. */
	if (needs_tracking(source) && engine->guest->untracked[0])
		return gw_err_set(err, -EOPNOTSUPP, "%s", engine->guest->untracked);
	r = needs_tracking(source) ? start_tracking(source, err) : 0;
	if (!r && !source->dialer)
		r = gw_dialer_new(address, &net, err, &source->dialer);
	if (!r)
		r = open_control(source, err);
	if (r)
		return r;
	channels = choose_channels(source);
	r = agree_on_setup(source, channels, err);
	if (!r)
		r = open_page_channels(source, channels, err);
	return r ? r : start_threads(source, err);
}

static uint64_t answer_deadline(const struct godwit_source *source)
{
	return source->stopped ? gw_now() + ANSWER_TIMEOUT : GW_NO_DEADLINE;
}

/* ---- rounds ---- */

static const struct gw_bitmap *backed_units(struct godwit_source *source)
{
	return source->track ? gw_track_backed(source->track) : &source->backed;
}

/* What was written since the last look, into @dirty: units newly set. */
static int collect(struct godwit_source *source, struct gw_bitmap *dirty,
		   struct gw_err *err)
{
	int64_t n;

	if (!source->track) {
		gw_memory_find_backed(&source->engine.memory, &source->backed);
		return 0;
	}
	n = gw_track_collect(source->track, dirty, err);
	return n < 0 ? (int)n : 0;
}

static void publish_rest(struct godwit_source *source)
{
	uint64_t rest = gw_bitmap_count(&source->todo) << GW_UNIT_SHIFT;

	GW_STATS(&source->engine, stats->remaining_bytes = rest);
}

static bool wants_switch(struct godwit_source *source)
{
	const struct godwit_options *options = &source->engine.options;

	if (options->mode != GW_MODE_HYBRID)
		return false;
	if (__atomic_load_n(&source->switch_now, __ATOMIC_ACQUIRE))
		return true;
	return options->postcopy_after_ns &&
	       gw_now() - source->precopy_since >= options->postcopy_after_ns;
}

/* When the driver has to look at the clock next while a round goes on. */
static uint64_t round_deadline(struct godwit_source *source)
{
	const struct godwit_options *options = &source->engine.options;
	uint64_t tick = gw_now() + GW_NSEC / 4;

	if (options->mode != GW_MODE_HYBRID || !options->postcopy_after_ns)
		return tick;
	return GW_MIN(tick, source->precopy_since + options->postcopy_after_ns);
}

static int check_round_done(struct godwit_source *source, struct gw_err *err)
{
	uint64_t number;
	int r;

	if (source->engine.message.type != GW_MSG_ROUND_DONE)
		return gw_err_set(err, -EPROTO, "the destination sent %s within a round",
				  gw_message_name(source->engine.message.type));
	r = gw_engine_number(&source->engine, &number, err);
	if (!r && number != source->round)
		r = gw_err_set(
			err, -EPROTO, "the destination ended round %llu in round %llu",
			(unsigned long long)number, (unsigned long long)source->round);
	return r;
}

static uint64_t data_bytes(struct godwit_source *source)
{
	return __atomic_load_n(&source->engine.counters.data_units, __ATOMIC_RELAXED)
	       << GW_UNIT_SHIFT;
}

/* A round's speed while it goes on, for whoever watches. */
static void publish_speed(struct godwit_source *source, uint64_t began, uint64_t sent)
{
	uint64_t ns = GW_MAX(gw_now() - began, 1ULL);
	uint64_t speed =
		(uint64_t)((double)(data_bytes(source) - sent) * GW_NSEC / (double)ns);

	GW_STATS(&source->engine, stats->throughput = speed);
}

/* When the round last moved something; a guest that stands must not wait for ever. */
struct pulse {
	uint64_t bytes, at;
};

static int check_pulse(struct godwit_source *source, struct pulse *pulse,
		       struct gw_err *err)
{
	struct godwit_stats now;

	gw_engine_stats(&source->engine, &now);
	if (now.wire_bytes != pulse->bytes || !pulse->at) {
		*pulse = (struct pulse){.bytes = now.wire_bytes, .at = gw_now()};
		return 0;
	}
	if (!source->stopped || gw_now() - pulse->at < STALL_TIMEOUT)
		return 0;
	return gw_err_set(err, -ETIMEDOUT, "the destination has taken nothing for %llu s",
			  STALL_TIMEOUT / GW_NSEC);
}

/*
 * Sends what is in `todo` and waits for the barrier to come back from the other
 * side. With @may_switch a wish to switch cuts the round short: what was not
 * sent stays in `todo`.
 */
static int run_round(struct godwit_source *source, bool may_switch, struct gw_err *err)
{
	struct gw_round round = {
		.todo = &source->todo,
		.backed = backed_units(source),
		.number = ++source->round,
	};
	uint64_t began = gw_now(), sent = data_bytes(source);
	struct pulse pulse = {0};
	int r;

	gw_sender_round(source->sender, &round);
	do {
		r = gw_engine_wait(&source->engine, round_deadline(source), err);
		if (r >= 0 && check_pulse(source, &pulse, err))
			r = -ETIMEDOUT;
		if (r < 0)
			return r;
		publish_speed(source, began, sent);
		publish_rest(source);
		if (may_switch && wants_switch(source))
			gw_sender_cut(source->sender);
	} while (r);
	r = check_round_done(source, err);
	if (!r && gw_sender_wait(source->sender))
		r = gw_err_set(err, -EPROTO,
			       "the destination ended a round that was not");
	return r;
}

/*
 * The bandwidth limit in bytes of guest memory. It counts what goes over the
 * wire, so compressed it lets more through.
 */
static uint64_t allowed_rate(struct godwit_source *source)
{
	struct gw_page_counters *counters = &source->engine.counters;
	uint64_t data = data_bytes(source);
	uint64_t lz4 = __atomic_load_n(&counters->lz4_units, __ATOMIC_RELAXED);
	uint64_t wire = __atomic_load_n(&counters->lz4_bytes, __ATOMIC_RELAXED);
	uint64_t rate = gw_limiter_rate(&source->limiter);

	if (!lz4)
		return rate;
	wire += data - (lz4 << GW_UNIT_SHIFT);
	return (uint64_t)((double)rate * (double)data / (double)GW_MAX(wire, 1ULL));
}

static struct gw_converge_limits limits_of(struct godwit_source *source)
{
	const struct godwit_options *options = &source->engine.options;
	bool hybrid = options->mode == GW_MODE_HYBRID;

	return (struct gw_converge_limits){
		.max_downtime_ns =
			__atomic_load_n(&source->max_downtime_ns, __ATOMIC_RELAXED),
		.max_rounds = options->max_rounds ? options->max_rounds
			      : hybrid		  ? ROUNDS_HYBRID
						  : ROUNDS_PRECOPY,
		.bandwidth = allowed_rate(source),
		.may_postcopy = hybrid,
	};
}

static int give_up(struct godwit_source *source, struct gw_err *err)
{
	const struct gw_converge *converge = &source->converge;
	double mib = 1 << 20;

	return gw_err_set(err, -ETIME,
			  "pre-copy is not converging: after %u rounds the guest still "
			  "dirties %.0f MiB/s and the link moves %.0f MiB/s; use --mode "
			  "hybrid, or raise --max-downtime or --bandwidth",
			  converge->rounds, (double)converge->dirty_rate / mib,
			  (double)converge->throughput / mib);
}

/* One round and what it showed. */
static int precopy_round(struct godwit_source *source, struct gw_err *err,
			 enum gw_verdict *ret)
{
	struct gw_converge_limits limits = limits_of(source);
	uint64_t began = gw_now(), sent = data_bytes(source);
	struct gw_converge_round round;
	int r = run_round(source, true, err);

	if (r)
		return r;
	round.duration_ns = gw_now() - began;
	round.sent_bytes = data_bytes(source) - sent;
	r = collect(source, &source->todo, err);
	if (r)
		return r;
	round.dirty_bytes = gw_bitmap_count(&source->todo) << GW_UNIT_SHIFT;
	*ret = gw_converge_next(&source->converge, &limits, &round);
	if (wants_switch(source) && *ret != GW_VERDICT_STOP)
		*ret = GW_VERDICT_POSTCOPY;
	GW_STATS(&source->engine, {
		stats->round = (uint32_t)source->round + (*ret == GW_VERDICT_GO_ON);
		stats->throughput = source->converge.throughput;
		stats->dirty_rate = source->converge.dirty_rate;
		stats->remaining_bytes = round.dirty_bytes;
	});
	gw_info(log_of(source),
		"round %llu: %.1f MiB in %.1f ms, then %.1f MiB dirty (%.1f MiB/s)",
		(unsigned long long)source->round, (double)round.sent_bytes / (1 << 20),
		(double)round.duration_ns / 1e6, (double)round.dirty_bytes / (1 << 20),
		(double)source->converge.dirty_rate / (1 << 20));
	return 0;
}

static int precopy(struct godwit_source *source, struct gw_err *err, enum gw_verdict *ret)
{
	int r;

	gw_engine_set_state(&source->engine, GODWIT_STATE_PRECOPY);
	source->precopy_since = gw_now();
	GW_STATS(&source->engine, stats->round = 1);
	/* Arms the tracker. What it reports is in the full first round anyway. */
	r = collect(source, &source->todo, err);
	gw_memory_set_all(&source->engine.memory, &source->todo);
	*ret = GW_VERDICT_GO_ON;
	while (!r && *ret == GW_VERDICT_GO_ON)
		r = precopy_round(source, err, ret);
	if (!r && *ret == GW_VERDICT_GIVE_UP)
		r = give_up(source, err);
	return r;
}

/* ---- stop, device state, commit ---- */

static int stop_guest(struct godwit_source *source, struct gw_err *err)
{
	const struct godwit_guest_ops *ops = ops_of(source);
	int r;

	source->stop_began = gw_now();
	source->stopped = true;
	r = ops->stop ? ops->stop(source->engine.guest->opaque, err) : 0;
	if (r)
		return gw_err_prefix(err, "stopping the guest");
	GW_STATS(&source->engine, {
		stats->stop_ns = gw_now() - source->stop_began;
		stats->stopped_at_ns = gw_realtime();
	});
	return 0;
}

static int save_state(struct godwit_source *source, struct gw_err *err)
{
	const struct godwit_guest_ops *ops = ops_of(source);
	uint64_t began = gw_now();
	int r;

	source->state_fd = memfd_create("godwit device state", MFD_CLOEXEC);
	if (source->state_fd < 0)
		return gw_err_errno(err, -errno, "memfd for the device state");
	r = ops->save ? ops->save(source->engine.guest->opaque, source->state_fd, err)
		      : 0;
	if (r)
		return gw_err_prefix(err, "saving the device state");
	GW_STATS(&source->engine, stats->save_ns = gw_now() - began);
	return 0;
}

static int send_state_pieces(struct godwit_source *source, struct gw_state_end *end,
			     XXH3_state_t *hash, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	ssize_t n;
	int r;

	while ((n = pread(source->state_fd, engine->out, sizeof(engine->out),
			  (off_t)end->length)) > 0) {
		r = gw_engine_send(engine, GW_MSG_STATE, engine->out, (size_t)n, err);
		if (r)
			return r;
		XXH3_64bits_update(hash, engine->out, (size_t)n);
		end->length += (uint64_t)n;
	}
	return n < 0 ? gw_err_errno(err, -errno, "reading the device state") : 0;
}

static int send_state(struct godwit_source *source, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	struct gw_state_end end = {0};
	XXH3_state_t *hash = XXH3_createState();
	uint64_t began = gw_now();
	int r;

	if (!hash)
		return gw_err_set(err, -ENOMEM, "out of memory");
	XXH3_64bits_reset(hash);
	r = send_state_pieces(source, &end, hash, err);
	end.hash = XXH3_64bits_digest(hash);
	XXH3_freeState(hash);
	if (!r)
		r = gw_engine_send(engine, GW_MSG_STATE_END, engine->out,
				   gw_state_end_encode(&end, engine->out), err);
	if (!r)
		r = gw_engine_expect(engine, GW_MSG_LOADED, answer_deadline(source), err);
	GW_STATS(engine, {
		stats->state_bytes = end.length;
		stats->load_ns = gw_now() - began;
	});
	return r;
}

static int await_running(struct godwit_source *source, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	uint64_t deadline = gw_now() + COMMIT_TIMEOUT, running_at = 0;
	int r;

	do
		r = gw_engine_wait(engine, deadline, err);
	while (r == GW_ENGINE_WOKEN);
	if (r == GW_ENGINE_TIMEOUT)
		return gw_err_set(err, -ETIMEDOUT, "no answer from the destination");
	if (!r && engine->message.type != GW_MSG_RUNNING)
		return gw_err_set(err, -EPROTO, "the destination sent %s after COMMIT",
				  gw_message_name(engine->message.type));
	if (!r)
		r = gw_engine_number(engine, &running_at, err);
	GW_STATS(engine, stats->running_at_ns = running_at);
	return r;
}

/* Only somebody else can have set it running; that would be a second runner. */
static int check_stopped(struct godwit_source *source, struct gw_err *err)
{
	const struct godwit_guest_ops *ops = ops_of(source);

	return ops->check_stopped ? ops->check_stopped(source->engine.guest->opaque, err)
				  : 0;
}

/* Whatever it finds, the guest is the destination's, so the migration goes on. */
static void check_handed_over(struct godwit_source *source)
{
	const struct godwit_guest_ops *ops = ops_of(source);
	struct gw_err why = {0}, more = {0};

	if (!check_stopped(source, &why))
		return;
	if (ops->stop && ops->stop(source->engine.guest->opaque, &more))
		gw_warn(log_of(source),
			"the guest may run on both hosts: %.200s; stopping it here: %.200s",
			why.text, more.text);
	else
		gw_warn(log_of(source),
			"%s, though it had been handed over; it has been stopped again: end "
			"it",
			why.text);
}

/*
 * The point of no return. The right to run is given up before the first byte of
 * COMMIT leaves; only RUNNING, from the other side, tells how it ended.
 */
static int commit(struct godwit_source *source, enum godwit_state next,
		  struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	uint64_t began = gw_now();
	int r = check_stopped(source, err);

	if (!r)
		r = gw_engine_close_cancel(engine, err);
	if (r)
		return r;
	gw_engine_set_state(engine, GODWIT_STATE_UNDECIDED);
	/* Our own mapping holds the memory; its VMM may go without taking pages along. */
	gw_engine_ignore_process(engine);
	r = gw_engine_send(engine, GW_MSG_COMMIT, NULL, 0, err);
	if (!r)
		r = await_running(source, err);
	if (r)
		return r;
	GW_STATS(engine, {
		stats->commit_ns = gw_now() - began;
		stats->blackout_ns = gw_now() - source->stop_began;
	});
	gw_engine_set_state(engine, next);
	return 0;
}

static int finish_by_stopping(struct godwit_source *source, struct gw_err *err)
{
	uint64_t began;
	int r;

	gw_engine_set_state(&source->engine, GODWIT_STATE_STOPCOPY);
	r = stop_guest(source, err);
	/* Saving may still write guest memory, so the last scan comes after it. */
	if (!r)
		r = save_state(source, err);
	began = gw_now();
	if (!r)
		r = collect(source, &source->todo, err);
	if (!r)
		r = run_round(source, false, err);
	GW_STATS(&source->engine, stats->last_pages_ns = gw_now() - began);
	if (!r)
		r = send_state(source, err);
	if (!r)
		r = commit(source, GODWIT_STATE_DONE, err);
	if (!r)
		check_handed_over(source);
	return r;
}

/* ---- post-copy ---- */

static int flush_runs(struct godwit_source *source, const struct gw_runs_writer *runs,
		      struct gw_err *err)
{
	return gw_engine_send(&source->engine, GW_MSG_MISSING, runs->buf, runs->used,
			      err);
}

static int name_region(struct godwit_source *source, unsigned int index,
		       const struct gw_bitmap *map, struct gw_err *err)
{
	const struct gw_memory_region *region = &source->engine.memory.regions[index];
	uint64_t base = region->first_unit, end = base + region->units;
	struct gw_runs_writer runs;
	int r;

	if (gw_bitmap_next_set(map, base, end) == end)
		return 0;
	gw_runs_begin(&runs, source->engine.out, (uint16_t)index);
	gw_bitmap_for_each_run(map, base, end, first, last) {
		if (gw_runs_add(&runs, first - base, last - first))
			continue;
		r = flush_runs(source, &runs, err);
		if (r)
			return r;
		gw_runs_begin(&runs, source->engine.out, (uint16_t)index);
		gw_runs_add(&runs, first - base, last - first);
	}
	return flush_runs(source, &runs, err);
}

/* Names the units of @map and waits until the destination serves faults on them. */
static int name_missing(struct godwit_source *source, const struct gw_bitmap *map,
			struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	const struct gw_bitmap *backed = backed_units(source);
	struct gw_missing_end end = {.units = gw_bitmap_count(map)};
	int r = 0;

	/* Of all that has been named so far: the destination looks for room for it. */
	for (uint64_t i = 0; i < engine->memory.units / 64; i++)
		end.data += (uint64_t)__builtin_popcountll(
			(source->todo.words[i] | map->words[i]) & backed->words[i]);
	for (unsigned int i = 0; i < engine->memory.n_regions && !r; i++)
		r = name_region(source, i, map, err);
	if (!r)
		r = gw_engine_send(engine, GW_MSG_MISSING_END, engine->out,
				   gw_missing_end_encode(&end, engine->out), err);
	return r ? r
		 : gw_engine_expect(engine, GW_MSG_ARMED, answer_deadline(source), err);
}

/*
 * With a tracker the bulk of the dirty set is named while the guest still runs;
 * what it writes meanwhile is named after the stop. Without one everything is
 * missing, and nothing has to be looked for.
 */
static int name_late(struct godwit_source *source, struct gw_err *err)
{
	const struct gw_memory *memory = &source->engine.memory;
	uint64_t began = gw_now();
	int r = 0;

	if (source->track) {
		r = collect(source, &source->late, err);
		/* Named already: once is enough. */
		for (uint64_t i = 0; i < memory->units / 64; i++)
			source->late.words[i] &= ~source->todo.words[i];
		if (!r)
			r = name_missing(source, &source->late, err);
		for (uint64_t i = 0; i < memory->units / 64; i++)
			source->todo.words[i] |= source->late.words[i];
	}
	GW_STATS(&source->engine, {
		stats->last_pages_ns = gw_now() - began;
		stats->postcopy_bytes = gw_bitmap_count(&source->todo) << GW_UNIT_SHIFT;
	});
	return r;
}

static int take_progress(struct godwit_source *source, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	struct gw_progress progress;

	if (engine->message.type != GW_MSG_PROGRESS &&
	    engine->message.type != GW_MSG_COMPLETE)
		return gw_err_set(err, -EPROTO, "the destination sent %s in post-copy",
				  gw_message_name(engine->message.type));
	if (gw_progress_decode(engine->message.payload, engine->message.length,
			       &progress))
		return gw_err_set(err, -EPROTO, "malformed %s from the destination",
				  gw_message_name(engine->message.type));
	gw_engine_publish_progress(engine, &progress);
	return 0;
}

/* Pushes what is left; page requests are answered meanwhile by the urgent lane. */
static int push(struct godwit_source *source, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	uint64_t began = gw_now(), sent = data_bytes(source);
	struct gw_round round;
	int r;

	if (!source->track)
		gw_memory_find_backed(&engine->memory, &source->backed);
	round = (struct gw_round){
		.todo = &source->todo,
		.backed = backed_units(source),
		.number = ++source->round,
		.hot = &source->hot,
	};
	gw_sender_round(source->sender, &round);
	check_handed_over(source);
	do {
		r = gw_engine_wait(engine, gw_now() + GW_NSEC / 4, err);
		if (r < 0)
			return r;
		publish_speed(source, began, sent);
		if (!r)
			r = take_progress(source, err);
		if (r < 0)
			return r;
	} while (r || engine->message.type != GW_MSG_COMPLETE);
	if (gw_sender_wait(source->sender))
		return gw_err_set(err, -EPROTO,
				  "the destination was complete before all was sent");
	return 0;
}

static int finish_by_postcopy(struct godwit_source *source, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	int r;

	gw_engine_set_state(engine, GODWIT_STATE_SWITCHOVER);
	/* About right is enough here: the guest runs. push() looks again. */
	if (!source->track)
		gw_memory_find_backed(&engine->memory, &source->backed);
	r = name_missing(source, &source->todo, err);
	if (!r)
		r = stop_guest(source, err);
	if (!r)
		r = save_state(source, err);
	if (!r)
		r = name_late(source, err);
	if (!r)
		r = send_state(source, err);
	if (!r)
		r = commit(source, GODWIT_STATE_POSTCOPY, err);
	if (!r)
		r = push(source, err);
	if (!r)
		gw_engine_set_state(engine, GODWIT_STATE_DONE);
	return r;
}

static int migrate(struct godwit_source *source, struct gw_err *err)
{
	enum gw_verdict verdict = GW_VERDICT_STOP;
	int r = 0;

	switch (source->engine.options.mode) {
	case GW_MODE_OFFLINE:
		gw_memory_set_all(&source->engine.memory, &source->todo);
		break;
	case GW_MODE_POSTCOPY:
		gw_memory_set_all(&source->engine.memory, &source->todo);
		verdict = GW_VERDICT_POSTCOPY;
		break;
	default:
		r = precopy(source, err, &verdict);
	}
	if (r)
		return r;
	return verdict == GW_VERDICT_STOP ? finish_by_stopping(source, err)
					  : finish_by_postcopy(source, err);
}

/* ---- the end ---- */

static void stop_threads(struct godwit_source *source)
{
	gw_limiter_stop(&source->limiter);
	if (gw_engine_state(&source->engine) != GODWIT_STATE_DONE)
		gw_engine_shutdown_channels(&source->engine);
	else if (source->engine.urgent)
		gw_chan_shutdown(source->engine.urgent);
	source->sender = gw_sender_free(source->sender);
	source->urgent = gw_urgent_free(source->urgent);
}

static int run_on(struct godwit_source *source, struct gw_err *err)
{
	const struct godwit_guest_ops *ops = ops_of(source);
	struct gw_err why = {0};
	struct gw_err cause = *err;

	if (!source->stopped || !ops->resume)
		return err->code;
	if (!ops->resume(source->engine.guest->opaque, &why))
		return err->code;
	GW_STATS(&source->engine, stats->resume_failed = 1);
	gw_err_set(err, cause.code,
		   "%.200s; and the guest, still whole, could not be set running "
		   "again: %.200s",
		   cause.text, why.text);
	return err->code;
}

/* The guest is ours still: tell the peer, lift the tracking, run on. */
static int undo_before_commit(struct godwit_source *source, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;
	int code;

	gw_engine_explain_loss(engine, err);
	gw_engine_send_abort(engine, err);
	stop_threads(source);
	source->track = gw_track_free(source->track);
	code = run_on(source, err);
	if (ops_of(source)->abandon)
		ops_of(source)->abandon(engine->guest->opaque);
	gw_engine_set_state(engine, code == -ECANCELED ? GODWIT_STATE_CANCELLED
						       : GODWIT_STATE_FAILED);
	return code;
}

static int end_undecided(struct godwit_source *source, struct gw_err *err)
{
	struct gw_err cause;

	gw_engine_explain_loss(&source->engine, err);
	cause = *err;
	stop_threads(source);
	source->track = gw_track_free(source->track);
	return gw_err_set(
		err, -EUNATCH,
		"COMMIT was sent, but whether the destination runs the guest is "
		"not known (%.200s); do not start it here before you know that it "
		"does not run there",
		cause.text);
}

static int end_paused(struct godwit_source *source, struct gw_err *err)
{
	gw_engine_explain_loss(&source->engine, err);
	gw_engine_set_state(&source->engine, GODWIT_STATE_PAUSED);
	stop_threads(source);
	source->track = gw_track_free(source->track);
	return gw_err_prefix(err, "post-copy is paused; this host holds the only copy of "
				  "missing pages: keep its VMM");
}

static int finish(struct godwit_source *source, int r, struct gw_err *err)
{
	struct gw_engine *engine = &source->engine;

	if (!r) {
		stop_threads(source);
		source->track = gw_track_free(source->track);
		return 0;
	}
	switch (gw_engine_state(engine)) {
	case GODWIT_STATE_UNDECIDED:
		return end_undecided(source, err);
	case GODWIT_STATE_POSTCOPY:
		return end_paused(source, err);
	default:
		return undo_before_commit(source, err);
	}
}

int godwit_source_run(godwit_source *source, const char *address, godwit_error *err)
{
	struct gw_err own = {0};
	int r;

	if (!err)
		err = &own;
	r = prepare(source, address, err);
	if (!r)
		r = migrate(source, err);
	r = finish(source, r, err);
	gw_session_forget(&source->engine.session);
	gw_engine_free_channels(&source->engine);
	return r;
}

void gw_source_use_dialer(godwit_source *source, struct gw_dialer *dialer)
{
	source->dialer = dialer;
}

/* ---- from other threads ---- */

int godwit_source_cancel(godwit_source *source)
{
	return gw_engine_cancel(&source->engine);
}

int godwit_source_switch(godwit_source *source)
{
	if (!gw_mode_may_postcopy(source->engine.options.mode))
		return -EINVAL;
	if (source->engine.options.mode == GW_MODE_POSTCOPY ||
	    gw_engine_state(&source->engine) > GODWIT_STATE_PRECOPY)
		return -EBUSY;
	__atomic_store_n(&source->switch_now, true, __ATOMIC_RELEASE);
	gw_event_set(&source->engine.wake);
	return 0;
}

int godwit_source_set(godwit_source *source, const char *name, const char *value,
		      godwit_error *err)
{
	struct godwit_options changed;
	int r;

	gw_options_init(&changed);
	if (strcmp(name, "max-downtime") && strcmp(name, "bandwidth"))
		return gw_err_set(err, -ENOENT,
				  "'%s' cannot be changed during a migration: "
				  "max-downtime and bandwidth can",
				  name);
	r = godwit_options_set(&changed, name, value, err);
	if (r)
		return r;
	if (!strcmp(name, "bandwidth")) {
		gw_limiter_set_rate(&source->limiter, changed.bandwidth);
		return 0;
	}
	__atomic_store_n(&source->max_downtime_ns, changed.max_downtime_ns,
			 __ATOMIC_RELAXED);
	GW_STATS(&source->engine, stats->downtime_limit_ns = changed.max_downtime_ns);
	return 0;
}

void godwit_source_stats(godwit_source *source, struct godwit_stats *ret, size_t size)
{
	struct godwit_stats now;

	gw_engine_stats(&source->engine, &now);
	now.bandwidth = gw_limiter_rate(&source->limiter);
	gw_stats_copy(&now, ret, size);
}

size_t godwit_source_histogram(godwit_source *source, enum godwit_histogram which,
			       struct godwit_bucket *ret, size_t max)
{
	return gw_engine_histogram(&source->engine, which, ret, max);
}
