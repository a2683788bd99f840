/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client of QEMU's machine protocol (QMP).
 *
 * Bytes are gathered in one buffer until a line is complete; each line is
 * parsed into an object, which is the greeting, an answer or an event. Whoever
 * waits for something takes in messages until it has come.
 *
 * What QEMU sends is not trusted to be QMP: the socket may belong to something
 * else. A line that is too long or no object ends the connection, since nothing
 * after it can be relied on; so does the end of the stream. From then on every
 * call fails with the same words.
 *
 * A descriptor goes with the first byte of its command, as SCM_RIGHTS.
 */
#include "vmm/qmp.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/util.h"

#define BUFFER_MIN 16384U

struct gw_qmp {
	int fd;
	int wake_fd;
	pid_t peer;
	unsigned int version;
	uint64_t timeout_ns;
	uint64_t last_id;
	struct gw_err broken; /* why the connection is of no use; code 0: it is */
	char *buffer;
	size_t used, capacity;
	size_t scanned; /* of used: holds no newline */
	struct gw_qmp_event events[GW_QMP_EVENTS_MAX];
	unsigned int n_events;
};

/* All others are QEMU telling of things that are no concern of a migration. */
static const char *const kept_events[] = {"STOP", "RESUME", "MIGRATION"};

/* ---- events ---- */

void gw_qmp_event_deinit(struct gw_qmp_event *event)
{
	json_decref(event->data);
	event->data = NULL;
}

static void event_remove(struct gw_qmp *qmp, unsigned int index)
{
	qmp->n_events--;
	memmove(&qmp->events[index], &qmp->events[index + 1],
		(qmp->n_events - index) * sizeof(qmp->events[0]));
}

static uint64_t event_time(const json_t *message)
{
	const json_t *stamp = json_object_get(message, "timestamp");
	json_int_t s = json_integer_value(json_object_get(stamp, "seconds"));
	json_int_t us = json_integer_value(json_object_get(stamp, "microseconds"));

	/* QEMU writes -1 when it has no time; the limit keeps the product in 64 bits */
	if (s <= 0 || s > INT64_MAX / (json_int_t)GW_NSEC - 1 || us < 0 || us >= 1000000)
		return 0;
	return (uint64_t)s * GW_NSEC + (uint64_t)us * 1000;
}

static bool event_is_kept(const char *name)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(kept_events); i++)
		if (!strcmp(name, kept_events[i]))
			return true;
	return false;
}

static void event_keep(struct gw_qmp *qmp, const json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "event"));
	struct gw_qmp_event *event;

	if (!name || !event_is_kept(name))
		return;
	if (qmp->n_events == GW_QMP_EVENTS_MAX) {
		gw_qmp_event_deinit(&qmp->events[0]);
		event_remove(qmp, 0);
	}
	event = &qmp->events[qmp->n_events++];
	snprintf(event->name, sizeof(event->name), "%s", name);
	event->realtime_ns = event_time(message);
	event->data = json_incref(json_object_get(message, "data"));
}

bool gw_qmp_take_event(struct gw_qmp *qmp, const char *name, struct gw_qmp_event *ret)
{
	for (unsigned int i = 0; i < qmp->n_events; i++) {
		if (strcmp(qmp->events[i].name, name))
			continue;
		*ret = qmp->events[i];
		event_remove(qmp, i);
		return true;
	}
	return false;
}

void gw_qmp_drop_events(struct gw_qmp *qmp, const char *name)
{
	struct gw_qmp_event event;

	while (gw_qmp_take_event(qmp, name, &event))
		gw_qmp_event_deinit(&event);
}

/* ---- bytes ---- */

/* The connection is of no use any more; says why, now and at every later call. */
static int broken(struct gw_qmp *qmp, struct gw_err *err)
{
	return gw_err_set(err, qmp->broken.code, "%s", qmp->broken.text);
}

/* 0: ready; GW_QMP_TIMEOUT; or a negative errno. */
static int wait_ready(struct gw_qmp *qmp, short events, uint64_t deadline,
		      struct gw_err *err)
{
	struct pollfd fds[] = {
		{.fd = qmp->fd, .events = events},
		{.fd = qmp->wake_fd, .events = POLLIN},
	};
	uint64_t now = gw_now();
	uint64_t left = deadline > now ? deadline - now : 0;
	struct timespec ts = {(time_t)(left / GW_NSEC), (long)(left % GW_NSEC)};
	int n = ppoll(fds, GW_ARRAY_SIZE(fds), &ts, NULL);

