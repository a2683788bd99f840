/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Both state machines against each other in one process, over an in-memory
 * network that can be cut at any byte: real userfaultfd, real page tables, a
 * guest that is a thread. Whatever is cut, never do two guests run, a source
 * that was not committed runs on, and what is complete is identical.
 */
#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "godwit/godwit.h"
#include "migrate/inject.h"
#include "transport/net.h"

#define MEMORY_BYTES (6UL << 20)
#define TAIL_BYTES   (12UL << 12) /* a second region that ends within an extent */
#define NEVER	     UINT64_MAX

/* Which channel is cut, after how many bytes that its end has sent. */
struct cut {
	int dial;     /* 0: control, 1…: bulk, the last: urgent; -1: none */
	bool at_dest; /* count what the destination's end sends */
	uint64_t after;
};

/* A guest: two regions, a thread that writes (source) or reads (destination). */
struct guest {
	struct rig *rig;
	int fds[2];
	uint8_t *memory[2];
	godwit_guest *handle;
	pthread_t thread;
	bool has_thread;
	atomic_bool run;
};

struct rig {
	struct guest source, dest;
	uint8_t *golden[2]; /* the source's memory as it was when it stopped */
	const char *mode;
	const char *channels;
	bool lz4;
	const char *fail_in;   /* name of the callback that fails; NULL: none */
	const char *cancel_in; /* name of the callback that cancels the source */
	int fail_after;	       /* so many calls succeed first */
	bool fail_resume;
	atomic_uint stops;
	struct cut cut;
	int accepted;
	atomic_int runners; /* guests that run: never more than one */
	atomic_bool two_runners;
	atomic_uint wrong_pages;
	bool load_misread;
	godwit_source *sender;
	godwit_dest *receiver;
	int source_result, dest_result;
	char source_text[512], dest_text[512];
	struct gw_dialer dialer;
	struct gw_listener listener;
	struct gw_dialer *mem_dialer;
	struct gw_listener *mem_listener;
	int dialled;
};

static const uint64_t sizes[2] = {MEMORY_BYTES, TAIL_BYTES};

/* ---- the guest's threads ---- */

static void *write_on(void *opaque)
{
	struct guest *guest = opaque;
	unsigned int seed = 7;

	while (atomic_load(&guest->run)) {
		uint64_t page = (uint64_t)rand_r(&seed) % (MEMORY_BYTES >> 12);

		((uint64_t *)(guest->memory[0] + (page << 12)))[seed % 512] = seed;
		if (seed % 64 == 0)
			memset(guest->memory[0] + (page << 12), 0, 4096);
		if (seed % 16 == 0)
			guest->memory[1][seed % TAIL_BYTES] = (uint8_t)seed;
	}
	return NULL;
}

static void *read_all(void *opaque)
{
	struct guest *guest = opaque;
	struct rig *rig = guest->rig;
	uint64_t pages = MEMORY_BYTES >> 12;

	/* A stride that is coprime to the number of pages visits each, in disorder. */
	for (uint64_t i = 0; i < pages && atomic_load(&guest->run); i++) {
		uint64_t at = (i * 769 % pages) << 12;

		if (memcmp(guest->memory[0] + at, rig->golden[0] + at, 4096))
			atomic_fetch_add(&rig->wrong_pages, 1);
	}
	return NULL;
}

static void start_running(struct guest *guest, void *(*main)(void *))
{
	if (atomic_fetch_add(&guest->rig->runners, 1))
		atomic_store(&guest->rig->two_runners, true);
	atomic_store(&guest->run, true);
	pthread_create(&guest->thread, NULL, main, guest);
	guest->has_thread = true;
}

static void stop_running(struct guest *guest)
{
	if (!atomic_exchange(&guest->run, false))
		return;
	pthread_join(guest->thread, NULL);
	guest->has_thread = false;
	atomic_fetch_sub(&guest->rig->runners, 1);
}

/* ---- callbacks ---- */

