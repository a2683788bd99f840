/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control socket of a migration under way: the server. */
#include "cli/control.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "cli/stats.h"

/* epoll's data for the listening socket; clients have their place's number. */
#define LISTENER CONTROL_CLIENTS_MAX

json_t *control_refusal(const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return json_pack("{s:b, s:o}", "ok", 0, "error", stats_text_json(text));
}

/* ---- clients ---- */

static void watch(struct control *control, int operation, int fd, uint32_t events,
		  uint32_t who)
{
	struct epoll_event event = {.events = events, .data.u32 = who};

	epoll_ctl(control->epoll_fd, operation, fd, &event);
}

static void client_end(struct control_client *client)
{
	cli_close(&client->fd); /* leaves the epoll set by itself */
	free(client->in);
	free(client->out);
	*client = (struct control_client){.fd = -1};
}

/* Any other user gets here only if the directory's mode was changed meanwhile. */
static bool trusted(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) &&
	       (peer.uid == geteuid() || peer.uid == 0);
}

/* A free place, or that of the client silent longest. */
static struct control_client *place_find(struct control *control)
{
	struct control_client *oldest = &control->clients[0];

	for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		struct control_client *client = &control->clients[i];

		if (client->fd < 0)
			return client;
		if (client->last < oldest->last)
			oldest = client;
	}
	client_end(oldest);
	return oldest;
}

static void client_begin(struct control *control, int fd)
{
	struct control_client *client;
	char *in = malloc(CONTROL_LINE_MAX);

	if (!in || !trusted(fd)) {
		free(in);
		close(fd);
		return;
	}
	client = place_find(control);
	*client = (struct control_client){.fd = fd, .last = ++control->clock, .in = in};
	watch(control, EPOLL_CTL_ADD, fd, EPOLLIN, (uint32_t)(client - control->clients));
}

static void accept_all(struct control *control)
{
	int fd;

	/* bounded, so that somebody who connects all the time cannot hold us */
	for (unsigned int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		fd = accept4(control->listen_fd, NULL, NULL,
			     SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			client_begin(control, fd);
			continue;
		}
		if (errno == ECONNABORTED || errno == EINTR)
			continue;
		/* descriptors used up: the socket stays readable, do not spin on it */
		if (errno != EAGAIN) {
			control->deaf = true;
			watch(control, EPOLL_CTL_MOD, control->listen_fd, 0, LISTENER);
		}
		return;
	}
}

/* ---- requests ---- */

static json_t *request_answer(struct control *control, const json_t *object)
{
	struct control_request request = {"", "", ""};
	const struct {
		const char *name;
		const char **ret;
	} members[] = {
		{"command", &request.command},
		{"name", &request.name},
		{"value", &request.value},
	};

	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		const json_t *member = json_object_get(object, members[i].name);

		if (!member)
			continue;
		*members[i].ret = json_string_value(member);
		if (!*members[i].ret)
			return control_refusal("'%s' is no string", members[i].name);
	}
	if (!request.command[0])
		return control_refusal("the request has no 'command'");
	return control->handler(control->opaque, &request);
}

static json_t *line_answer(struct control *control, const char *line, size_t len)
{
	json_error_t error;
	json_t *object = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	json_t *answer;

	if (!json_is_object(object))
		answer = object ? control_refusal("the request is no JSON object")
				: control_refusal("the request is no JSON: %s",
						  error.text);
	else
		answer = request_answer(control, object);
	json_decref(object);
	return answer;
}

/* Takes @answer. False: the client is gone. */
static bool answer_begin(struct control_client *client, json_t *answer)
{
	char *text = json_dumps(answer, JSON_COMPACT);

	json_decref(answer);
	if (!text) {
		client_end(client);
		return false;
	}
	client->out_len = strlen(text);
	client->out_sent = 0;
	/* the newline takes the place of the terminator */
	text[client->out_len++] = '\n';
	client->out = text;
	return true;
}

