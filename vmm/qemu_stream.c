/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's device state on its way through us.
 *
 * QEMU gets one end of a socket pair by `getfd` and writes its migration stream
 * into it, or reads it from there; the other end stays here. So QEMU opens no
 * port, and the state travels with godwit's own bytes. The pair is made before
 * the guest is stopped: only `migrate` itself falls into the blackout.
 *
 * QEMU reports the end of a migration by an event on the monitor, which is
 * watched while bytes flow: a failure can come before the stream ends, and a QEMU
 * that dies closes both. The end of the outgoing stream matters too: after the
 * event "completed" QEMU's migration thread still changes the run state, and a
 * `cont` in between would abort QEMU ("invalid runstate transition"); the stream
 * is closed only after that.
 *
 * In front of QEMU's bytes stands a header of ours (16 bytes, little-endian:
 * magic, version, flags), since the destination must not run a guest that was
 * paused at the source, and QEMU's stream says so of every guest we stopped.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/io.h"
#include "base/util.h"
#include "vmm/qemu.h"

#define STREAM_NAME "godwit-state"
/* Asked for, and silently cut to net.core.wmem_max: the whole state without a wait */
#define STREAM_BUFFER (4 << 20)

#define HEADER_MAGIC	   0x554d455144574757ULL /* "WGWDQEMU" */
#define HEADER_VERSION	   1U
#define HEADER_WAS_RUNNING 1U

/* ---- header ---- */

static int keep(int fd, const void *data, size_t size, struct gw_err *err)
{
	int r = gw_write_all(fd, data, size);

	return r ? gw_err_errno(err, r, "keeping the device state") : 0;
}

/* As read(), through signals. */
static ssize_t read_some(int fd, void *data, size_t size)
{
	ssize_t n;

	do
		n = read(fd, data, size);
	while (n < 0 && errno == EINTR);
	return n;
}

static int read_all(int fd, void *data, size_t size, struct gw_err *err)
{
	char *p = data;
	ssize_t n;

	while (size) {
		n = read_some(fd, p, size);
		if (n < 0)
			return gw_err_errno(err, -errno, "reading the device state");
		if (!n)
			return gw_err_set(err, -EPROTO,
					  "the device state ends in its header");
		p += n;
		size -= (size_t)n;
	}
	return 0;
}

struct header {
	uint64_t magic;
	uint32_t version;
	uint32_t flags;
};
_Static_assert(sizeof(struct header) == GW_QEMU_HEADER_SIZE, "header has holes");

int gw_qemu_header_write(int fd, bool was_running, struct gw_err *err)
{
	const struct header header = {
		.magic = htole64(HEADER_MAGIC),
		.version = htole32(HEADER_VERSION),
		.flags = htole32(was_running ? HEADER_WAS_RUNNING : 0),
	};

	return keep(fd, &header, sizeof(header), err);
}

int gw_qemu_header_read(int fd, bool *ret_was_running, struct gw_err *err)
{
	struct header header;
	uint32_t flags;
	int r = read_all(fd, &header, sizeof(header), err);

	if (r < 0)
		return r;
	flags = le32toh(header.flags);
	if (le64toh(header.magic) != HEADER_MAGIC)
		return gw_err_set(err, -EPROTO,
				  "the device state is not that of a QEMU guest: is the "
				  "source another kind of guest?");
	if (le32toh(header.version) != HEADER_VERSION || flags & ~HEADER_WAS_RUNNING)
		return gw_err_set(err, -EPROTO,
				  "the device state has version %u (flags %#x), known is "
				  "%u: use the same godwit on both hosts",
				  le32toh(header.version), flags, HEADER_VERSION);
	*ret_was_running = flags & HEADER_WAS_RUNNING;
	return 0;
}

/* ---- the pair ---- */