static int fails(struct guest *guest, const char *name, godwit_error *err)
{
	const char *which = guest->rig->fail_in;
	const char *cancel = guest->rig->cancel_in;

	if (cancel && !strcmp(cancel, name))
		(void)godwit_source_cancel(guest->rig->sender);
	if (which && !strcmp(which, name) && guest->rig->fail_after-- > 0)
		return 0;
	return which && !strcmp(which, name)
		       ? godwit_error_set(err, -EIO, "%s was told to fail", name)
		       : 0;
}

static int on_stop(void *opaque, godwit_error *err)
{
	struct guest *guest = opaque;

	atomic_fetch_add(&guest->rig->stops, 1);
	if (fails(guest, "stop", err))
		return -EIO;
	stop_running(guest);
	return 0;
}

static int on_resume(void *opaque, godwit_error *err)
{
	struct guest *guest = opaque;

	if (guest->rig->fail_resume)
		return godwit_error_set(err, -EIO, "resume was told to fail");
	if (!atomic_load(&guest->run))
		start_running(guest, write_on);
	return 0;
}

static int on_save(void *opaque, int fd, godwit_error *err)
{
	struct guest *guest = opaque;

	/* A device model writes guest memory while its state is saved. */
	guest->memory[0][123] ^= 0x55;
	for (int i = 0; i < 2; i++)
		memcpy(guest->rig->golden[i], guest->memory[i], sizes[i]);
	if (fails(guest, "save", err))
		return -EIO;
	return write(fd, "state", 5) == 5 ? 0 : -EIO;
}

static int on_load(void *opaque, int fd, uint64_t size, godwit_error *err)
{
	struct guest *guest = opaque;
	char buf[5];

	/*
	 * Loading reads guest memory: missing pages must be served by now. Only a
	 * migration that has failed already may let the load go on with zeroes.
	 */
	guest->rig->load_misread = guest->memory[0][123] != guest->rig->golden[0][123];
	if (fails(guest, "load", err))
		return -EIO;
	if (size != 5 || read(fd, buf, 5) != 5 || memcmp(buf, "state", 5))
		return godwit_error_set(err, -EINVAL, "not that state");
	return 0;
}

static int on_run(void *opaque, godwit_error *err)
{
	struct guest *guest = opaque;

	if (fails(guest, "run", err))
		return -EIO;
	start_running(guest, read_all);
	return 0;
}

static int on_check_stopped(void *opaque, godwit_error *err)
{
	struct guest *guest = opaque;

	return fails(guest, "check_stopped", err);
}

static const struct godwit_guest_ops ops = {
	.check_stopped = on_check_stopped,
	.stop = on_stop,
	.resume = on_resume,
	.save = on_save,
	.load = on_load,
	.run = on_run,
};

/* ---- a network that cuts ---- */

static int cutting_dial(struct gw_dialer *dialer, int wake_fd, struct gw_err *err,
			struct gw_chan **ret)
{
	struct rig *rig = (struct rig *)((char *)dialer - offsetof(struct rig, dialer));
	int r = gw_dialer_dial(rig->mem_dialer, wake_fd, err, ret);

	if (!r && rig->dialled++ == rig->cut.dial && !rig->cut.at_dest)
		gw_mem_cut_after(*ret, rig->cut.after);
	return r;
}

static int cutting_accept(struct gw_listener *listener, struct gw_err *err,
			  struct gw_chan **ret)
{
	struct rig *rig =
		(struct rig *)((char *)listener - offsetof(struct rig, listener));
	int r = rig->mem_listener->ops->accept(rig->mem_listener, err, ret);

	if (!r && rig->accepted++ == rig->cut.dial && rig->cut.at_dest)
		gw_mem_cut_after(*ret, rig->cut.after);
	return r;
}

static void leave_dialer(struct gw_dialer *dialer)
{
}

static void leave_listener(struct gw_listener *listener)
{
}

static const struct gw_dialer_ops dialer_ops = {cutting_dial, leave_dialer};
static const struct gw_listener_ops listener_ops = {cutting_accept, leave_listener};

