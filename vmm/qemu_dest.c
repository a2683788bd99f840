/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A QEMU that waits with `-incoming defer` and is to get the guest.
 *
 * load → run → announce. The state was saved from a stopped guest, so QEMU comes
 * up paused; should it ever run by itself it is stopped at once and the load
 * fails, since before COMMIT only the source may run.
 *
 * `migrate-incoming` is given in load and not before: a QEMU that has been told
 * to expect a stream and gets none exits, and a destination that waits in vain
 * must still be there for the next source. From that command on there is no way
 * back for this QEMU: one that has a part of a state can only be started anew.
 *
 * Up to QEMU 9.0 a load that fails makes QEMU exit, and the reason is on its
 * standard error only; from 9.1 it is asked to stay and say it.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "vmm/qemu.h"

#define HAS_EXIT_ON_ERROR 9001U

/* ---- before the start ---- */

/*
 * An incoming migration that was begun shows in `query-migrate`, but up to QEMU 7
 * not as a status before the first byte; one that listens shows its address. (One
 * from exec: or fd: shows nothing; migrate-incoming is then refused in load.)
 */
static int incoming_check(struct gw_qemu *qemu, struct gw_err *err)
{
	const char *status;
	json_t *answer;
	int r;

	r = gw_qmp_execute(qemu->qmp, "query-migrate", NULL, -1, err, &answer);
	if (r < 0)
		return r;
	status = json_string_value(json_object_get(answer, "status"));
	if (!status && json_array_size(json_object_get(answer, "socket-address")))
		status = "listening";
	if (status && strcmp(status, "none"))
		r = gw_err_set(
			err, -EBUSY,
			"the destination QEMU already has an incoming migration "
			"(status '%s'): start it anew, with -incoming defer instead "
			"of an address",
			status);
	json_decref(answer);
	return r;
}

int gw_qemu_dest_check(struct gw_qemu *qemu, struct gw_err *err)
{
	char status[GW_QEMU_STATUS_MAX];
	int r = gw_qemu_status(qemu, err, status);

	if (r < 0)
		return r;
	if (strcmp(status, "inmigrate"))
		return gw_err_set(
			err, -EBUSY,
			"the destination QEMU does not wait for a guest (status "
			"'%s'): start it with -incoming defer",
			status);
	return incoming_check(qemu, err);
}

/* ---- load ---- */

static json_t *incoming_args(const struct gw_qemu *qemu)
{
	json_t *args = gw_qemu_stream_uri();

	if (args && gw_qmp_version(qemu->qmp) >= HAS_EXIT_ON_ERROR)
		json_object_set_new(args, "exit-on-error", json_false());
	return args;
}

/* A QEMU that is gone took its reason with it. */
static int load_failed(int r, struct gw_err *err)
{
	if (r == -ECONNRESET)
		return gw_err_set(
			err, r,
			"the destination QEMU exited while it loaded the device "
			"state; its standard error says why (usually the two "
			"command lines differ)");
	gw_err_prefix(err, "loading the device state");
	return r;
}

static int check_paused(struct gw_qemu *qemu, struct gw_err *err)
{
	char status[GW_QEMU_STATUS_MAX];
	int r = gw_qemu_status(qemu, err, status);

	if (r < 0 || !strcmp(status, "paused"))
		return r;
	if (!strcmp(status, "running"))
		gw_qmp_execute(qemu->qmp, "stop", NULL, -1, NULL, NULL);
	return gw_err_set(err, -EPROTO,
			  "after loading, the destination QEMU is '%s' instead of paused",
			  status);
}

static int load_stream(struct gw_qemu *qemu, int fd, uint64_t size, struct gw_err *err)
{
	uint64_t bytes;
	int r;

	r = gw_qemu_stream_start(qemu, "migrate-incoming", incoming_args(qemu), err);
	if (r < 0)
		return r;
	qemu->loading = true;
	r = gw_qemu_stream_in(qemu, fd, size, err, &bytes);
	/* what lacks the end must not look like a pause */
	gw_close(&qemu->stream);
	if (r >= 0)
		r = gw_qemu_finish(qemu, err);
	if (!r)
		r = check_paused(qemu, err);
	return r;
}

static int header_take(struct gw_qemu *qemu, int fd, uint64_t size, struct gw_err *err)
{
	if (qemu->loading || qemu->loaded)
		return gw_err_set(
			err, -EBUSY,
			"this QEMU has taken a device state before: start it anew");
	if (size <= GW_QEMU_HEADER_SIZE || size > GW_QEMU_STATE_MAX)
		return gw_err_set(err, -EPROTO, "no device state has %lu bytes", size);
	return gw_qemu_header_read(fd, &qemu->was_running, err);
}

static int dest_load(void *opaque, int fd, uint64_t size, struct gw_err *err)
{
	struct gw_qemu *qemu = opaque;
	int r;

	r = header_take(qemu, fd, size, err);
	if (r < 0)
		return load_failed(r, err);
	r = gw_qemu_set_up(qemu, err);
	if (r < 0)
		return load_failed(r, err);
	r = load_stream(qemu, fd, size - GW_QEMU_HEADER_SIZE, err);
	if (r < 0)
		return load_failed(r, err);
	qemu->loading = false;
	qemu->loaded = true;
	return 0;
}

/* ---- run ---- */

static int check_running(struct gw_qemu *qemu, struct gw_err *err)
{
	char status[GW_QEMU_STATUS_MAX];
	int r = gw_qemu_status(qemu, err, status);

	if (r < 0 || !strcmp(status, "running"))
		return r;
	return gw_err_set(err, -EREMOTEIO,
			  "the destination QEMU was told to run the guest and is '%s'",
			  status);
}

static int dest_run(void *opaque, struct gw_err *err)
{
	struct gw_qemu *qemu = opaque;
	struct gw_qmp_event event;
	int r;

	if (!qemu->loaded)
		return gw_err_set(err, -EINVAL, "there is no device state to run");
	if (!qemu->was_running) {
		gw_info(&qemu->log, "the guest was paused at the source and stays so");
		return 0;
	}
	gw_qmp_drop_events(qemu->qmp, "RESUME");
	r = gw_qmp_execute(qemu->qmp, "cont", NULL, -1, err, NULL);
	if (r < 0)
		return gw_err_prefix(err, "running the guest at the destination"), r;
	/* QEMU sends the event before it answers */
	if (!gw_qmp_take_event(qemu->qmp, "RESUME", &event))
		return check_running(qemu, err);
	gw_qemu_log_moment(qemu, "runs at the destination", event.realtime_ns);
	gw_qmp_event_deinit(&event);
	return 0;
}

static int dest_announce(void *opaque, struct gw_err *err)
{
	struct gw_qemu *qemu = opaque;
	/* QEMU's own defaults (milliseconds), but a shorter step between the rounds */
	json_t *args = json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550,
				 "rounds", 5, "step", 50);

	return gw_qmp_execute(qemu->qmp, "announce-self", args, -1, err, NULL);
}

static void dest_abandon(void *opaque)
{
	struct gw_qemu *qemu = opaque;

	if (qemu->loading)
		gw_warn(&qemu->log, "the destination QEMU has taken a part of a device "
				    "state: start it anew before the next attempt");
	if (qemu->loaded)
		gw_warn(&qemu->log,
			"the destination QEMU holds a device state that never "
			"ran: start it anew before the next attempt");
	gw_qemu_restore(qemu);
}

const struct godwit_guest_ops gw_qemu_dest_ops = {
	.load = dest_load,
	.run = dest_run,
	.announce = dest_announce,
	.abandon = dest_abandon,
};
