/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A source that breaks the protocol after a good handshake, against a real
 * destination: whatever it says out of turn, the session ends with -EPROTO and
 * the guest is never run.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "base/util.h"
#include "godwit/godwit.h"
#include "migrate/inject.h"
#include "migrate/options.h"
#include "transport/chan.h"
#include "transport/handshake.h"
#include "wire/frame.h"
#include "wire/message.h"

#define SIZE	(2UL << 20)
#define UNITS	(SIZE >> GW_UNIT_SHIFT)
#define TIMEOUT (2 * GW_NSEC)

static int fd;
static bool ran;
static godwit_dest *dest;
static godwit_guest *guest;
static struct gw_dialer *dialer;
static struct gw_session session;
static struct gw_chan *control, *bulk, *urgent;
static pthread_t thread;
static int result;
static godwit_error *reason;

static int on_run(void *opaque, godwit_error *err)
{
	ran = true;
	return 0;
}

static const struct godwit_guest_ops ops = {.run = on_run};

static void *dest_main(void *opaque)
{
	result = godwit_dest_run(dest, reason);
	return NULL;
}

static void make_dest(void)
{
	struct godwit_region region = {.name = "ram", .size = SIZE};
	struct godwit_guest_desc desc = {.regions = &region, .n_regions = 1, .ops = &ops};
	godwit_options *options = godwit_options_new();
	struct gw_listener *listener;
	void *memory;

	fd = memfd_create("lying", MFD_CLOEXEC);
	cr_assert(!ftruncate(fd, (off_t)SIZE));
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	region.fd = fd;
	region.address = (uint64_t)memory;
	cr_assert_eq(godwit_guest_new(&desc, NULL, &guest), 0);
	cr_assert_eq(godwit_options_set(options, "connect-timeout", "1s", NULL), 0);
	cr_assert_eq(godwit_dest_new(guest, options, NULL, &dest), 0);
	cr_assert_eq(gw_mem_net(1 << 20, &dialer, &listener), 0);
	gw_dest_use_listener(dest, listener);
	godwit_options_free(options);
	reason = godwit_error_new();
	pthread_create(&thread, NULL, dest_main, NULL);
}

static struct gw_chan *open_channel(enum gw_chan_kind kind)
{
	struct gw_err err = {0};
	struct gw_chan *chan;

	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &chan), 0, "%s", err.text);
	cr_assert_eq(gw_handshake_open(chan, &session, kind, 0, GW_FEATURE_POSTCOPY,
				       TIMEOUT, &err),
		     0, "%s", err.text);
	return chan;
}

static void say(enum gw_message_type type, const void *payload, size_t length)
{
	struct gw_message_header header = {.type = (uint16_t)type,
					   .length = (uint32_t)length};
	uint8_t buf[GW_MESSAGE_HEADER_LEN];

	gw_message_header_encode(&header, buf);
	/* It may have hung up on us already: that is what we are after. */
	(void)gw_chan_send(control, buf, sizeof(buf));
	(void)gw_chan_send(control, payload, length);
}

/* Until @type comes; anything else is the destination's end. */
static void hear(enum gw_message_type type)
{
	uint8_t buf[GW_MESSAGE_HEADER_LEN], payload[GW_MESSAGE_MAX];
	struct gw_message_header header;

	cr_assert_eq(gw_chan_recv(control, buf, sizeof(buf)), 0);
	cr_assert_eq(gw_message_header_decode(buf, &header), 0);
	cr_assert_eq(gw_chan_recv(control, payload, header.length), 0);
	cr_assert_eq(header.type, type);
}

static void say_missing(uint64_t first, uint64_t count)
{
	static uint8_t payload[GW_MESSAGE_MAX];
	struct gw_runs_writer runs;

	gw_runs_begin(&runs, payload, 0);
	gw_runs_add(&runs, first, count);
	say(GW_MSG_MISSING, payload, runs.used);
}

static void say_missing_end(uint64_t units, uint64_t data)
{
	static uint8_t payload[GW_MESSAGE_MAX];
	struct gw_missing_end end = {.units = units, .data = data};

	say(GW_MSG_MISSING_END, payload, gw_missing_end_encode(&end, payload));
}

static void say_state_end(const char *state)
{
	static uint8_t payload[GW_MESSAGE_MAX];
	struct gw_state_end end = {
		.length = strlen(state),
		.hash = XXH3_64bits(state, strlen(state)),
	};

	say(GW_MSG_STATE_END, payload, gw_state_end_encode(&end, payload));
}