/* ---- the rig ---- */

static void make_guest(struct rig *rig, struct guest *guest)
{
	struct godwit_region regions[2] = {0};
	struct godwit_guest_desc desc = {
		.regions = regions,
		.n_regions = 2,
		.ops = &ops,
		.opaque = guest,
	};

	guest->rig = rig;
	for (int i = 0; i < 2; i++) {
		guest->fds[i] = memfd_create("test", MFD_CLOEXEC);
		cr_assert(!ftruncate(guest->fds[i], (off_t)sizes[i]));
		guest->memory[i] = mmap(NULL, sizes[i], PROT_READ | PROT_WRITE,
					MAP_SHARED, guest->fds[i], 0);
		cr_assert(guest->memory[i] != MAP_FAILED);
		regions[i] = (struct godwit_region){
			.name = i ? "tail" : "main",
			.fd = guest->fds[i],
			.size = sizes[i],
			.address = (uint64_t)guest->memory[i],
		};
	}
	cr_assert_eq(godwit_guest_new(&desc, NULL, &guest->handle), 0);
}

/* Random, text-like, zero and never-touched parts at the source; dirt at the other. */
static void fill(struct rig *rig)
{
	uint8_t *memory = rig->source.memory[0];
	unsigned int seed = 1;

	for (uint64_t i = 0; i < MEMORY_BYTES / 4; i += 4)
		*(uint32_t *)(memory + i) = (uint32_t)rand_r(&seed);
	memset(memory + MEMORY_BYTES / 4, 'x', MEMORY_BYTES / 4);
	memset(memory + MEMORY_BYTES / 2, 0, MEMORY_BYTES / 8);
	memset(rig->source.memory[1], 'y', TAIL_BYTES);
	memset(rig->dest.memory[0] + MEMORY_BYTES / 2, 'z', MEMORY_BYTES / 2);
}

static void rig_init(struct rig *rig)
{
	make_guest(rig, &rig->source);
	make_guest(rig, &rig->dest);
	for (int i = 0; i < 2; i++)
		rig->golden[i] = malloc(sizes[i]);
	fill(rig);
	cr_assert_eq(gw_mem_net(256 << 10, &rig->mem_dialer, &rig->mem_listener), 0);
	rig->dialer.ops = &dialer_ops;
	rig->listener.ops = &listener_ops;
	rig->listener.poll_fd = rig->mem_listener->poll_fd;
	snprintf(rig->listener.address, sizeof(rig->listener.address), "memory");
}

static void guest_deinit(struct guest *guest)
{
	godwit_guest_free(guest->handle);
	for (int i = 0; i < 2; i++) {
		munmap(guest->memory[i], sizes[i]);
		close(guest->fds[i]);
	}
}

static void rig_deinit(struct rig *rig)
{
	godwit_source_free(rig->sender);
	godwit_dest_free(rig->receiver);
	guest_deinit(&rig->source);
	guest_deinit(&rig->dest);
	gw_dialer_free(rig->mem_dialer);
	gw_listener_free(rig->mem_listener);
	for (int i = 0; i < 2; i++)
		free(rig->golden[i]);
	free(rig);
}

/* Rigs whose memory a thread may still wait for: kept, and found by leak checkers. */
static struct rig *kept[512];
static unsigned int n_kept;

static void *source_main(void *opaque)
{
	struct rig *rig = opaque;
	godwit_error *err = godwit_error_new();

	rig->source_result = godwit_source_run(rig->sender, "", err);
	snprintf(rig->source_text, sizeof(rig->source_text), "%s",
		 godwit_error_text(err));
	godwit_error_free(err);
	return NULL;
}

static void *dest_main(void *opaque)
{
	struct rig *rig = opaque;
	godwit_error *err = godwit_error_new();

	rig->dest_result = godwit_dest_run(rig->receiver, err);
	snprintf(rig->dest_text, sizeof(rig->dest_text), "%s", godwit_error_text(err));
	godwit_error_free(err);
	return NULL;
}