/* False: the client is gone, or has still to take its answer. */
static bool answer_push(struct control_client *client)
{
	ssize_t n = send(client->fd, client->out + client->out_sent,
			 client->out_len - client->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n < 0) {
		client_end(client);
		return false;
	}
	client->out_sent += (size_t)n;
	if (client->out_sent < client->out_len)
		return false;
	free(client->out);
	client->out = NULL;
	if (!client->ending)
		return true;
	client_end(client);
	return false;
}

/* Takes the first line out of what has arrived; false when there is none. */
static bool line_take(struct control *control, struct control_client *client,
		      json_t **ret_answer)
{
	char *end = memchr(client->in, '\n', client->in_used);
	size_t len;

	if (!end && client->in_used == CONTROL_LINE_MAX) {
		client->ending = true;
		*ret_answer = control_refusal("a request has at most %d bytes",
					      CONTROL_LINE_MAX);
		return true;
	}
	if (!end)
		return false;
	len = (size_t)(end - client->in);
	*ret_answer = line_answer(control, client->in, len);
	client->in_used -= len + 1;
	memmove(client->in, end + 1, client->in_used);
	return true;
}

/* Answers what has arrived, until the client has to read first. */
static void lines_answer(struct control *control, struct control_client *client)
{
	json_t *answer;

	while (line_take(control, client, &answer)) {
		if (!answer_begin(client, answer) || !answer_push(client))
			return;
	}
}

/* False: the client is gone. */
static bool client_read(struct control_client *client)
{
	ssize_t n = recv(client->fd, client->in + client->in_used,
			 CONTROL_LINE_MAX - client->in_used, MSG_DONTWAIT);

	if (n > 0) {
		client->in_used += (size_t)n;
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	client_end(client);
	return false;
}

static void client_serve(struct control *control, struct control_client *client)
{
	client->last = ++control->clock;
	if (client->out) {
		if (!answer_push(client))
			return;
	} else if (!client_read(client)) {
		return;
	}
	lines_answer(control, client);
}

void control_serve(struct control *control)
{
	struct epoll_event events[CONTROL_CLIENTS_MAX + 1];
	struct control_client *client;
	int n;

	if (control->deaf)
		watch(control, EPOLL_CTL_MOD, control->listen_fd, EPOLLIN, LISTENER);
	control->deaf = false;
	n = epoll_wait(control->epoll_fd, events, ARRAY_SIZE(events), 0);
	for (int i = 0; i < n; i++) {
		/* last: it may give a client's place to another */
		if (events[i].data.u32 == LISTENER)
			continue;
		client = &control->clients[events[i].data.u32];
		client_serve(control, client);
		if (client->fd >= 0)
			watch(control, EPOLL_CTL_MOD, client->fd,
			      client->out ? EPOLLOUT : EPOLLIN, events[i].data.u32);
	}
	for (int i = 0; i < n; i++)
		if (events[i].data.u32 == LISTENER)
			accept_all(control);
}

/* ---- open and close ---- */

void control_init(struct control *control)
{
	*control = (struct control){.dir.fd = -1, .listen_fd = -1, .epoll_fd = -1};
	for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
		control->clients[i].fd = -1;
}

int control_open(struct control *control, const char *run_dir, const char *name,
		 control_fn *handler, void *opaque, godwit_error *err)
{
	int r;

	control->handler = handler;
	control->opaque = opaque;
	snprintf(control->name, sizeof(control->name), "%s", name);
	r = rundir_open(run_dir, true, err, &control->dir);
	if (r < 0)
		return r;
	control->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (control->epoll_fd < 0)
		return godwit_error_set(err, -errno, "epoll: %s", strerror(errno));
	r = rundir_listen(&control->dir, name, err, &control->listen_fd);
	if (r < 0)
		return r;
	watch(control, EPOLL_CTL_ADD, control->listen_fd, EPOLLIN, LISTENER);
	return 0;
}

void control_close(struct control *control)
{
	for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
		client_end(&control->clients[i]);
	if (control->listen_fd >= 0)
		rundir_unlink(&control->dir, control->name);
	cli_close(&control->listen_fd);
	cli_close(&control->epoll_fd);
	rundir_close(&control->dir);
}
