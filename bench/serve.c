/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The side that memory comes to.
 *
 * Happy path: one client says hello, and from then on is asked what it wants,
 * one thing at a time; each is a function in the table below. Plain streams and
 * the engine are listened for one after the other at the port where the client
 * came in, so that a firewall needs one hole.
 *
 * Failure modes: who does not say hello in time, or says anything else, is
 * dropped and the wait goes on. A request that fails is answered, and the next
 * one is served. The client's end is our end. If a post-copy breaks, the guest's
 * thread waits for a page that never comes: then its memory is left alone and
 * nothing more is served.
 *
 * Threads: the caller's; those of plain streams and of the engine; the guest's.
 */
#include "bench/serve.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/util.h"
#include "bench/bare.h"
#include "bench/memory.h"
#include "bench/raw.h"
#include "bench/touch.h"
#include "transport/address.h"

/* A stranger may hold us up for so long. */
#define HELLO_PATIENCE (2 * GW_NSEC)
#define TOUCHES_MAX    1000000U

struct server {
	const struct bench_config *config;
	struct bench_link link;
	struct bench_memory memory;
	bool local; /* the client is in this process */
	char host[GW_ADDRESS_HOST_MAX + 1];
	uint16_t port; /* 0: any */
	bool ended;    /* the client said bye */
	bool stuck;    /* the guest's thread waits for ever */
};

/* ---- what requests say ---- */

static const char *text_of(const json_t *request, const char *key)
{
	return json_string_value(json_object_get(request, key)) ?: "";
}

/* A whole number from @min to @max, or -EINVAL. */
static int number_of(const json_t *request, const char *key, uint64_t min, uint64_t max,
		     struct gw_err *err, uint64_t *ret)
{
	const json_t *value = json_object_get(request, key);
	json_int_t n = json_integer_value(value);

	if (!json_is_integer(value) || n < 0 || (uint64_t)n < min || (uint64_t)n > max)
		return gw_err_set(err, -EINVAL, "%s: no number from %llu to %llu", key,
				  (unsigned long long)min, (unsigned long long)max);
	*ret = (uint64_t)n;
	return 0;
}

static int need_memory(const struct server *server, struct gw_err *err)
{
	if (server->memory.map)
		return 0;
	return gw_err_set(err, -EINVAL, "no memory was asked for");
}

/* ---- where the client connects to ---- */

static int address_make(const struct server *server, const json_t *request, uint16_t port,
			char *buf, size_t size, struct gw_err *err)
{
	const char *transport = text_of(request, "transport");
	bool v6 = strchr(server->host, ':');

	if (!strcmp(transport, bench_transport_name(BENCH_UNIX))) {
		if (!server->local || !server->config->scratch[0])
			return gw_err_set(err, -EINVAL, "Unix sockets are for one host");
		bench_scratch_socket(server->config, buf, size);
		return 0;
	}
	if (strcmp(transport, bench_transport_name(BENCH_TCP)))
		return gw_err_set(err, -EINVAL, "no such transport");
	snprintf(buf, size, "%s%s%s:%u", v6 ? "[" : "", server->host, v6 ? "]" : "",
		 port);
	return 0;
}

/* Tells it, with what else @answer (taken) has. */
static int tell_where(struct server *server, const char *address, json_t *answer,
		      struct gw_err *err)
{
	const char *colon = strrchr(address, ':');

	json_object_set_new(answer, "ok", json_true());
	if (server->local)
		json_object_set_new(answer, "address", json_string(address));
	else
		json_object_set_new(answer, "port", json_integer(atoi(colon + 1)));
	return bench_link_send(&server->link, answer, err);
}

/* ---- plain streams ---- */

static int token_make(char token[BENCH_TOKEN_LEN + 1], struct gw_err *err)
{
	uint8_t bytes[BENCH_TOKEN_LEN / 2];

	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return gw_err_errno(err, -errno, "no random numbers");
	for (size_t i = 0; i < sizeof(bytes); i++)
		sprintf(token + 2 * i, "%02x", bytes[i]);
	return 0;
}