int gw_qemu_stream_prepare(struct gw_qemu *qemu, struct gw_err *err)
{
	const int size = STREAM_BUFFER;
	int pair[2];
	int r;

	if (qemu->stream >= 0)
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return gw_err_errno(err, -errno, "a socket pair for the device state");
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	/* replaces what an earlier godwit may have left under the name */
	r = gw_qmp_execute(qemu->qmp, "getfd", json_pack("{s:s}", "fdname", STREAM_NAME),
			   pair[1], err, NULL);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return r;
	}
	qemu->stream = pair[0];
	return 0;
}

void gw_qemu_stream_drop(struct gw_qemu *qemu)
{
	if (qemu->stream < 0)
		return;
	gw_close(&qemu->stream);
	/* refused when QEMU has taken it into use, which is as good */
	gw_qmp_execute(qemu->qmp, "closefd", json_pack("{s:s}", "fdname", STREAM_NAME),
		       -1, NULL, NULL);
}

json_t *gw_qemu_stream_uri(void)
{
	return json_pack("{s:s}", "uri", "fd:" STREAM_NAME);
}

/* ---- how the migration goes ---- */

int gw_qemu_stream_start(struct gw_qemu *qemu, const char *command, json_t *args,
			 struct gw_err *err)
{
	gw_qmp_drop_events(qemu->qmp, "MIGRATION");
	qemu->outcome = GW_QEMU_UNDER_WAY;
	return gw_qmp_execute(qemu->qmp, command, args, -1, err, NULL);
}

/* Takes @event. */
static void event_note(struct gw_qemu *qemu, struct gw_qmp_event *event)
{
	const char *status = json_string_value(json_object_get(event->data, "status"));

	if (status && !strcmp(status, "completed"))
		qemu->outcome = GW_QEMU_COMPLETED;
	else if (status && (!strcmp(status, "failed") || !strcmp(status, "cancelled")))
		qemu->outcome = GW_QEMU_FAILED;
	gw_qmp_event_deinit(event);
}

static int events_check(struct gw_qemu *qemu, struct gw_err *err)
{
	struct gw_qmp_event event;
	int r = gw_qmp_receive(qemu->qmp, err);

	/* a QEMU that is gone may have said why */
	while (gw_qmp_take_event(qemu->qmp, "MIGRATION", &event))
		event_note(qemu, &event);
	return r;
}

/* Has the last word on the outcome; negative errno when it is a bad one. */
static int ask_outcome(struct gw_qemu *qemu, struct gw_err *err)
{
	char status[GW_QEMU_STATUS_MAX], why[GW_ERR_TEXT_MAX];
	int r = gw_qemu_migration(qemu, err, status, why);

	if (r < 0)
		return r;
	if (!strcmp(status, "cancelled"))
		return gw_err_set(
			err, -ECANCELED,
			"somebody cancelled QEMU's migration of the device state");
	if (!strcmp(status, "failed"))
		return gw_err_set(err, -EREMOTEIO, "QEMU failed: %.300s",
				  why[0] ? why : "its standard error says why");
	qemu->outcome =
		strcmp(status, "completed") ? GW_QEMU_UNDER_WAY : GW_QEMU_COMPLETED;
	return 0;
}

/* Events tell; asking once a second is for those that were lost. */
static int wait_outcome(struct gw_qemu *qemu, struct gw_err *err)
{
	struct gw_qmp_event event;
	int r = gw_qmp_wait_event(qemu->qmp, "MIGRATION", gw_now() + GW_NSEC, err,
				  &event);

	if (r < 0)
		return r;
	if (r == GW_QMP_TIMEOUT)
		return ask_outcome(qemu, err);
	event_note(qemu, &event);
	return 0;
}

int gw_qemu_finish(struct gw_qemu *qemu, struct gw_err *err)
{
	uint64_t deadline = gw_now() + GW_QEMU_FINISH;
	int r;

	while (qemu->outcome != GW_QEMU_COMPLETED) {
		r = qemu->outcome == GW_QEMU_FAILED ? ask_outcome(qemu, err)
						    : wait_outcome(qemu, err);
		if (r < 0)
			return r;
		if (gw_now() > deadline)
			return gw_err_set(err, -ETIMEDOUT,
					  "QEMU did not finish within %llu s of the last "
					  "byte of the device state",
					  GW_QEMU_FINISH / GW_NSEC);
	}
	return 0;
}

