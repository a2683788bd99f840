/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest in a QEMU that runs beside us: everything up to the first page.
 *
 * Happy path: connect to QMP, check that this QEMU can be the side it is to be,
 * find its RAM, look for writers that cannot be seen, set the capabilities under
 * which its own stream carries the device state alone, and lay the descriptor
 * for that stream ready. What can be done before the guest is stopped is done
 * here, since every command after it costs blackout.
 *
 * Failure modes: any refusal leaves QEMU as it was found. Capabilities and
 * parameters that were changed are given back by abandon and by free; only a
 * godwit that is killed leaves them changed, and they do a QEMU no harm until
 * somebody migrates it by other means.
 *
 * Threads: none; the callbacks come one at a time from the engine's.
 *
 * Ownership: the guest owns the QMP connection, its end of the stream and the
 * regions' files. QEMU keeps nothing of ours but what it was told to restore.
 */
#include "vmm/qemu.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "vmm/unseen.h"

/* A free monitor greets at once; this is how long one in use is waited for. */
#define GREETING_TIMEOUT (3 * GW_NSEC)

/* ---- small questions ---- */

int gw_qemu_qom_get(struct gw_qemu *qemu, const char *path, const char *property,
		    struct gw_err *err, json_t **ret)
{
	json_t *args = json_pack("{s:s, s:s}", "path", path, "property", property);

	return gw_qmp_execute(qemu->qmp, "qom-get", args, -1, err, ret);
}

static void copy_string(const json_t *object, const char *key, char *ret, size_t size)
{
	const char *text = json_string_value(json_object_get(object, key));

	snprintf(ret, size, "%s", text ?: "");
}

int gw_qemu_status(struct gw_qemu *qemu, struct gw_err *err, char *ret)
{
	json_t *answer;
	int r = gw_qmp_execute(qemu->qmp, "query-status", NULL, -1, err, &answer);

	if (r < 0)
		return r;
	copy_string(answer, "status", ret, GW_QEMU_STATUS_MAX);
	json_decref(answer);
	return 0;
}

int gw_qemu_migration(struct gw_qemu *qemu, struct gw_err *err, char *ret, char *ret_why)
{
	json_t *answer;
	int r = gw_qmp_execute(qemu->qmp, "query-migrate", NULL, -1, err, &answer);

	if (r < 0)
		return r;
	copy_string(answer, "status", ret, GW_QEMU_STATUS_MAX);
	copy_string(answer, "error-desc", ret_why, GW_ERR_TEXT_MAX);
	json_decref(answer);
	return 0;
}

void gw_qemu_log_moment(struct gw_qemu *qemu, const char *what, uint64_t realtime_ns)
{
	time_t seconds = (time_t)(realtime_ns / GW_NSEC);
	char text[32] = "";
	struct tm tm;

	if (realtime_ns && gmtime_r(&seconds, &tm))
		strftime(text, sizeof(text), " at %H:%M:%S", &tm);
	if (text[0])
		gw_info(&qemu->log, "guest %s%s.%06llu UTC", what, text,
			realtime_ns % GW_NSEC / 1000);
	else
		gw_info(&qemu->log, "guest %s", what);
}

/* ---- capabilities ---- */

/* The sides that want a capability on; all others are switched off. */
static const struct {
	const char *name;
	unsigned int sides;
	bool required;
} wanted_caps[] = {
	{"x-ignore-shared", GODWIT_SOURCE | GODWIT_DEST, true},
	/* without it the end of the stream would have to be asked for */
	{"events", GODWIT_SOURCE | GODWIT_DEST, true},
	/* disk images stay the source's until the destination runs */
	{"late-block-activate", GODWIT_DEST, false},
};

static bool cap_wanted(const struct gw_qemu *qemu, const char *name)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(wanted_caps); i++)
		if (!strcmp(name, wanted_caps[i].name))
			return wanted_caps[i].sides & qemu->side;
	return false;
}

static bool cap_known(const json_t *list, const char *name)
{
	json_t *cap;
	size_t i;

	json_array_foreach(list, i, cap)
	{
		const char *have = json_string_value(json_object_get(cap, "capability"));

		if (have && !strcmp(have, name))
			return true;
	}
	return false;
}