/* The next connection that knows the token: its index, with @ret_fd. */
static int accept_stream(struct server *server, int listener, const char *token,
			 uint64_t deadline, struct gw_err *err, int *ret_fd)
{
	struct bench_preamble preamble;
	int fd, r;

	for (;;) {
		fd = bench_accept(listener, server->link.fd, deadline, err);
		if (fd < 0)
			return fd;
		r = bench_recv_by(fd, &preamble, sizeof(preamble),
				  gw_now() + HELLO_PATIENCE);
		if (!r && !memcmp(preamble.token, token, BENCH_TOKEN_LEN))
			break;
		close(fd);
	}
	*ret_fd = fd;
	return preamble.index[0] << 24 | preamble.index[1] << 16 |
	       preamble.index[2] << 8 | preamble.index[3];
}

static void close_all(int *fds, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		gw_close(&fds[i]);
}

/* All @n of them, in the order of their indices. */
static int accept_streams(struct server *server, int listener, const char *token,
			  unsigned int n, struct gw_err *err, int *ret_fds)
{
	uint64_t deadline = gw_now() + BENCH_PATIENCE;
	int index, fd;

	for (unsigned int i = 0; i < n; i++)
		ret_fds[i] = -1;
	for (unsigned int i = 0; i < n; i++) {
		index = accept_stream(server, listener, token, deadline, err, &fd);
		if (index < 0)
			return index;
		if ((unsigned int)index >= n || ret_fds[index] >= 0) {
			close(fd);
			return gw_err_set(err, -EBADMSG, "there is no stream %d", index);
		}
		ret_fds[index] = fd;
	}
	return 0;
}

/* Listens, says where, and waits until @n streams have come. */
static int gather(struct server *server, const json_t *request, unsigned int n,
		  struct gw_err *err, int *ret_fds)
{
	char address[BENCH_ADDRESS_MAX], token[BENCH_TOKEN_LEN + 1];
	GW_AUTO_CLOSE int listener = -1;
	int r = address_make(server, request, server->port, address, sizeof(address),
			     err);

	if (!r)
		r = token_make(token, err);
	if (r)
		return r;
	/* a plain socket leaves its file behind */
	bench_scratch_clear(server->config);
	listener = bench_listen(address, err);
	if (listener < 0)
		return listener;
	/* once more, with the port that it has now */
	r = address_make(server, request, bench_port_of(listener), address,
			 sizeof(address), err);
	if (!r)
		r = tell_where(server, address, json_pack("{s:s}", "token", token), err);
	if (!r)
		r = accept_streams(server, listener, token, n, err, ret_fds);
	return r;
}

/* What a request that went well is answered. */
static json_t *answer_with_cpu(double cpu_before)
{
	return json_pack("{s:b, s:f}", "ok", 1, "cpu", bench_cpu_seconds() - cpu_before);
}

static int do_raw(struct server *server, const json_t *request, struct gw_err *err)
{
	int fds[BENCH_STREAMS_MAX];
	double cpu;
	uint64_t n;
	int r = need_memory(server, err);

	if (!r)
		r = number_of(request, "streams", 1, BENCH_STREAMS_MAX, err, &n);
	if (r)
		return r;
	memset(fds, -1, sizeof(fds));
	r = gather(server, request, (unsigned int)n, err, fds);
	cpu = bench_cpu_seconds();
	if (!r)
		r = bench_link_send(&server->link,
				    json_pack("{s:b, s:b}", "ok", 1, "ready", 1), err);
	if (!r)
		r = bench_raw_receive(fds, (unsigned int)n, &server->memory,
				      server->memory.size, err);
	close_all(fds, (unsigned int)n);
	return r ? r : bench_link_send(&server->link, answer_with_cpu(cpu), err);
}