/* ---- moving bytes ---- */

/* Waits for @events on the stream; sees to the monitor meanwhile. 0: the stream is
 * ready; GW_QEMU_ENDED; negative errno. */
static int stream_wait(struct gw_qemu *qemu, short events, struct gw_err *err)
{
	struct pollfd fds[] = {
		{.fd = qemu->stream, .events = events},
		{.fd = gw_qmp_fd(qemu->qmp), .events = POLLIN},
	};
	uint64_t deadline = gw_now() + GW_QEMU_STALL;
	int n, r = 0;

	while (!r) {
		n = poll(fds, GW_ARRAY_SIZE(fds), 1000);
		if (n < 0 && errno != EINTR)
			return gw_err_errno(err, -errno, "waiting for the device state");
		/* first the bytes that are there: the news can wait */
		if (n > 0 && fds[0].revents)
			return 0;
		if (n > 0)
			r = events_check(qemu, err);
		if (!r && qemu->outcome == GW_QEMU_FAILED)
			return GW_QEMU_ENDED;
		if (!r && gw_now() > deadline)
			return gw_err_set(err, -ETIMEDOUT,
					  "QEMU's device state stood still for %llu s",
					  GW_QEMU_STALL / GW_NSEC);
	}
	return r;
}

static int out_some(struct gw_qemu *qemu, int fd, struct gw_err *err, uint64_t *bytes)
{
	ssize_t n = recv(qemu->stream, qemu->buffer, GW_QEMU_BUFFER, MSG_DONTWAIT);
	int r;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return stream_wait(qemu, POLLIN, err);
	if (n <= 0) /* a reset is an end too: the verdict is QEMU's */
		return GW_QEMU_ENDED;
	*bytes += (uint64_t)n;
	if (*bytes > GW_QEMU_STATE_MAX)
		return gw_err_set(
			err, -EFBIG,
			"QEMU's device state exceeds %llu bytes: is guest memory "
			"in it that x-ignore-shared does not skip?",
			GW_QEMU_STATE_MAX);
	r = keep(fd, qemu->buffer, (size_t)n, err);
	return r;
}

int gw_qemu_stream_out(struct gw_qemu *qemu, int fd, struct gw_err *err,
		       uint64_t *ret_bytes)
{
	int r;

	*ret_bytes = 0;
	do
		r = out_some(qemu, fd, err, ret_bytes);
	while (!r);
	return r;
}

/* GW_QEMU_ENDED also when QEMU closed its end: why is then QEMU's to say. */
static int send_piece(struct gw_qemu *qemu, size_t size, struct gw_err *err)
{
	const char *p = qemu->buffer;
	ssize_t n;
	int r;

	while (size) {
		n = send(qemu->stream, p, size, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			p += n;
			size -= (size_t)n;
			continue;
		}
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			return GW_QEMU_ENDED;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return gw_err_errno(err, -errno,
					    "handing the device state to QEMU");
		r = stream_wait(qemu, POLLOUT, err);
		if (r)
			return r;
	}
	return 0;
}

int gw_qemu_stream_in(struct gw_qemu *qemu, int fd, uint64_t size, struct gw_err *err,
		      uint64_t *ret_bytes)
{
	ssize_t n;
	int r = 0;

	*ret_bytes = 0;
	while (!r && *ret_bytes < size) {
		n = read_some(fd, qemu->buffer,
			      GW_MIN((uint64_t)GW_QEMU_BUFFER, size - *ret_bytes));
		if (n < 0)
			return gw_err_errno(err, -errno, "reading the device state");
		if (!n)
			return gw_err_set(err, -EPROTO,
					  "the device state ends after %lu of %lu bytes",
					  *ret_bytes, size);
		*ret_bytes += (uint64_t)n;
		r = send_piece(qemu, (size_t)n, err);
	}
	return r;
}
