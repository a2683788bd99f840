/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The side that drives: a conversation with a bench_serve(), here or elsewhere. */
#include "bench/peer.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/util.h"
#include "bench/serve.h"

/* ---- the other side as a thread ---- */

static void *local_main(void *opaque)
{
	struct bench_peer *peer = opaque;
	struct gw_err err = {0};

	/* what went wrong was answered; else we have hung up */
	(void)bench_serve_local(peer->config, peer->thread_fd, &err);
	return NULL;
}

static int open_local(struct bench_peer *peer, struct gw_err *err)
{
	int fds[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		return gw_err_errno(err, -errno, "cannot make a pair of sockets");
	peer->local = true;
	peer->thread_fd = fds[1];
	snprintf(peer->host, sizeof(peer->host), "127.0.0.1");
	r = bench_link_init(&peer->link, fds[0], err);
	if (r) {
		close(fds[1]);
		return r;
	}
	r = -pthread_create(&peer->thread, NULL, local_main, peer);
	if (!r)
		return 0;
	close(fds[1]);
	bench_link_deinit(&peer->link);
	return gw_err_errno(err, r, "cannot start a thread");
}

/* ---- the other side as a host ---- */

static int say_hello(struct bench_peer *peer, struct gw_err *err)
{
	json_t *answer;
	int r = bench_peer_ask(
		peer, json_pack("{s:s, s:s}", "do", "hello", "format", BENCH_FORMAT), err,
		&answer);

	if (r)
		return gw_err_prefix(err,
				     "%s does not answer as `godwit bench --listen` of "
				     "this version does",
				     peer->config->to);
	json_decref(answer);
	return 0;
}

static int open_remote(struct bench_peer *peer, struct gw_err *err)
{
	const char *to = peer->config->to, *colon = strrchr(to, ':');
	int fd = bench_connect(to, err);
	int r;

	if (fd < 0)
		return fd;
	/* an address that could be connected to has a port, or is a Unix socket's */
	snprintf(peer->host, sizeof(peer->host), "%.*s", colon ? (int)(colon - to) : 0,
		 to);
	r = bench_link_init(&peer->link, fd, err);
	if (r)
		return r;
	r = say_hello(peer, err);
	if (r)
		bench_link_deinit(&peer->link);
	return r;
}

int bench_peer_open(struct bench_peer *peer, const struct bench_config *config,
		    struct gw_err *err)
{
	int r;

	*peer = (struct bench_peer){.config = config, .link = {.fd = -1}};
	r = config->to ? open_remote(peer, err) : open_local(peer, err);
	peer->open = !r;
	return r;
}

void bench_peer_close(struct bench_peer *peer)
{
	struct gw_err ignored;

	if (!peer->open)
		return;
	(void)bench_link_send(&peer->link, json_pack("{s:s}", "do", "bye"), &ignored);
	bench_link_deinit(&peer->link);
	if (peer->local)
		pthread_join(peer->thread, NULL);
	peer->open = false;
}

/* ---- asking ---- */

/* A text of the peer's, for a terminal. */
static int peer_failed(const struct bench_peer *peer, const json_t *answer,
		       struct gw_err *err)
{
	const char *text = json_string_value(json_object_get(answer, "error"));
	char clean[256];

	snprintf(clean, sizeof(clean), "%s", text ?: "an error without a text");
	for (char *c = clean; *c; c++)
		if (iscntrl((unsigned char)*c))
			*c = '?';
	return gw_err_set(err, -EREMOTEIO, "%s%s",
			  peer->local ? "" : "at the other host: ", clean);
}

int bench_peer_hear(struct bench_peer *peer, uint64_t patience_ns, struct gw_err *err,
		    json_t **ret)
{
	json_t *answer;
	int r = bench_link_recv(&peer->link, gw_now() + patience_ns, err, &answer);

	if (r)
		return r;
	if (json_is_true(json_object_get(answer, "ok"))) {
		if (ret)
			*ret = answer;
		else
			json_decref(answer);
		return 0;
	}
	r = peer_failed(peer, answer, err);
	json_decref(answer);
	return r;
}

int bench_peer_ask(struct bench_peer *peer, json_t *request, struct gw_err *err,
		   json_t **ret)
{
	int r = bench_link_send(&peer->link, request, err);

	return r ? r : bench_peer_hear(peer, BENCH_PATIENCE, err, ret);
}

int bench_peer_where(const struct bench_peer *peer, const json_t *answer, char *buf,
		     size_t size, struct gw_err *err)
{
	const char *address = json_string_value(json_object_get(answer, "address"));
	json_int_t port = json_integer_value(json_object_get(answer, "port"));

	/* a host elsewhere has no say in where we connect to, but for the port */
	if (peer->local && address) {
		snprintf(buf, size, "%s", address);
		return 0;
	}
	if (port < 1 || port > 65535)
		return gw_err_set(err, -EBADMSG,
				  "the other host does not say where it "
				  "listens");
	snprintf(buf, size, "%s:%u", peer->host, (unsigned int)port);
	return 0;
}

static int connect_stream(const char *address, const char *token, unsigned int index,
			  struct gw_err *err)
{
	struct bench_preamble preamble = {
		.index = {0, 0, 0, (uint8_t)index},
	};
	int fd = bench_connect(address, err);

	if (fd < 0)
		return fd;
	memcpy(preamble.token, token, sizeof(preamble.token));
	if (send(fd, &preamble, sizeof(preamble), MSG_NOSIGNAL) == sizeof(preamble))
		return fd;
	close(fd);
	return gw_err_set(err, -EIO, "cannot send to %s", address);
}

int bench_peer_streams(struct bench_peer *peer, json_t *request, unsigned int n,
		       struct gw_err *err, int *ret_fds)
{
	char address[BENCH_ADDRESS_MAX];
	const char *token;
	json_t *answer;
	int r = bench_peer_ask(peer, request, err, &answer);

	for (unsigned int i = 0; i < n; i++)
		ret_fds[i] = -1;
	if (r)
		return r;
	r = bench_peer_where(peer, answer, address, sizeof(address), err);
	token = json_string_value(json_object_get(answer, "token"));
	if (!r && (!token || strlen(token) != BENCH_TOKEN_LEN))
		r = gw_err_set(err, -EBADMSG, "the other host gave no token");
	for (unsigned int i = 0; !r && i < n; i++) {
		ret_fds[i] = connect_stream(address, token, i, err);
		r = GW_MIN(ret_fds[i], 0);
	}
	json_decref(answer);
	return r;
}