static int caps_check(const struct gw_qemu *qemu, const json_t *list, struct gw_err *err)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(wanted_caps); i++)
		if (wanted_caps[i].required && !cap_known(list, wanted_caps[i].name))
			return gw_err_set(
				err, -EOPNOTSUPP,
				"this QEMU (%u.%u) lacks the migration capability "
				"'%s'; 4.0 or newer is needed",
				gw_qmp_version(qemu->qmp) / 1000,
				gw_qmp_version(qemu->qmp) % 1000, wanted_caps[i].name);
	return 0;
}

/* Sorts the differences: @set is what to change, @restore the way back. */
static void caps_diff(const struct gw_qemu *qemu, json_t *list, json_t *set,
		      json_t *restore)
{
	json_t *cap;
	size_t i;

	json_array_foreach(list, i, cap)
	{
		const char *name = json_string_value(json_object_get(cap, "capability"));
		bool state = json_is_true(json_object_get(cap, "state"));

		if (!name || state == cap_wanted(qemu, name))
			continue;
		json_array_append(restore, cap);
		json_array_append_new(set, json_pack("{s:s, s:b}", "capability", name,
						     "state", !state));
	}
}

/* Takes @caps. */
static int caps_send(struct gw_qemu *qemu, json_t *caps, struct gw_err *err)
{
	json_t *args = json_pack("{s:o}", "capabilities", caps);

	return gw_qmp_execute(qemu->qmp, "migrate-set-capabilities", args, -1, err, NULL);
}

static int caps_set(struct gw_qemu *qemu, struct gw_err *err)
{
	json_t *list, *set, *restore;
	int r;

	r = gw_qmp_execute(qemu->qmp, "query-migrate-capabilities", NULL, -1, err, &list);
	if (r < 0)
		return r;
	set = json_array();
	restore = json_array();
	r = caps_check(qemu, list, err);
	if (!r)
		caps_diff(qemu, list, set, restore);
	if (!r && json_array_size(set))
		r = caps_send(qemu, json_incref(set), err);
	if (!r && json_array_size(restore))
		qemu->old_caps = json_incref(restore);
	json_decref(list);
	json_decref(set);
	json_decref(restore);
	return r;
}

/* ---- parameters ---- */

/*
 * The device state goes as fast as it can and in one go: QEMU's limits of 128
 * MiB/s and of a downtime would make its migration thread sleep for up to 100 ms.
 * TLS and other modes belong to migrations that QEMU does by itself. And a QEMU
 * that has loaded a state announces the guest at once, paused or not: before
 * COMMIT that would lead the network away from a source that may still run on.
 */
static const struct {
	const char *name;
	const char *value; /* as JSON */
	unsigned int sides;
} wanted_params[] = {
	{"max-bandwidth", "1099511627776", GODWIT_SOURCE},
	{"downtime-limit", "1000000", GODWIT_SOURCE},
	{"tls-creds", "\"\"", GODWIT_SOURCE | GODWIT_DEST},
	{"mode", "\"normal\"", GODWIT_SOURCE | GODWIT_DEST},
	{"announce-rounds", "0", GODWIT_DEST},
};

static void params_diff(const struct gw_qemu *qemu, const json_t *have, json_t *set,
			json_t *restore)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(wanted_params); i++) {
		const char *name = wanted_params[i].name;
		json_t *old = json_object_get(have, name);
		json_t *value = json_loads(wanted_params[i].value, JSON_DECODE_ANY, NULL);

		/* one that this QEMU does not know, or has not set, is as wanted */
		if (old && wanted_params[i].sides & qemu->side &&
		    !json_equal(old, value)) {
			json_object_set(set, name, value);
			json_object_set(restore, name, old);
		}
		json_decref(value);
	}
}

static int params_send(struct gw_qemu *qemu, json_t *params, struct gw_err *err)
{
	return gw_qmp_execute(qemu->qmp, "migrate-set-parameters", params, -1, err, NULL);
}

static int params_set(struct gw_qemu *qemu, struct gw_err *err)
{
	json_t *have, *set, *restore;
	int r;

	r = gw_qmp_execute(qemu->qmp, "query-migrate-parameters", NULL, -1, err, &have);
	if (r < 0)
		return r;
	set = json_object();
	restore = json_object();
	params_diff(qemu, have, set, restore);
	if (json_object_size(set))
		r = params_send(qemu, json_incref(set), err);
	if (!r && json_object_size(restore))
		qemu->old_params = json_incref(restore);
	json_decref(have);
	json_decref(set);
	json_decref(restore);
	return r;
}