static void connect_as(enum gw_mode mode)
{
	static uint8_t payload[GW_MESSAGE_MAX];
	static struct gw_setup setup = {.channels = 1, .n_regions = 1};

	setup.mode = (uint8_t)mode;
	snprintf(setup.regions[0].name, sizeof(setup.regions[0].name), "ram");
	setup.regions[0].size = SIZE;
	setup.regions[0].page_size = 4096;
	make_dest();
	cr_assert_eq(gw_session_init(&session, NULL), 0);
	control = open_channel(GW_CHAN_CONTROL);
	say(GW_MSG_SETUP, payload, gw_setup_encode(&setup, payload));
	hear(GW_MSG_SETUP_OK);
	bulk = open_channel(GW_CHAN_BULK);
	urgent = mode == GW_MODE_HYBRID ? open_channel(GW_CHAN_URGENT) : NULL;
}

static void hang_up(void)
{
	urgent = gw_chan_free(urgent);
	bulk = gw_chan_free(bulk);
	control = gw_chan_free(control);
}

static enum godwit_state await_end(void)
{
	struct godwit_stats stats;

	pthread_join(thread, NULL);
	godwit_dest_stats(dest, &stats, sizeof(stats));
	return stats.state;
}

static void clean_up(void)
{
	hang_up();
	gw_dialer_free(dialer);
	godwit_dest_free(dest);
	godwit_guest_free(guest);
	godwit_error_free(reason);
	close(fd);
}

static void expect_end(int code)
{
	enum godwit_state state = await_end();

	cr_assert_eq(result, code, "%d: %s", result, godwit_error_text(reason));
	cr_assert_eq(state, GODWIT_STATE_FAILED);
	cr_assert(!ran);
	clean_up();
}

TestSuite(lying_source, .timeout = 20);

Test(lying_source, device_state_in_the_middle_of_naming)
{
	connect_as(GW_MODE_HYBRID);
	say_missing(0, 16);
	say_state_end("");
	expect_end(-EPROTO);
}

Test(lying_source, a_piece_of_device_state_in_the_middle_of_naming)
{
	connect_as(GW_MODE_HYBRID);
	say_missing(0, 16);
	say(GW_MSG_STATE, "state", 5);
	expect_end(-EPROTO);
}

Test(lying_source, naming_after_the_device_state)
{
	connect_as(GW_MODE_HYBRID);
	say_state_end("");
	hear(GW_MSG_LOADED);
	say_missing(0, 16);
	expect_end(-EPROTO);
}

Test(lying_source, an_end_of_naming_after_the_device_state)
{
	connect_as(GW_MODE_HYBRID);
	say_state_end("");
	hear(GW_MSG_LOADED);
	say_missing_end(0, 0);
	expect_end(-EPROTO);
}

Test(lying_source, a_count_of_missing_pages_that_is_wrong)
{
	connect_as(GW_MODE_HYBRID);
	say_missing(0, 16);
	say_missing_end(17, 0);
	expect_end(-EPROTO);
}

Test(lying_source, more_missing_data_than_missing_pages)
{
	connect_as(GW_MODE_HYBRID);
	say_missing(0, 16);
	say_missing_end(16, 17);
	expect_end(-EPROTO);
}

Test(lying_source, missing_pages_outside_the_region)
{
	connect_as(GW_MODE_HYBRID);
	say_missing(UNITS - 1, 2);
	expect_end(-EPROTO);
}

Test(lying_source, naming_in_a_mode_without_post_copy)
{
	connect_as(GW_MODE_PRECOPY);
	say_missing(0, 16);
	expect_end(-EPROTO);
}

Test(lying_source, commit_without_a_device_state)
{
	connect_as(GW_MODE_PRECOPY);
	say(GW_MSG_COMMIT, NULL, 0);
	expect_end(-EPROTO);
}

Test(lying_source, a_device_state_with_another_hash)
{
	connect_as(GW_MODE_PRECOPY);
	say(GW_MSG_STATE, "state", 5);
	say_state_end("stale");
	expect_end(-EBADMSG);
}

Test(lying_source, a_message_that_only_the_destination_sends)
{
	connect_as(GW_MODE_PRECOPY);
	say(GW_MSG_RUNNING, "12345678", 8);
	expect_end(-EPROTO);
}

static void say_frame(const struct gw_frame *frame, const void *payload, size_t length)
{
	uint8_t buf[GW_FRAME_LEN];

	gw_frame_encode(frame, buf);
	(void)gw_chan_send(bulk, buf, sizeof(buf));
	(void)gw_chan_send(bulk, payload, length);
}

Test(lying_source, a_barrier_of_another_round)
{
	struct gw_frame frame = {.type = GW_FRAME_BARRIER, .count = 2};

	connect_as(GW_MODE_PRECOPY);
	say_frame(&frame, NULL, 0);
	expect_end(-EPROTO);
}

