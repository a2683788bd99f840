/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `godwit status`, cancel, switch and set: clients of the control sockets. */
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "cli/args.h"
#include "cli/control.h"
#include "cli/stats.h"
#include "cli/text.h"

/* For a migration to answer; it does so at once unless its host is in trouble. */
#define ANSWER_TIMEOUT_MS 5000

#define OPERANDS_MAX 3

struct client {
	const struct args_command *command;
	const char *run_dir; /* NULL: the user's own */
	const char *name;    /* of the migration; NULL: the only one, or all */
	const char *operands[OPERANDS_MAX];
	size_t n_operands;
	bool json;
	struct rundir dir;
};

/* ---- one request ---- */

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* 0, or negative errno (-ETIMEDOUT). */
static int wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};
	int64_t left = deadline - now_ms();
	int n;

	do
		n = poll(&p, 1, left > 0 ? (int)left : 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n ? 0 : -ETIMEDOUT;
}

static int send_line(int fd, const json_t *request, int64_t deadline)
{
	char *text = json_dumps(request, JSON_COMPACT);
	size_t len, sent = 0;
	ssize_t n;
	int r = 0;

	if (!text)
		return -ENOMEM;
	len = strlen(text);
	text[len++] = '\n';
	while (!r && sent < len) {
		n = send(fd, text + sent, len - sent, MSG_NOSIGNAL);
		if (n >= 0)
			sent += (size_t)n;
		else
			r = errno == EAGAIN ? wait_for(fd, POLLOUT, deadline) : -errno;
	}
	free(text);
	return r;
}

static int receive_line(int fd, int64_t deadline, json_t **ret)
{
	char *buf = malloc(CONTROL_LINE_MAX);
	size_t used = 0;
	ssize_t n;
	int r = buf ? 0 : -ENOMEM;

	while (!r && !(used && buf[used - 1] == '\n')) {
		n = recv(fd, buf + used, CONTROL_LINE_MAX - used, 0);
		if (n > 0)
			used += (size_t)n;
		else if (n == 0)
			r = -ECONNRESET;
		else
			r = errno == EAGAIN ? wait_for(fd, POLLIN, deadline) : -errno;
	}
	if (!r) {
		*ret = json_loadb(buf, used, 0, NULL);
		r = *ret ? 0 : -EBADMSG;
	}
	free(buf);
	return r;
}

/* Takes @request. The answer, or a negative errno: no migration of that name, … */
static int ask(const struct rundir *dir, const char *name, json_t *request,
	       json_t **ret_answer)
{
	int64_t deadline = now_ms() + ANSWER_TIMEOUT_MS;
	int fd = rundir_connect(dir, name);
	int r = fd < 0 ? fd : 0;

	if (r == -ECONNREFUSED)
		rundir_sweep(dir, name);
	if (!r)
		r = request ? send_line(fd, request, deadline) : -ENOMEM;
	if (!r)
		r = receive_line(fd, deadline, ret_answer);
	cli_close(&fd);
	json_decref(request);
	return r;
}

static bool answer_ok(const json_t *answer)
{
	return json_is_true(json_object_get(answer, "ok"));
}

static const char *answer_string(const json_t *answer, const char *name)
{
	return json_string_value(json_object_get(answer, name)) ?: "";
}

/* ---- messages ---- */

static enum cli_status fail(const char *text)
{
	char line[1024];

	snprintf(line, sizeof(line), "%s", text);
	text_clean(line);
	fprintf(stderr, "godwit: %s\n", line);
	return CLI_FAILED;
}

static enum cli_status fail_ask(const char *name, int error)
{
	char text[256];

	if (error == -ENOENT || error == -ECONNREFUSED)
		snprintf(text, sizeof(text),
			 "no migration is called '%s': godwit status lists them", name);
	else if (error == -ECONNRESET || error == -EPIPE)
		snprintf(text, sizeof(text), "the migration '%s' has just ended", name);
	else
		snprintf(text, sizeof(text), "the migration '%s' does not answer: %s",
			 name, strerror(-error));
	return fail(text);
}

/* ---- which migration ---- */

/* A status answer for every live migration, in an array; NULL when memory is out. */
static json_t *ask_all(const struct rundir *dir)
{
	json_t *all = json_array();
	char **names;
	int n = rundir_list(dir, &names);

	for (int i = 0; i < n; i++) {
		json_t *answer;

		if (!ask(dir, names[i], json_pack("{s:s}", "command", "status"),
			 &answer) &&
		    answer_ok(answer))
			json_array_append_new(all, answer);
	}
	if (n >= 0)
		free(names);
	return all;
}

/* Only of @side unless that is NULL. */
static json_t *keep_side(json_t *all, const char *side)
{
	for (size_t i = json_array_size(all); side && i--;)
		if (strcmp(answer_string(json_array_get(all, i), "side"), side) != 0)
			json_array_remove(all, i);
	return all;
}