/* ---- both ---- */

int gw_qemu_set_up(struct gw_qemu *qemu, struct gw_err *err)
{
	int r = 0;

	if (!qemu->set_up) {
		/* first, so that what succeeded is undone if the rest fails */
		qemu->set_up = true;
		r = caps_set(qemu, err);
		if (!r)
			r = params_set(qemu, err);
		if (r < 0)
			gw_qemu_restore(qemu);
	}
	return r < 0 ? r : gw_qemu_stream_prepare(qemu, err);
}

void gw_qemu_restore(struct gw_qemu *qemu)
{
	/* Of a QEMU that has ended, nobody wants to know. */
	enum godwit_log_level level =
		kill(qemu->pid, 0) ? GODWIT_LOG_DEBUG : GODWIT_LOG_WARNING;
	struct gw_err err = {0};

	gw_qemu_stream_drop(qemu);
	if (qemu->old_params && params_send(qemu, qemu->old_params, &err) < 0)
		gw_log(&qemu->log, level, "QEMU's migration parameters stay changed: %s",
		       err.text);
	if (qemu->old_caps && caps_send(qemu, qemu->old_caps, &err) < 0)
		gw_log(&qemu->log, level, "QEMU's capabilities stay changed: %s",
		       err.text);
	qemu->old_params = NULL;
	qemu->old_caps = NULL;
	qemu->set_up = false;
}

/* ---- writers that cannot be seen ---- */

/* Types of devices, as QOM writes them, that work on guest memory by themselves. */
static const char *const unseen_types[] = {
	"child<vfio-",
	"child<vhost-user-",
	"child<vhost-vdpa",
	"child<x-vfio-",
};

static int device_check(const json_t *device, struct gw_err *err)
{
	const char *type = json_string_value(json_object_get(device, "type"));
	const char *name = json_string_value(json_object_get(device, "name"));

	for (size_t i = 0; type && name && i < GW_ARRAY_SIZE(unseen_types); i++)
		if (!strncmp(type, unseen_types[i], strlen(unseen_types[i])))
			return gw_err_set(err, -EOPNOTSUPP,
					  "the device '%s' (%.*s) writes guest memory "
					  "unseen by QEMU: unplug it, or move the guest "
					  "with mode offline",
					  name, (int)strcspn(type + 6, ">"), type + 6);
	return 0;
}

static int devices_check(struct gw_qemu *qemu, const char *path, struct gw_err *err)
{
	json_t *list, *device;
	size_t i;
	int r;

	r = gw_qmp_execute(qemu->qmp, "qom-list", json_pack("{s:s}", "path", path), -1,
			   err, &list);
	if (r < 0)
		return r;
	json_array_foreach(list, i, device)
	{
		r = device_check(device, err);
		if (r < 0)
			break;
	}
	json_decref(list);
	return r;
}

static int unseen_check(struct gw_qemu *qemu, const struct gw_qemu_ram *ram,
			struct gw_err *err)
{
	int r;

	if (qemu->offline)
		return 0;
	r = devices_check(qemu, "/machine/peripheral", err);
	if (!r)
		r = devices_check(qemu, "/machine/peripheral-anon", err);
	if (!r)
		r = gw_unseen_devices(qemu->pid, err);
	for (size_t i = 0; !r && i < ram->n; i++)
		r = gw_unseen_writer(qemu->pid, ram->regions[i].fd, "the guest's RAM",
				     err);
	return r;
}

/* ---- making one ---- */

static int pid_check(struct gw_qemu *qemu, pid_t given, struct gw_err *err)
{
	pid_t peer = gw_qmp_peer(qemu->qmp);

	qemu->pid = given ?: peer;
	if (qemu->pid <= 0)
		return gw_err_set(
			err, -ESRCH,
			"QEMU's process cannot be told from its monitor's socket "
			"(another pid namespace?): name its pid");
	if (kill(qemu->pid, 0) < 0 && errno == ESRCH)
		return gw_err_set(err, -ESRCH, "there is no process %d", qemu->pid);
	if (given && peer && given != peer)
		gw_debug(&qemu->log, "the monitor was opened by process %d, not %d", peer,
			 given);
	return 0;
}