static int do_echo(struct server *server, const json_t *request, struct gw_err *err)
{
	bool spin = json_is_true(json_object_get(request, "spin"));
	int fd = -1;
	int r = gather(server, request, 1, err, &fd);

	if (!r)
		r = bench_bare_echo(fd, spin, err);
	gw_close(&fd);
	return r ? r : bench_link_send(&server->link, json_pack("{s:b}", "ok", 1), err);
}

/* ---- memory ---- */

static int do_memory(struct server *server, const json_t *request, struct gw_err *err)
{
	uint64_t size;
	int r = number_of(request, "size", GW_EXTENT_SIZE,
			  server->local ? INT64_MAX : server->config->size, err, &size);

	if (r)
		return server->local
			       ? r
			       : gw_err_prefix(err, "the listening side lends what its "
						    "own --size says");
	if (size % GW_EXTENT_SIZE)
		return gw_err_set(err, -EINVAL, "size is no multiple of 2 MiB");
	if (server->memory.size != size) {
		bench_memory_deinit(&server->memory);
		r = bench_memory_init(&server->memory, server->config->ram,
				      BENCH_MEMORY_RAM, size, err);
	}
	return r ? r : bench_link_send(&server->link, json_pack("{s:b}", "ok", 1), err);
}

static int do_drop(struct server *server, const json_t *request, struct gw_err *err)
{
	int r = need_memory(server, err);

	if (!r)
		r = bench_memory_drop(&server->memory, err);
	return r ? r : bench_link_send(&server->link, json_pack("{s:b}", "ok", 1), err);
}

/* ---- the engine ---- */

/* A destination, and the guest it is for. */
struct landing {
	godwit_guest *guest;
	godwit_options *options;
	godwit_dest *dest;
};

static void landing_deinit(struct landing *landing)
{
	godwit_dest_free(landing->dest);
	godwit_guest_free(landing->guest);
	godwit_options_free(landing->options);
}

/* Ready for a source, which has been told where. */
static int landing_init(struct landing *landing, struct server *server,
			const json_t *request, const struct godwit_guest_ops *ops,
			void *opaque, struct gw_err *err)
{
	char address[BENCH_ADDRESS_MAX];
	int r = need_memory(server, err);

	*landing = (struct landing){0};
	if (!r)
		r = address_make(server, request, server->port, address, sizeof(address),
				 err);
	if (!r)
		r = bench_memory_guest(&server->memory, ops, opaque, err,
				       &landing->guest);
	if (r)
		return r;
	landing->options = godwit_options_new();
	if (!landing->options)
		return gw_err_set(err, -ENOMEM, "out of memory");
	r = godwit_options_set(landing->options, "timeout", "30s", err);
	if (!r)
		r = godwit_dest_new(landing->guest, landing->options, err,
				    &landing->dest);
	if (!r)
		r = godwit_dest_listen(landing->dest, address, err);
	if (!r)
		r = tell_where(server, godwit_dest_address(landing->dest), json_object(),
			       err);
	return r;
}

static int do_stream(struct server *server, const json_t *request, struct gw_err *err)
{
	static const struct godwit_guest_ops no_ops;
	double cpu = bench_cpu_seconds();
	struct landing landing;
	int r = landing_init(&landing, server, request, &no_ops, NULL, err);

	if (!r)
		r = godwit_dest_run(landing.dest, err);
	landing_deinit(&landing);
	return r ? r : bench_link_send(&server->link, answer_with_cpu(cpu), err);
}

static int run_toucher(void *opaque, godwit_error *err)
{
	int r = bench_toucher_start(opaque);

	return r ? gw_err_errno(err, r, "cannot start the guest's thread") : 0;
}

static void tell_touched(void *opaque)
{
	struct server *server = opaque;
	struct gw_err ignored; /* a client that is gone is noticed elsewhere */

	(void)bench_link_send(&server->link,
			      json_pack("{s:b, s:b}", "ok", 1, "touched", 1), &ignored);
}