static enum cli_status fail_many(const json_t *all)
{
	char text[900] = "several migrations are running, name one:";

	for (size_t i = 0; i < json_array_size(all); i++) {
		size_t used = strlen(text);

		snprintf(text + used, sizeof(text) - used, " %s",
			 answer_string(json_array_get(all, i), "name"));
	}
	return fail(text);
}

static enum cli_status fail_none(const char *side)
{
	char text[64];

	snprintf(text, sizeof(text), "no migration is running%s%s",
		 side ? " that is a godwit " : "", side ?: "");
	return fail(text);
}

/* Opens the run directory; where there is none, no migration is running. */
static enum cli_status dir_open(struct client *client, bool *ret_found)
{
	godwit_error *err = godwit_error_new();
	int r = rundir_open(client->run_dir, false, err, &client->dir);
	enum cli_status status = CLI_DONE;

	if (r < 0 && r != -ENOENT)
		status = fail(err ? godwit_error_text(err) : strerror(-r));
	*ret_found = !r;
	godwit_error_free(err);
	return status;
}

/* The name given, or that of the only live one; @name has RUNDIR_NAME_MAX + 1 bytes. */
static enum cli_status name_choose(const struct client *client, const char *side,
				   char *name)
{
	enum cli_status status = CLI_DONE;
	json_t *all;

	if (client->name) {
		snprintf(name, RUNDIR_NAME_MAX + 1, "%s", client->name);
		return CLI_DONE;
	}
	all = keep_side(ask_all(&client->dir), side);
	if (json_array_size(all) == 0)
		status = fail_none(side);
	else if (json_array_size(all) > 1)
		status = fail_many(all);
	else
		snprintf(name, RUNDIR_NAME_MAX + 1, "%s",
			 answer_string(json_array_get(all, 0), "name"));
	json_decref(all);
	return status;
}

/* ---- cancel, switch, set ---- */

static enum cli_status order_ask(const struct client *client, const char *side,
				 const char *key, const char *value)
{
	char name[RUNDIR_NAME_MAX + 1];
	enum cli_status status = name_choose(client, side, name);
	json_t *answer;
	int r;

	if (status != CLI_DONE)
		return status;
	r = ask(&client->dir, name,
		json_pack("{s:s, s:o, s:o}", "command", client->command->name, "name",
			  stats_text_json(key), "value", stats_text_json(value)),
		&answer);
	if (r < 0)
		return fail_ask(name, r);
	if (!answer_ok(answer))
		status = fail(answer_string(answer, "error"));
	json_decref(answer);
	return status;
}

static enum cli_status order(struct client *client, const char *side, const char *key,
			     const char *value)
{
	bool found;
	enum cli_status status = dir_open(client, &found);

	if (status != CLI_DONE)
		return status;
	if (!found)
		return client->name ? fail_ask(client->name, -ENOENT) : fail_none(side);
	status = order_ask(client, side, key, value);
	rundir_close(&client->dir);
	return status;
}

/* ---- status ---- */

static enum godwit_side answer_side(const json_t *answer)
{
	return strcmp(answer_string(answer, "side"), "receive") ? GODWIT_SOURCE
								: GODWIT_DEST;
}

static void print_answer(const json_t *answer, bool full)
{
	struct godwit_stats stats;
	char line[256], name[RUNDIR_NAME_MAX + 1];

	if (stats_from_json(json_object_get(answer, "stats"), &stats) < 0)
		return;
	stats_line(&stats, answer_side(answer), line, sizeof(line));
	snprintf(name, sizeof(name), "%s", answer_string(answer, "name"));
	text_clean(name);
	printf("%s: %s\n", name, line);
	if (full)
		stats_print(stdout, &stats);
}

static void print_json(const json_t *value)
{
	char *text = json_dumps(value, JSON_COMPACT);

	if (text)
		puts(text);
	free(text);
}

static enum cli_status status_all(const struct client *client, bool found)
{
	json_t *all = found ? ask_all(&client->dir) : json_array();
	size_t n = json_array_size(all);

	if (client->json)
		print_json(all);
	for (size_t i = 0; !client->json && i < n; i++)
		print_answer(json_array_get(all, i), false);
	json_decref(all);
	return n ? CLI_DONE : fail_none(NULL);
}

static enum cli_status status_one(const struct client *client, bool found)
{
	enum cli_status status = CLI_DONE;
	json_t *answer;
	int r = found ? ask(&client->dir, client->name,
			    json_pack("{s:s}", "command", "status"), &answer)
		      : -ENOENT;

	if (r < 0)
		return fail_ask(client->name, r);
	if (!answer_ok(answer))
		status = fail(answer_string(answer, "error"));
	else if (client->json)
		print_json(answer);
	else
		print_answer(answer, true);
	json_decref(answer);
	return status;
}