	if (n < 0 && errno != EINTR)
		return gw_err_errno(err, -errno, "waiting for QEMU's monitor");
	if (n > 0 && fds[1].revents)
		return gw_err_set(err, -ECANCELED, "called off while QEMU was asked");
	if (n > 0)
		return 0;
	/* a signal: let the caller try; it comes back here with less time */
	return n < 0 && left ? 0 : GW_QMP_TIMEOUT;
}

static int buffer_grow(struct gw_qmp *qmp, struct gw_err *err)
{
	size_t capacity = qmp->capacity ? qmp->capacity * 2 : BUFFER_MIN;
	char *buffer;

	if (capacity > GW_QMP_LINE_MAX) {
		gw_err_set(
			&qmp->broken, -EPROTO,
			"QEMU's monitor sent a line of more than %u bytes: this is no QMP",
			GW_QMP_LINE_MAX);
		return broken(qmp, err);
	}
	buffer = realloc(qmp->buffer, capacity);
	if (!buffer)
		return gw_err_errno(err, -ENOMEM, "a line of QEMU's monitor");
	qmp->buffer = buffer;
	qmp->capacity = capacity;
	return 0;
}

/* Takes in what the socket has: 0, also when that was nothing. */
static int fill(struct gw_qmp *qmp, struct gw_err *err)
{
	ssize_t n;
	int r;

	if (qmp->used == qmp->capacity) {
		r = buffer_grow(qmp, err);
		if (r < 0)
			return r;
	}
	n = recv(qmp->fd, qmp->buffer + qmp->used, qmp->capacity - qmp->used,
		 MSG_DONTWAIT);
	if (n > 0) {
		qmp->used += (size_t)n;
		return 0;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	gw_err_set(&qmp->broken, -ECONNRESET,
		   "QEMU closed its monitor: it exited, or another program "
		   "disconnected us");
	return broken(qmp, err);
}

static json_t *parse_line(struct gw_qmp *qmp, size_t length)
{
	json_error_t why;
	json_t *message = json_loadb(qmp->buffer, length, 0, &why);

	if (json_is_object(message))
		return message;
	json_decref(message);
	gw_err_set(&qmp->broken, -EPROTO,
		   "this is no QMP monitor: it sent '%.*s'; is it -monitor's socket "
		   "instead of -qmp's?",
		   (int)GW_MIN(length, (size_t)60), qmp->buffer);
	return NULL;
}

/* The next complete line's object in @ret; NULL when none is complete. */
static int take_message(struct gw_qmp *qmp, struct gw_err *err, json_t **ret)
{
	char *newline;
	size_t length;

	*ret = NULL;
	if (qmp->broken.code)
		return broken(qmp, err);
	newline = qmp->used > qmp->scanned ? memchr(qmp->buffer + qmp->scanned, '\n',
						    qmp->used - qmp->scanned)
					   : NULL;
	qmp->scanned = qmp->used;
	if (!newline)
		return 0;
	length = (size_t)(newline - qmp->buffer);
	*ret = parse_line(qmp, length);
	if (!*ret)
		return broken(qmp, err);
	qmp->used -= length + 1;
	qmp->scanned = 0;
	memmove(qmp->buffer, newline + 1, qmp->used);
	return 0;
}

/* Waits for a message that is no event: 0, GW_QMP_TIMEOUT or negative errno. */
static int next_reply(struct gw_qmp *qmp, uint64_t deadline, struct gw_err *err,
		      json_t **ret)
{
	json_t *message;
	int r;

	for (;;) {
		r = take_message(qmp, err, &message);
		if (r < 0)
			return r;
		if (message && !json_object_get(message, "event")) {
			*ret = message;
			return 0;
		}
		if (message) {
			event_keep(qmp, message);
			json_decref(message);
			continue;
		}
		r = wait_ready(qmp, POLLIN, deadline, err);
		if (r)
			return r;
		r = fill(qmp, err);
		if (r < 0)
			return r;
	}
}

/* Takes in the events among the bytes that are here already. */
static int drain(struct gw_qmp *qmp, struct gw_err *err)
{
	json_t *message;
	int r;

	for (;;) {
		r = take_message(qmp, err, &message);
		if (r < 0 || !message)
			return r;
		event_keep(qmp, message); /* a stray answer has no "event" */
		json_decref(message);
	}
}

int gw_qmp_receive(struct gw_qmp *qmp, struct gw_err *err)
{
	int r;

	if (qmp->broken.code)
		return broken(qmp, err);
	r = fill(qmp, err);
	return r < 0 ? r : drain(qmp, err);
}

int gw_qmp_wait_event(struct gw_qmp *qmp, const char *name, uint64_t deadline,
		      struct gw_err *err, struct gw_qmp_event *ret)
{
	int r;

	for (;;) {
		if (gw_qmp_take_event(qmp, name, ret))
			return 0;
		r = wait_ready(qmp, POLLIN, deadline, err);
		if (r)
			return r;
		r = gw_qmp_receive(qmp, err);
		if (r < 0)
			return r;
	}
}

/* ---- commands ---- */

static ssize_t send_some(struct gw_qmp *qmp, const char *text, size_t length, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.bytes = {0}};
	struct iovec iov = {.iov_base = (char *)text, .iov_len = length};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;

	if (fd >= 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	return sendmsg(qmp->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int send_failed(struct gw_qmp *qmp, int error, struct gw_err *err)
{
	gw_err_errno(&qmp->broken, error == EPIPE ? -ECONNRESET : -error,
		     "writing to QEMU's monitor (did QEMU exit?)");
	return broken(qmp, err);
}

/* A command that went out in part would garble the next: a timeout here is the end. */
static int send_all(struct gw_qmp *qmp, const char *text, size_t length, int fd,
		    uint64_t deadline, struct gw_err *err)
{
	ssize_t n;
	int r;

	while (length) {
		n = send_some(qmp, text, length, fd);
		if (n > 0) {
			text += n;
			length -= (size_t)n;
			fd = -1; /* went with the first byte */
			continue;
		}
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return send_failed(qmp, errno, err);
		r = wait_ready(qmp, POLLOUT, deadline, err);
		if (r)
			return r < 0 ? r : send_failed(qmp, ETIMEDOUT, err);
	}
	return 0;
}

static int send_command(struct gw_qmp *qmp, const char *command, json_t *args, int fd,
			uint64_t deadline, struct gw_err *err)
{
	json_t *object = json_pack("{s:s, s:I, s:o*}", "execute", command, "id",
				   (json_int_t)++qmp->last_id, "arguments", args);
	GW_AUTO_FREE char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

	json_decref(object);
	if (!text)
		return gw_err_errno(err, -ENOMEM, "the QMP command '%s'", command);
	return send_all(qmp, text, strlen(text), fd, deadline, err);
}

static int refused(const char *command, const json_t *error, struct gw_err *err)
{
	const char *class = json_string_value(json_object_get(error, "class"));
	const char *desc = json_string_value(json_object_get(error, "desc"));
	int code = -EREMOTEIO;

	if (class && !strcmp(class, "CommandNotFound"))
		code = -EOPNOTSUPP;
	return gw_err_set(err, code, "QEMU refused '%s': %s", command,
			  desc ?: "it did not say why");
}

/* Takes @reply. */
static int reply_result(const char *command, json_t *reply, struct gw_err *err,
			json_t **ret)
{
	json_t *value = json_object_get(reply, "return");
	json_t *error = json_object_get(reply, "error");
	int r = 0;

	if (error)
		r = refused(command, error, err);
	else if (!value)
		r = gw_err_set(err, -EPROTO,
			       "QEMU's answer to '%s' has neither return nor error",
			       command);
	else if (ret)
		*ret = json_incref(value);
	json_decref(reply);
	return r;
}

/* Answers of other numbers belong to commands that were given up. An error
 * without a number is QEMU's word on a line that it could not parse. */
static bool reply_is_ours(const struct gw_qmp *qmp, const json_t *reply)
{
	const json_t *id = json_object_get(reply, "id");

	if (!id)
		return json_object_get(reply, "error");
	return json_integer_value(id) == (json_int_t)qmp->last_id;
}

int gw_qmp_execute(struct gw_qmp *qmp, const char *command, json_t *args, int fd,
		   struct gw_err *err, json_t **ret)
{
	uint64_t deadline = gw_now() + qmp->timeout_ns;
	json_t *reply;
	int r;

	if (qmp->broken.code) {
		json_decref(args);
		return broken(qmp, err);
	}
	r = send_command(qmp, command, args, fd, deadline, err);
	while (!r) {
		r = next_reply(qmp, deadline, err, &reply);
		if (r)
			break;
		if (reply_is_ours(qmp, reply)) {
			/* poll() will not tell of what came with the answer; if
			 * that is garbage, the next call says so */
			drain(qmp, NULL);
			return reply_result(command, reply, err, ret);
		}
		json_decref(reply);
	}
	if (r == GW_QMP_TIMEOUT)
		return gw_err_set(err, -ETIMEDOUT,
				  "QEMU did not answer '%s' within %.1f s: it is stopped "
				  "or hangs",
				  command, (double)qmp->timeout_ns / GW_NSEC);
	return r;
}

/* ---- the connection ---- */

static int greeting_read(struct gw_qmp *qmp, json_t *greeting, struct gw_err *err)
{
	json_int_t major = -1, minor = -1;

	if (json_unpack(greeting, "{s:{s:{s:{s:I, s:I}}}}", "QMP", "version", "qemu",
			"major", &major, "minor", &minor) ||
	    major < 0 || minor < 0 || major > 1000 || minor > 999)
		return gw_err_set(err, -EPROTO,
				  "this is no QMP monitor: no QMP greeting");
	qmp->version = (unsigned int)(major * 1000 + minor);
	return 0;
}

static int greet(struct gw_qmp *qmp, struct gw_err *err)
{
	json_t *greeting;
	int r = next_reply(qmp, gw_now() + qmp->timeout_ns, err, &greeting);

	if (r == GW_QMP_TIMEOUT)
		return gw_err_set(
			err, -EBUSY,
			"the monitor accepted us but does not greet: another "
			"client is using it (or QEMU hangs); give godwit a -qmp "
			"of its own");
	if (r < 0)
		return r;
	r = greeting_read(qmp, greeting, err);
	json_decref(greeting);
	if (r < 0)
		return r;
	return gw_qmp_execute(qmp, "qmp_capabilities", NULL, -1, err, NULL);
}

static pid_t peer_of(int fd)
{
	struct ucred cred;
	socklen_t size = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
		return 0;
	return cred.pid;
}

int gw_qmp_adopt(int fd, uint64_t timeout_ns, struct gw_err *err, struct gw_qmp **ret)
{
	struct gw_qmp *qmp = calloc(1, sizeof(*qmp));
	int r;

	if (!qmp) {
		close(fd);
		return gw_err_errno(err, -ENOMEM, "a QMP client");
	}
	qmp->fd = fd;
	qmp->wake_fd = -1;
	qmp->timeout_ns = timeout_ns;
	qmp->peer = peer_of(fd);
	r = greet(qmp, err);
	if (r < 0) {
		gw_qmp_free(qmp);
		return r;
	}
	*ret = qmp;
	return 0;
}

static int connect_failed(int error, const char *path, struct gw_err *err)
{
	switch (error) {
	case ENOENT:
	case ECONNREFUSED:
		return gw_err_set(err, -error,
				  "no QEMU listens at %s: start it with "
				  "-qmp unix:%s,server=on,wait=off",
				  path, path);
	case EAGAIN:
		return gw_err_set(err, -EBUSY,
				  "%s: clients queue there already: give godwit a -qmp "
				  "of its own",
				  path);
	default:
		return gw_err_errno(err, -error, "connecting to QEMU's monitor %s", path);
	}
}

int gw_qmp_connect(const char *path, uint64_t timeout_ns, struct gw_err *err,
		   struct gw_qmp **ret)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd, r;

	if (strlen(path) >= sizeof(address.sun_path))
		return gw_err_set(err, -ENAMETOOLONG,
				  "%s: a socket's path has at most %zu bytes", path,
				  sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	/* non-blocking: a Unix socket connects at once, or its backlog is full */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return gw_err_errno(err, -errno, "a socket for QEMU's monitor");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		r = connect_failed(errno, path, err);
		close(fd);
		return r;
	}
	r = gw_qmp_adopt(fd, timeout_ns, err, ret);
	return r < 0 ? gw_err_prefix(err, "%s", path), r : 0;
}

struct gw_qmp *gw_qmp_free(struct gw_qmp *qmp)
{
	if (!qmp)
		return NULL;
	for (unsigned int i = 0; i < qmp->n_events; i++)
		gw_qmp_event_deinit(&qmp->events[i]);
	gw_close(&qmp->fd);
	free(qmp->buffer);
	free(qmp);
	return NULL;
}

void gw_qmp_set_wake(struct gw_qmp *qmp, int wake_fd)
{
	qmp->wake_fd = wake_fd;
}

void gw_qmp_set_timeout(struct gw_qmp *qmp, uint64_t timeout_ns)
{
	qmp->timeout_ns = timeout_ns;
}

unsigned int gw_qmp_version(const struct gw_qmp *qmp)
{
	return qmp->version;
}

pid_t gw_qmp_peer(const struct gw_qmp *qmp)
{
	return qmp->peer;
}

int gw_qmp_fd(const struct gw_qmp *qmp)
{
	return qmp->fd;
}
