/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A QEMU that runs the guest and is to lose it.
 *
 * stop → save → (COMMIT: nothing more) or resume. `stop` makes QEMU's run state
 * "paused", so that is what the destination comes up in. A guest that was paused
 * before us stays paused in resume, and the header before the device state
 * keeps the destination from running it.
 *
 * resume works from every point after stop: a state stream that is still under
 * way is cancelled first, and `cont` is sent only once QEMU's migration thread
 * has made its last change of the run state (see qemu_stream.c).
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "vmm/qemu.h"

/* ---- before the start ---- */

static const struct {
	const char *status;
	const char *why;
} unfit[] = {
	{"inmigrate", "it waits for an incoming migration: it is a destination"},
	{"postmigrate", "its guest was already migrated away; if that is to be undone, "
			"send it 'cont'"},
	{"finish-migrate", "it is already migrating"},
	{"save-vm", "it saves a snapshot; wait for its end"},
	{"restore-vm", "it loads a snapshot; wait for its end"},
	{"prelaunch", "it was started with -S and never ran; send it 'cont' first"},
	{"shutdown", "its guest has shut down"},
	{"suspended", "its guest sleeps (ACPI S3); wake it first"},
	{"io-error", "its guest waits after a disk error; mend that and send it 'cont'"},
	{"internal-error", "its guest hit an internal error of QEMU or KVM"},
	{"guest-panicked", "its guest has panicked"},
	{"watchdog", "its guest was stopped by a watchdog"},
	{"colo", "it runs under COLO"},
	{"debug", "it is stopped by a debugger"},
};

static int status_check(const char *status, struct gw_err *err)
{
	if (!strcmp(status, "running") || !strcmp(status, "paused"))
		return 0;
	for (size_t i = 0; i < GW_ARRAY_SIZE(unfit); i++)
		if (!strcmp(status, unfit[i].status))
			return gw_err_set(
				err, -EBUSY,
				"the source QEMU cannot be migrated: %s (status "
				"'%s')",
				unfit[i].why, status);
	return gw_err_set(err, -EBUSY,
			  "the source QEMU cannot be migrated: its status is '%s'",
			  status);
}

/* States after which nothing of a migration is under way. */
static bool migration_over(const char *status)
{
	return !status[0] || !strcmp(status, "none") || !strcmp(status, "completed") ||
	       !strcmp(status, "failed") || !strcmp(status, "cancelled");
}

int gw_qemu_source_check(struct gw_qemu *qemu, struct gw_err *err)
{
	char status[GW_QEMU_STATUS_MAX], migration[GW_QEMU_STATUS_MAX];
	char why[GW_ERR_TEXT_MAX];
	int r = gw_qemu_status(qemu, err, status);

	if (r < 0)
		return r;
	r = gw_qemu_migration(qemu, err, migration, why);
	if (r < 0)
		return r;
	if (!migration_over(migration) && strcmp(status, "inmigrate"))
		return gw_err_set(
			err, -EBUSY,
			"the source QEMU is already migrating (migration status "
			"'%s'): wait for its end, or send it 'migrate_cancel'",
			migration);
	return status_check(status, err);
}

/* ---- stop ---- */

/* Without an event QEMU had nothing to stop. */
static int stop_without_event(struct gw_qemu *qemu, struct gw_err *err)
{
	char status[GW_QEMU_STATUS_MAX];
	int r = gw_qemu_status(qemu, err, status);

	if (r < 0)
		return r;
	if (strcmp(status, "paused"))
		return gw_err_set(err, -EBUSY,
				  "the guest could not be stopped: QEMU's status is '%s'",
				  status);
	qemu->was_running = false;
	gw_info(&qemu->log, "the guest was paused already and will stay so");
	return 0;
}

static int source_stop(void *opaque, struct gw_err *err)
{
	struct gw_qemu *qemu = opaque;
	char status[GW_QEMU_STATUS_MAX];
	struct gw_qmp_event event;
	int r;

	r = gw_qemu_set_up(qemu, err);
	if (!r)
		r = gw_qemu_status(qemu, err, status);
	if (r < 0)
		return r;
	gw_qmp_drop_events(qemu->qmp, "STOP");
	r = gw_qmp_execute(qemu->qmp, "stop", NULL, -1, err, NULL);
	if (r < 0) {
		/* it may take effect yet; commands are executed in their order */
		if (!strcmp(status, "running"))
			gw_qmp_execute(qemu->qmp, "cont", NULL, -1, NULL, NULL);
		return r;
	}
	/* QEMU sends the event before it answers */
	if (!gw_qmp_take_event(qemu->qmp, "STOP", &event))
		return stop_without_event(qemu, err);
	qemu->was_running = true;
	gw_qemu_log_moment(qemu, "stopped", event.realtime_ns);
	gw_qmp_event_deinit(&event);
	return 0;
}

/* ---- save ---- */