static void make_sides(struct rig *rig)
{
	godwit_options *options = godwit_options_new();

	cr_assert_eq(godwit_options_set(options, "mode", rig->mode, NULL), 0);
	cr_assert_eq(godwit_options_set(options, "channels", rig->channels, NULL), 0);
	cr_assert_eq(godwit_options_set(options, "max-rounds", "3", NULL), 0);
	cr_assert_eq(godwit_options_set(options, "connect-timeout", "200ms", NULL), 0);
	/* A source that is cut before it has connected leaves nobody waiting. */
	cr_assert_eq(godwit_options_set(options, "timeout", "200ms", NULL), 0);
	/* The writer never rests: a limit that any rest meets lets pre-copy end. */
	cr_assert_eq(godwit_options_set(options, "max-downtime",
					strcmp(rig->mode, "hybrid") ? "10s" : "0", NULL),
		     0);
	cr_assert_eq(
		godwit_options_set(options, "compress", rig->lz4 ? "lz4" : "none", NULL),
		0);
	cr_assert_eq(godwit_source_new(rig->source.handle, options, NULL, &rig->sender),
		     0);
	cr_assert_eq(godwit_dest_new(rig->dest.handle, options, NULL, &rig->receiver), 0);
	gw_source_use_dialer(rig->sender, &rig->dialer);
	gw_dest_use_listener(rig->receiver, &rig->listener);
	godwit_options_free(options);
}

static void migrate(struct rig *rig, uint64_t cancel_after_ns)
{
	pthread_t source, dest;

	make_sides(rig);
	start_running(&rig->source, write_on);
	pthread_create(&dest, NULL, dest_main, rig);
	pthread_create(&source, NULL, source_main, rig);
	if (cancel_after_ns != NEVER) {
		struct timespec ts = {.tv_nsec = (long)cancel_after_ns};

		nanosleep(&ts, NULL);
		(void)godwit_source_cancel(rig->sender);
	}
	pthread_join(source, NULL);
	pthread_join(dest, NULL);
}

static enum godwit_state source_state(struct rig *rig)
{
	struct godwit_stats stats;

	godwit_source_stats(rig->sender, &stats, sizeof(stats));
	return stats.state;
}

static enum godwit_state dest_state(struct rig *rig)
{
	struct godwit_stats stats;

	godwit_dest_stats(rig->receiver, &stats, sizeof(stats));
	return stats.state;
}

static void assert_identical(struct rig *rig, const char *what)
{
	for (int i = 0; i < 2; i++)
		for (uint64_t at = 0; at < sizes[i]; at += 4096)
			cr_assert(!memcmp(rig->dest.memory[i] + at, rig->golden[i] + at,
					  4096),
				  "%s: region %d, page %llu differs", what, i,
				  (unsigned long long)at >> 12);
}

/* design.md's invariants 1 to 3, whatever happened. */
static void assert_invariants(struct rig *rig, const char *what)
{
	enum godwit_state source = source_state(rig), dest = dest_state(rig);
	bool source_runs = atomic_load(&rig->source.run);
	bool dest_runs = atomic_load(&rig->dest.run);

	cr_assert(!atomic_load(&rig->two_runners), "%s: both guests ran", what);
	cr_assert_eq(atomic_load(&rig->wrong_pages), 0, "%s: wrong pages were read",
		     what);
	switch (source) {
	case GODWIT_STATE_FAILED:
	case GODWIT_STATE_CANCELLED:
		rig->load_misread = false;
		cr_assert(source_runs && !dest_runs, "%s: %s | %s", what,
			  rig->source_text, rig->dest_text);
		cr_assert(rig->source_text[0], "%s: no reason given", what);
		break;
	case GODWIT_STATE_UNDECIDED:
	case GODWIT_STATE_PAUSED:
		cr_assert(!source_runs, "%s: an undecided source runs", what);
		break;
	default:
		cr_assert_eq(source, GODWIT_STATE_DONE, "%s: source ended in %s", what,
			     godwit_state_name(source));
		cr_assert(dest_runs && !source_runs, "%s", what);
	}
	cr_assert(!rig->load_misread || dest == GODWIT_STATE_FAILED,
		  "%s: a device state was loaded over missing pages", what);
	if (dest == GODWIT_STATE_DONE)
		assert_identical(rig, what);
	else
		cr_assert(dest != GODWIT_STATE_PREPARE && dest != GODWIT_STATE_PRECOPY,
			  "%s: destination ended in %s", what, godwit_state_name(dest));
}