static int side_check(struct gw_qemu *qemu, struct gw_err *err)
{
	switch (qemu->side) {
	case GODWIT_SOURCE:
		return gw_qemu_source_check(qemu, err);
	case GODWIT_DEST:
		return gw_qemu_dest_check(qemu, err);
	}
	return gw_err_set(err, -EINVAL, "a guest is at the source or the destination");
}

/* Looks only: QEMU is as it was. */
static int qemu_examine(struct gw_qemu *qemu, const struct godwit_qemu *from,
			struct gw_qemu_ram *ram, struct gw_err *err)
{
	int r = pid_check(qemu, from->pid, err);

	if (!r)
		r = side_check(qemu, err);
	if (!r)
		r = gw_qemu_ram_find(qemu, ram, err);
	if (!r)
		r = unseen_check(qemu, ram, err);
	return r;
}

/* Its pages are touched here: first touches are too dear while the guest stands. */
static int buffer_make(struct gw_qemu *qemu, struct gw_err *err)
{
	qemu->buffer = malloc(GW_QEMU_BUFFER);
	if (!qemu->buffer)
		return gw_err_errno(err, -ENOMEM, "a buffer for the device state");
	memset(qemu->buffer, 1, GW_QEMU_BUFFER);
	return 0;
}

static void qemu_free(void *opaque)
{
	struct gw_qemu *qemu = opaque;

	if (qemu->qmp)
		gw_qemu_restore(qemu);
	gw_close(&qemu->stream);
	gw_qmp_free(qemu->qmp);
	free(qemu->buffer);
	free(qemu);
}

static int guest_make(struct gw_qemu *qemu, const struct godwit_qemu *from,
		      struct gw_err *err, struct godwit_guest **ret)
{
	struct gw_qemu_ram ram = {.n = 0};
	struct godwit_guest_desc desc = {
		.ops = qemu->side == GODWIT_SOURCE ? &gw_qemu_source_ops
						   : &gw_qemu_dest_ops,
		.opaque = qemu,
	};
	int r = qemu_examine(qemu, from, &ram, err);

	if (!r) {
		desc.pid = qemu->pid;
		desc.regions = ram.regions;
		desc.n_regions = ram.n;
		r = godwit_guest_new(&desc, err, ret);
	}
	if (!r && qemu->side == GODWIT_SOURCE)
		r = gw_unseen_direct_io(qemu->pid, err, (*ret)->untracked,
					sizeof((*ret)->untracked));
	r = GW_MIN(r, 0);
	gw_qemu_ram_deinit(&ram);
	return r;
}

static int qemu_connect(const struct godwit_qemu *from, struct gw_err *err,
			struct gw_qemu **ret)
{
	struct gw_qemu *qemu = calloc(1, sizeof(*qemu));
	int r;

	if (!qemu)
		return gw_err_errno(err, -ENOMEM, "a QEMU guest");
	qemu->side = from->side;
	qemu->offline = from->offline;
	qemu->log = (struct gw_log){from->log, from->log_opaque, GODWIT_LOG_DEBUG};
	qemu->stream = -1;
	r = gw_qmp_connect(from->qmp_path, GREETING_TIMEOUT, err, &qemu->qmp);
	if (r < 0) {
		qemu_free(qemu);
		return r;
	}
	gw_qmp_set_timeout(qemu->qmp, GW_QEMU_ANSWER);
	*ret = qemu;
	return 0;
}

int godwit_guest_new_qemu(const struct godwit_qemu *from, godwit_error *err,
			  godwit_guest **ret)
{
	struct godwit_guest *guest = NULL;
	struct gw_qemu *qemu = NULL;
	int r;

	if (!from->qmp_path)
		return gw_err_set(err, -EINVAL, "the path of QEMU's monitor is missing");
	r = qemu_connect(from, err, &qemu);
	if (r < 0)
		return r;
	r = guest_make(qemu, from, err, &guest);
	if (!r)
		r = buffer_make(qemu, err);
	if (!r)
		r = gw_qemu_set_up(qemu, err);
	if (r < 0) {
		godwit_guest_free(guest);
		qemu_free(qemu);
		return gw_err_prefix(err, "%s", from->qmp_path), r;
	}
	guest->free_opaque = qemu_free;
	*ret = guest;
	return 0;
}