Test(lying_source, zeroes_outside_the_region)
{
	struct gw_frame frame = {.type = GW_FRAME_ZERO, .unit = UNITS - 1, .count = 2};

	connect_as(GW_MODE_PRECOPY);
	say_frame(&frame, NULL, 0);
	expect_end(-EPROTO);
}

Test(lying_source, a_region_that_is_not_there)
{
	struct gw_frame frame = {.type = GW_FRAME_ZERO, .region = 1, .count = 1};

	connect_as(GW_MODE_PRECOPY);
	say_frame(&frame, NULL, 0);
	expect_end(-EPROTO);
}

Test(lying_source, compressed_pages_that_were_not_agreed_on)
{
	struct gw_frame frame = {
		.type = GW_FRAME_PAGES,
		.encoding = GW_ENCODING_LZ4,
		.payload = 8,
		.count = UNITS,
		.data = {1},
	};

	connect_as(GW_MODE_PRECOPY);
	say_frame(&frame, "12345678", 8);
	expect_end(-EPROTO);
}

/* ---- a source that hangs up ---- */

Test(lying_source, a_link_lost_after_loaded_leaves_it_undecided)
{
	connect_as(GW_MODE_PRECOPY);
	say_state_end("");
	hear(GW_MSG_LOADED);
	cr_assert_eq(godwit_dest_cancel(dest), -EBUSY);
	hang_up();
	cr_assert_eq(await_end(), GODWIT_STATE_UNDECIDED);
	cr_assert_eq(result, -EUNATCH, "%s", godwit_error_text(reason));
	cr_assert(!ran);
	clean_up();
}

Test(lying_source, a_commit_that_arrived_counts_though_the_link_is_lost)
{
	for (int i = 0; i < 50; i++) {
		ran = false;
		connect_as(GW_MODE_PRECOPY);
		say_state_end("");
		hear(GW_MSG_LOADED);
		say(GW_MSG_COMMIT, NULL, 0);
		hang_up();
		cr_assert_eq(await_end(), GODWIT_STATE_DONE, "%s",
			     godwit_error_text(reason));
		cr_assert(ran);
		clean_up();
	}
}

/* It may have let pages go when it lost the link: then it must not run. */
Test(lying_source, a_commit_with_pages_missing_and_no_link_pauses_or_is_undecided)
{
	for (int i = 0; i < 50; i++) {
		enum godwit_state state;

		ran = false;
		connect_as(GW_MODE_HYBRID);
		say_missing(0, 16);
		say_missing_end(16, 16);
		hear(GW_MSG_ARMED);
		say_state_end("");
		hear(GW_MSG_LOADED);
		say(GW_MSG_COMMIT, NULL, 0);
		hang_up();
		state = await_end();
		cr_assert_eq(state, ran ? GODWIT_STATE_PAUSED : GODWIT_STATE_UNDECIDED,
			     "%s: %s", godwit_state_name(state),
			     godwit_error_text(reason));
		clean_up();
	}
}

Test(lying_source, a_link_lost_when_nothing_is_missing_any_more_is_no_loss)
{
	struct gw_frame zero = {.type = GW_FRAME_ZERO, .count = 16};
	uint8_t buf[GW_FRAME_LEN];
	struct godwit_stats stats;

	connect_as(GW_MODE_HYBRID);
	say_missing(0, 16);
	say_missing_end(16, 0);
	hear(GW_MSG_ARMED);
	say_state_end("");
	hear(GW_MSG_LOADED);
	say(GW_MSG_COMMIT, NULL, 0);
	hear(GW_MSG_RUNNING);
	gw_frame_encode(&zero, buf);
	cr_assert_eq(gw_chan_send(bulk, buf, sizeof(buf)), 0);
	do
		godwit_dest_stats(dest, &stats, sizeof(stats));
	while (stats.zero_pages < 16);
	hang_up(); /* without the barrier that ends the push */
	cr_assert_eq(await_end(), GODWIT_STATE_DONE, "%s", godwit_error_text(reason));
	cr_assert_eq(result, 0);
	cr_assert_eq(godwit_error_code(reason), 0);
	clean_up();
}

Test(lying_source, an_abort_cannot_claim_that_nobody_knows)
{
	static uint8_t payload[GW_MESSAGE_MAX];
	struct gw_abort msg = {.code = -EUNATCH, .text = "made up"};

	connect_as(GW_MODE_PRECOPY);
	say(GW_MSG_ABORT, payload, gw_abort_encode(&msg, payload));
	expect_end(-EREMOTEIO);
}