static enum cli_status status_print(struct client *client)
{
	bool found;
	enum cli_status status = dir_open(client, &found);

	if (status != CLI_DONE)
		return status;
	status = client->name ? status_one(client, found) : status_all(client, found);
	if (found)
		rundir_close(&client->dir);
	return status;
}

/* ---- the subcommands ---- */

static int take(void *opaque, enum args_kind kind, const char *name, const char *value)
{
	struct client *client = opaque;

	if (kind == ARGS_OPERAND)
		client->operands[client->n_operands++] = value;
	else if (!strcmp(name, "json"))
		client->json = true;
	else
		client->run_dir = value;
	return 0;
}

/* The first operand, when it is there, is the migration's name. */
static int name_take(struct client *client, size_t n_others)
{
	if (client->n_operands <= n_others)
		return 0;
	client->name = client->operands[0];
	if (rundir_name_valid(client->name))
		return 0;
	return args_complain(client->command,
			     "'%s' is no name of a migration: godwit status lists them",
			     client->name);
}

static const struct args_option status_options[] = {
	{.name = "json", .help = "print an array, with NAME one object, of all figures"},
	{"run-dir", "DIR", .help = "where the control sockets are (see send --help)"},
	{0},
};
/* An order is answered by its exit status alone. */
#define ORDER_OPTIONS (&status_options[1])

enum cli_status cli_list(int argc, char **argv)
{
	static const char *const usage[] = {"[--json] [NAME]", NULL};
	static const struct args_command command = {
		.name = "status",
		.usage = usage,
		.summary =
			"Shows the migrations of this user on this host, a line each, or "
			"all figures of the one called NAME. The exit status is 1 when "
			"there is none.",
		.options = status_options,
		.max_operands = 1,
	};
	struct client client = {.command = &command};
	int r = args_parse(&command, argc, argv, take, &client);

	if (!r)
		r = name_take(&client, 0);
	if (r)
		return r < 0 ? CLI_USAGE : CLI_DONE;
	return status_print(&client);
}

enum cli_status cli_cancel(int argc, char **argv)
{
	static const char *const usage[] = {"[NAME]", NULL};
	static const struct args_command command = {
		.name = "cancel",
		.usage = usage,
		.summary =
			"Calls a migration off: the guest runs on at the source. Refused "
			"once the guest belongs to the destination. NAME may be left out "
			"when only one is running.",
		.options = ORDER_OPTIONS,
		.max_operands = 1,
	};
	struct client client = {.command = &command};
	int r = args_parse(&command, argc, argv, take, &client);

	if (!r)
		r = name_take(&client, 0);
	if (r)
		return r < 0 ? CLI_USAGE : CLI_DONE;
	return order(&client, NULL, "", "");
}

enum cli_status cli_switch(int argc, char **argv)
{
	static const char *const usage[] = {"[NAME]", NULL};
	static const struct args_command command = {
		.name = "switch",
		.usage = usage,
		.summary =
			"Switches a migration in mode hybrid from pre-copy to post-copy now. It is "
			"an order to the source.",
		.options = ORDER_OPTIONS,
		.max_operands = 1,
	};
	struct client client = {.command = &command};
	int r = args_parse(&command, argc, argv, take, &client);

	if (!r)
		r = name_take(&client, 0);
	if (r)
		return r < 0 ? CLI_USAGE : CLI_DONE;
	return order(&client, "send", "", "");
}

enum cli_status cli_set(int argc, char **argv)
{
	static const char *const usage[] = {"[NAME] max-downtime TIME",
					    "[NAME] bandwidth RATE", NULL};
	static const struct args_command command = {
		.name = "set",
		.usage = usage,
		.summary =
			"Changes a limit of a migration under way. It is an order to the "
			"source; the values are those of godwit send.",
		.options = ORDER_OPTIONS,
		.max_operands = 3,
	};
	struct client client = {.command = &command};
	const char *key, *value;
	int r = args_parse(&command, argc, argv, take, &client);

	if (!r && client.n_operands < 2)
		r = args_complain(&command, "name what to set, and to what: godwit set "
					    "[NAME] max-downtime TIME | bandwidth RATE");
	if (!r)
		r = name_take(&client, 2);
	if (r)
		return r < 0 ? CLI_USAGE : CLI_DONE;
	key = client.operands[client.n_operands - 2];
	value = client.operands[client.n_operands - 1];
	if (strcmp(key, "max-downtime") != 0 && strcmp(key, "bandwidth") != 0) {
		args_complain(&command,
			      "'%s' cannot be set: it is max-downtime or bandwidth", key);
		return CLI_USAGE;
	}
	return order(&client, "send", key, value);
}