static void end_guests(struct rig *rig)
{
	stop_running(&rig->source);
	/* A reader of a paused post-copy waits in the kernel; the test's end ends it. */
	if (dest_state(rig) == GODWIT_STATE_DONE)
		stop_running(&rig->dest);
}

/* How often a destination did not know, in this test's process. */
static int dest_undecided;

static enum godwit_state run_cut(const char *mode, struct cut cut)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	enum godwit_state state;
	char what[128];

	snprintf(what, sizeof(what), "%s, channel %d cut after %llu bytes %s", mode,
		 cut.dial, (unsigned long long)cut.after,
		 cut.at_dest ? "from the destination" : "from the source");
	rig->mode = mode;
	rig->channels = "2";
	rig->cut = cut;
	rig_init(rig);
	migrate(rig, NEVER);
	assert_invariants(rig, what);
	state = source_state(rig);
	dest_undecided += dest_state(rig) == GODWIT_STATE_UNDECIDED;
	end_guests(rig);
	if (dest_state(rig) == GODWIT_STATE_PAUSED)
		kept[n_kept++ % GW_ARRAY_SIZE(kept)] = rig;
	else
		rig_deinit(rig);
	return state;
}

static void run_whole(const char *mode, const char *channels, bool lz4)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	struct godwit_stats stats;

	rig->mode = mode;
	rig->channels = channels;
	rig->lz4 = lz4;
	rig->cut.dial = -1;
	rig_init(rig);
	migrate(rig, NEVER);
	cr_assert_eq(rig->source_result, 0, "%s", rig->source_text);
	cr_assert_eq(rig->dest_result, 0, "%s", rig->dest_text);
	assert_invariants(rig, mode);
	godwit_source_stats(rig->sender, &stats, sizeof(stats));
	cr_assert_eq(stats.remaining_bytes, 0);
	end_guests(rig);
	rig_deinit(rig);
}

/* ---- tests ---- */

static const char *const modes[] = {"precopy", "postcopy", "hybrid", "offline"};

Test(engine, memory_is_identical_in_every_mode_with_1_2_and_7_channels, .timeout = 120)
{
	static const char *const channels[] = {"1", "2", "7"};

	for (size_t m = 0; m < GW_ARRAY_SIZE(modes); m++)
		for (size_t c = 0; c < GW_ARRAY_SIZE(channels); c++)
			run_whole(modes[m], channels[c], c == 1);
}

Test(engine, twenty_hybrid_migrations_with_lz4_lose_nothing, .timeout = 120)
{
	for (int i = 0; i < 20; i++)
		run_whole("hybrid", "3", true);
}

/* The handshake, the setup, names, device state and COMMIT: all of it in small steps. */
Test(engine, control_channel_cut_anywhere, .timeout = 240)
{
	for (size_t m = 0; m < GW_ARRAY_SIZE(modes); m++)
		for (uint64_t after = 0; after < 700; after += 23)
			run_cut(modes[m], (struct cut){.dial = 0, .after = after});
}

Test(engine, answers_on_the_control_channel_cut_anywhere, .timeout = 240)
{
	for (size_t m = 0; m < GW_ARRAY_SIZE(modes); m++)
		for (uint64_t after = 1; after < 560; after += 29)
			run_cut(modes[m],
				(struct cut){.dial = 0, .at_dest = true, .after = after});
}