/* What the engine itself noted of the faults it served. */
static json_t *engine_json(godwit_dest *dest)
{
	struct gw_hist *hist = calloc(1, sizeof(*hist));
	struct godwit_bucket *buckets = calloc(GODWIT_BUCKETS_MAX, sizeof(*buckets));
	struct godwit_stats stats;
	json_t *object = NULL;
	size_t n;

	godwit_dest_stats(dest, &stats, sizeof(stats));
	n = buckets ? godwit_dest_histogram(dest, GODWIT_HISTOGRAM_FAULT, buckets,
					    GODWIT_BUCKETS_MAX)
		    : 0;
	for (size_t i = 0; hist && i < n; i++)
		for (uint64_t j = 0; j < buckets[i].count; j++)
			gw_hist_record(hist, buckets[i].upper_ns);
	if (hist) {
		/* these two are exact; what an edge rounded up is not kept */
		hist->max = GW_MIN(hist->max, stats.fault_max_ns);
		hist->sum = stats.fault_mean_ns * hist->count;
		object = bench_hist_json(hist);
	}
	free(buckets);
	free(hist);
	return object;
}

/* The part of do_fault() in which the guest's thread lives. */
static int land_and_touch(struct server *server, const json_t *request,
			  struct bench_toucher *toucher, struct gw_err *err)
{
	static const struct godwit_guest_ops ops = {.run = run_toucher};
	double cpu = bench_cpu_seconds();
	struct landing landing;
	json_t *answer;
	int r = landing_init(&landing, server, request, &ops, toucher, err);

	toucher->dest = landing.dest;
	if (!r)
		r = godwit_dest_run(landing.dest, err);
	if (r && toucher->started) {
		/* it waits for a page: nothing that it uses may end before it */
		server->stuck = true;
		return r;
	}
	bench_toucher_join(toucher);
	answer = r ? NULL : answer_with_cpu(cpu);
	json_object_set_new(answer, "guest", bench_hist_json(&toucher->hist));
	if (!r)
		json_object_set_new(answer, "engine", engine_json(landing.dest));
	landing_deinit(&landing);
	return r ? r : bench_link_send(&server->link, answer, err);
}

static int do_fault(struct server *server, const json_t *request, struct gw_err *err)
{
	struct bench_toucher *toucher = calloc(1, sizeof(*toucher));
	uint64_t seed;
	int r;

	if (!toucher)
		return gw_err_set(err, -ENOMEM, "out of memory");
	toucher->memory = &server->memory;
	toucher->rested = tell_touched;
	toucher->opaque = server;
	r = number_of(request, "touches", 0, TOUCHES_MAX, err, &toucher->touches);
	if (!r)
		r = number_of(request, "seed", 0, INT64_MAX, err, &seed);
	if (!r) {
		toucher->rng.state = seed;
		r = land_and_touch(server, request, toucher, err);
	}
	if (!server->stuck)
		free(toucher);
	return r;
}

/* ---- a client ---- */

static int do_bye(struct server *server, const json_t *request, struct gw_err *err)
{
	server->ended = true;
	return 0;
}

static const struct {
	const char *name;
	int (*run)(struct server *server, const json_t *request, struct gw_err *err);
} requests[] = {
	{"memory", do_memory}, {"drop", do_drop},   {"raw", do_raw}, {"echo", do_echo},
	{"stream", do_stream}, {"fault", do_fault}, {"bye", do_bye},
};

static int serve_request(struct server *server, const json_t *request, struct gw_err *err)
{
	const char *name = text_of(request, "do");

	for (size_t i = 0; i < GW_ARRAY_SIZE(requests); i++)
		if (!strcmp(requests[i].name, name))
			return requests[i].run(server, request, err);
	return gw_err_set(err, -EINVAL, "no such request");
}