static int save_stream(struct gw_qemu *qemu, int fd, struct gw_err *err)
{
	uint64_t bytes;
	int r;

	r = gw_qemu_stream_start(qemu, "migrate", gw_qemu_stream_uri(), err);
	if (r < 0)
		return r;
	qemu->migrating = true;
	r = gw_qemu_stream_out(qemu, fd, err, &bytes);
	if (r < 0)
		return r;
	r = gw_qemu_finish(qemu, err);
	if (r < 0)
		return r;
	qemu->migrating = false;
	gw_debug(&qemu->log, "QEMU's device state: %lu bytes", bytes);
	return 0;
}

static int source_save(void *opaque, int fd, struct gw_err *err)
{
	struct gw_qemu *qemu = opaque;
	int r;

	r = gw_qemu_set_up(qemu, err);
	if (r < 0)
		return r;
	r = gw_qemu_header_write(fd, qemu->was_running, err);
	if (!r)
		r = save_stream(qemu, fd, err);
	/* used up, or of no use any more; resume prepares the next */
	if (qemu->migrating || r >= 0)
		gw_close(&qemu->stream);
	else
		gw_qemu_stream_drop(qemu);
	return r < 0 ? gw_err_prefix(err, "saving the device state"), r : 0;
}

/* ---- resume ---- */

/* QEMU has no event for the last step of a migration, so it is asked. */
static int wait_until(struct gw_qemu *qemu,
		      int (*check)(struct gw_qemu *, struct gw_err *), const char *what,
		      struct gw_err *err)
{
	const struct timespec pause = {0, 1000000};
	uint64_t deadline = gw_now() + GW_QEMU_FINISH;
	int r;

	for (;;) {
		r = check(qemu, err);
		if (r)
			return GW_MIN(r, 0);
		if (gw_now() > deadline)
			return gw_err_set(err, -ETIMEDOUT,
					  "QEMU did not %s within %llu s", what,
					  GW_QEMU_FINISH / GW_NSEC);
		nanosleep(&pause, NULL);
	}
}

static int check_over(struct gw_qemu *qemu, struct gw_err *err)
{
	char status[GW_QEMU_STATUS_MAX], why[GW_ERR_TEXT_MAX];
	int r = gw_qemu_migration(qemu, err, status, why);

	return r < 0 ? r : migration_over(status);
}

static int check_settled(struct gw_qemu *qemu, struct gw_err *err)
{
	char status[GW_QEMU_STATUS_MAX];
	int r = gw_qemu_status(qemu, err, status);

	return r < 0 ? r : strcmp(status, "finish-migrate") != 0;
}

static int check_running(struct gw_qemu *qemu, struct gw_err *err)
{
	char status[GW_QEMU_STATUS_MAX];
	int r = gw_qemu_status(qemu, err, status);

	return r < 0 ? r : !strcmp(status, "running");
}

int gw_qemu_source_end(struct gw_qemu *qemu, struct gw_err *err)
{
	int r;

	if (qemu->migrating) {
		gw_close(&qemu->stream); /* a QEMU that waits in a write gets on */
		r = gw_qmp_execute(qemu->qmp, "migrate_cancel", NULL, -1, err, NULL);
		if (r < 0)
			return r;
		r = wait_until(qemu, check_over, "end its migration", err);
		if (r < 0)
			return r;
		qemu->migrating = false;
	}
	return wait_until(qemu, check_settled, "settle after its migration", err);
}

static int source_resume(void *opaque, struct gw_err *err)
{
	struct gw_qemu *qemu = opaque;
	struct gw_qmp_event event;
	int r;

	r = gw_qemu_source_end(qemu, err);
	if (r < 0)
		return gw_err_prefix(err, "resuming the guest"), r;
	if (!qemu->was_running)
		return 0;
	gw_qmp_drop_events(qemu->qmp, "RESUME");
	r = gw_qmp_execute(qemu->qmp, "cont", NULL, -1, err, NULL);
	if (!r && gw_qmp_take_event(qemu->qmp, "RESUME", &event)) {
		gw_qemu_log_moment(qemu, "resumed at the source", event.realtime_ns);
		gw_qmp_event_deinit(&event);
	} else if (!r) {
		r = wait_until(qemu, check_running, "run the guest again", err);
	}
	return r < 0 ? gw_err_prefix(err, "resuming the guest"), r : 0;
}

static int source_check_stopped(void *opaque, struct gw_err *err)
{
	struct gw_qemu *qemu = opaque;
	char status[GW_QEMU_STATUS_MAX];
	int r = gw_qemu_status(qemu, err, status);

	if (r < 0)
		return gw_err_prefix(err, "checking that the guest does not run here"), r;
	if (strcmp(status, "running"))
		return 0;
	return gw_err_set(err, -EBUSY,
			  "the source QEMU runs the guest: somebody sent it `cont`");
}

static void source_abandon(void *opaque)
{
	struct gw_qemu *qemu = opaque;
	struct gw_err err = {0};

	if (qemu->migrating && gw_qemu_source_end(qemu, &err) < 0)
		gw_warn(&qemu->log, "%s", err.text);
	gw_qemu_restore(qemu);
}

const struct godwit_guest_ops gw_qemu_source_ops = {
	.stop = source_stop,
	.resume = source_resume,
	.save = source_save,
	.abandon = source_abandon,
	.check_stopped = source_check_stopped,
};