Test(engine, bulk_channel_cut_anywhere, .timeout = 240)
{
	static const uint64_t places[] = {
		0,    79,    80,     112,     113,     200,	264,	 265,
		4096, 70000, 300000, 1000000, 1400000, 2000000, 2500000, 3000000};

	for (size_t m = 0; m < GW_ARRAY_SIZE(modes); m++)
		for (size_t p = 0; p < GW_ARRAY_SIZE(places); p++)
			for (int dial = 1; dial <= 2; dial++)
				run_cut(modes[m],
					(struct cut){.dial = dial, .after = places[p]});
}

Test(engine, urgent_channel_cut_anywhere, .timeout = 240)
{
	static const uint64_t places[] = {0,   80,   112,  113,	 264,
					  265, 4360, 4361, 9000, 40000};

	for (size_t p = 0; p < GW_ARRAY_SIZE(places); p++) {
		run_cut("postcopy", (struct cut){.dial = 3, .after = places[p]});
		run_cut("hybrid", (struct cut){.dial = 3, .after = places[p]});
		run_cut("postcopy", (struct cut){.dial = 3,
						 .at_dest = true,
						 .after = 200 + places[p] / 16});
	}
}

/*
 * COMMIT is a message of eight bytes, and the last one that the source sends on
 * the control channel: a cut inside it must leave nobody running.
 */
Test(engine, a_cut_within_commit_leaves_nobody_running, .timeout = 120)
{
	int undecided = 0;

	for (uint64_t after = 200; after < 420; after++)
		undecided +=
			run_cut("offline", (struct cut){.dial = 0, .after = after}) ==
			GODWIT_STATE_UNDECIDED;
	/* Bytes 1 to 8 of it; cut before the first, it failed without a doubt… to us. */
	cr_assert_geq(undecided, 8, "%d cuts were within COMMIT", undecided);
	/* One to seven of its eight bytes arrived. */
	cr_assert_geq(dest_undecided, 7, "%d destinations did not know", dest_undecided);
}

static void expect_failing_callback(const char *name, enum godwit_state source,
				    enum godwit_state dest)
{
	for (size_t m = 0; m < GW_ARRAY_SIZE(modes); m++) {
		struct rig *rig = calloc(1, sizeof(*rig));

		rig->mode = modes[m];
		rig->channels = "2";
		rig->cut.dial = -1;
		rig->fail_in = name;
		rig_init(rig);
		migrate(rig, NEVER);
		cr_assert_eq(source_state(rig), source, "%s, %s: %s", name, modes[m],
			     rig->source_text);
		cr_assert_eq(dest_state(rig), dest, "%s, %s: %s", name, modes[m],
			     rig->dest_text);
		cr_assert(strstr(rig->source_text, "was told to fail"), "%s",
			  rig->source_text);
		cr_assert(strstr(rig->dest_text, "was told to fail"), "%s",
			  rig->dest_text);
		cr_assert(!atomic_load(&rig->two_runners));
		end_guests(rig);
		rig_deinit(rig);
	}
}

Test(engine, a_guest_that_cannot_be_stopped_runs_on, .timeout = 60)
{
	expect_failing_callback("stop", GODWIT_STATE_FAILED, GODWIT_STATE_FAILED);
}

Test(engine, a_source_that_runs_right_before_commit_is_not_committed, .timeout = 60)
{
	expect_failing_callback("check_stopped", GODWIT_STATE_FAILED,
				GODWIT_STATE_FAILED);
}

/* Somebody set it running between COMMIT and now: it is stopped once more. */
Test(engine, a_source_that_runs_after_commit_is_stopped_again, .timeout = 60)
{
	for (size_t m = 0; m < GW_ARRAY_SIZE(modes); m++) {
		struct rig *rig = calloc(1, sizeof(*rig));

		rig->mode = modes[m];
		rig->channels = "2";
		rig->cut.dial = -1;
		rig->fail_in = "check_stopped";
		rig->fail_after = 1;
		rig_init(rig);
		migrate(rig, NEVER);
		cr_assert_eq(rig->source_result, 0, "%s", rig->source_text);
		cr_assert_eq(atomic_load(&rig->stops), 2, "%s", modes[m]);
		assert_invariants(rig, modes[m]);
		end_guests(rig);
		rig_deinit(rig);
	}
}