/* Until the client says bye (0), is gone, or makes no sense. */
static int serve_client(struct server *server, struct gw_err *err)
{
	struct gw_err failed = {0};
	json_t *request;
	int r;

	while (!server->ended) {
		r = bench_link_recv(&server->link, UINT64_MAX, err, &request);
		if (r)
			return r;
		r = serve_request(server, request, &failed);
		json_decref(request);
		if (r)
			r = bench_link_send(
				&server->link,
				json_pack("{s:b, s:s}", "ok", 0, "error", failed.text),
				err);
		if (r)
			return r;
		if (server->stuck)
			return gw_err_set(err, -EIO, "%s", failed.text);
	}
	return 0;
}

static void server_deinit(struct server *server)
{
	bench_link_deinit(&server->link);
	if (!server->stuck)
		bench_memory_deinit(&server->memory);
}

int bench_serve_local(const struct bench_config *config, int fd, godwit_error *err)
{
	struct server server = {
		.config = config,
		.memory = {.fd = -1},
		.local = true,
		.host = "127.0.0.1",
	};
	int r = bench_link_init(&server.link, fd, err);

	if (!r)
		r = serve_client(&server, err);
	server_deinit(&server);
	return r;
}

/* ---- strangers and the client ---- */

/* 0: the other end of the link is a client of ours. */
static int hear_hello(struct server *server, struct gw_err *err)
{
	json_t *hello;
	int r = bench_link_recv(&server->link, gw_now() + HELLO_PATIENCE, err, &hello);

	if (r)
		return r;
	if (strcmp(text_of(hello, "do"), "hello") ||
	    strcmp(text_of(hello, "format"), BENCH_FORMAT))
		r = gw_err_set(err, -EBADMSG, "no godwit bench of this version");
	json_decref(hello);
	return r ? r
		 : bench_link_send(
			   &server->link,
			   json_pack("{s:b, s:s}", "ok", 1, "version", godwit_version()),
			   err);
}

static int await_client(struct server *server, int listener, struct gw_err *err)
{
	struct gw_err stranger;
	int fd, r;

	for (;;) {
		fd = bench_accept(listener, -1, UINT64_MAX, err);
		if (fd < 0)
			return fd;
		r = bench_link_init(&server->link, fd, err);
		if (r)
			return r;
		if (!hear_hello(server, &stranger))
			return 0;
		bench_link_deinit(&server->link);
	}
}

/* Where it listens, in words: the port may have been left to the kernel. */
static void tell_ready(const struct server *server, void (*ready)(const char *address))
{
	char address[BENCH_ADDRESS_MAX];
	bool v6 = strchr(server->host, ':');

	snprintf(address, sizeof(address), "%s%s%s:%u", v6 ? "[" : "", server->host,
		 v6 ? "]" : "", server->port);
	ready(address);
}

static int address_take(struct server *server, struct gw_err *err)
{
	struct gw_address address;
	int r = gw_address_parse(server->config->listen, err, &address);

	if (r)
		return r;
	if (!address.host[0])
		return gw_err_set(err, -EINVAL,
				  "--listen %s: a Unix socket is for one host, as "
				  "--loopback is: give HOST:PORT",
				  server->config->listen);
	snprintf(server->host, sizeof(server->host), "%s", address.host);
	return 0;
}

int bench_serve(const struct bench_config *config, void (*ready)(const char *address),
		godwit_error *err)
{
	struct server server = {
		.config = config,
		.link = {.fd = -1},
		.memory = {.fd = -1},
	};
	int listener, r = address_take(&server, err);

	if (r)
		return r;
	listener = bench_listen(config->listen, err);
	if (listener < 0)
		return listener;
	server.port = bench_port_of(listener);
	tell_ready(&server, ready);
	r = await_client(&server, listener, err);
	/* its port is wanted for streams, one after the other */
	close(listener);
	if (!r)
		r = serve_client(&server, err);
	server_deinit(&server);
	return r;
}