Test(engine, a_guest_that_cannot_be_resumed_is_told, .timeout = 60)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	struct godwit_stats stats;

	rig->mode = "offline";
	rig->channels = "1";
	rig->cut.dial = -1;
	rig->fail_in = "save";
	rig->fail_resume = true;
	rig_init(rig);
	migrate(rig, NEVER);
	godwit_source_stats(rig->sender, &stats, sizeof(stats));
	cr_assert_eq(stats.state, GODWIT_STATE_FAILED);
	cr_assert_eq(stats.resume_failed, 1);
	cr_assert(strstr(rig->source_text, "could not be set running"), "%s",
		  rig->source_text);
	rig_deinit(rig);
}

Test(engine, a_state_that_cannot_be_saved_leaves_the_source_running, .timeout = 60)
{
	expect_failing_callback("save", GODWIT_STATE_FAILED, GODWIT_STATE_FAILED);
}

Test(engine, a_state_that_cannot_be_loaded_leaves_the_source_running, .timeout = 60)
{
	expect_failing_callback("load", GODWIT_STATE_FAILED, GODWIT_STATE_FAILED);
}

Test(engine, a_guest_that_cannot_run_after_commit_is_undecided_on_both_sides,
     .timeout = 60)
{
	expect_failing_callback("run", GODWIT_STATE_UNDECIDED, GODWIT_STATE_UNDECIDED);
}

/* Each of these is called before COMMIT: there the cancel always comes in time. */
Test(engine, a_cancel_from_a_callback_leaves_the_source_running, .timeout = 60)
{
	static const char *const callbacks[] = {"stop", "save", "load"};

	for (size_t i = 0; i < GW_ARRAY_SIZE(modes) * GW_ARRAY_SIZE(callbacks); i++) {
		struct rig *rig = calloc(1, sizeof(*rig));

		rig->mode = modes[i % GW_ARRAY_SIZE(modes)];
		rig->cancel_in = callbacks[i / GW_ARRAY_SIZE(modes)];
		rig->channels = "2";
		rig->cut.dial = -1;
		rig_init(rig);
		migrate(rig, NEVER);
		assert_invariants(rig, rig->cancel_in);
		cr_assert_eq(source_state(rig), GODWIT_STATE_CANCELLED, "%s, %s: %s",
			     rig->cancel_in, rig->mode, rig->source_text);
		cr_assert(atomic_load(&rig->source.run));
		end_guests(rig);
		rig_deinit(rig);
	}
}

static uint64_t time_whole_migration(const char *mode)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	uint64_t started;

	rig->mode = mode;
	rig->channels = "2";
	rig->cut.dial = -1;
	rig_init(rig);
	started = gw_now();
	migrate(rig, NEVER);
	started = gw_now() - started;
	end_guests(rig);
	rig_deinit(rig);
	return started;
}

/*
 * The moments are spread over the time that a whole migration takes here, and a
 * little more. How many of them come before COMMIT is up to the machine.
 */
Test(engine, a_cancel_at_any_moment_leaves_one_runner, .timeout = 120)
{
	for (size_t m = 0; m < GW_ARRAY_SIZE(modes); m++) {
		uint64_t whole = time_whole_migration(modes[m]);

		for (uint64_t tenth = 0; tenth < 12; tenth++) {
			struct rig *rig = calloc(1, sizeof(*rig));

			rig->mode = modes[m];
			rig->channels = "2";
			rig->cut.dial = -1;
			rig_init(rig);
			migrate(rig, GW_MIN(whole * tenth / 10, 999999999));
			assert_invariants(rig, "cancel");
			cr_assert(atomic_load(&rig->source.run) !=
				  atomic_load(&rig->dest.run));
			end_guests(rig);
			rig_deinit(rig);
		}
	}
}
