/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The in-memory pair: a stream like any other, with trouble to order. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <pthread.h>
#include <string.h>

#include "base/event.h"
#include "base/util.h"
#include "transport/chan.h"

#define MS 1000000ULL

static void pair(size_t capacity, struct gw_chan **a, struct gw_chan **b)
{
	cr_assert_eq(gw_mem_pair(capacity, a, b), 0);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Byte @at of the one stream that all random transfers are checked against. */
static unsigned char golden(uint64_t at)
{
	return (unsigned char)(at * 167 ^ at >> 8 ^ at >> 16);
}

/* ---- one call on a thread of its own ---- */

struct call {
	pthread_t thread;
	struct gw_chan *chan;
	size_t len;
	int result;
};

static void *receive_bytes(void *arg)
{
	struct call *call = arg;
	GW_AUTO_FREE char *buf = malloc(call->len);

	call->result = gw_chan_recv(call->chan, buf, call->len);
	return NULL;
}

static void *send_bytes(void *arg)
{
	struct call *call = arg;
	GW_AUTO_FREE char *buf = calloc(1, call->len);

	call->result = gw_chan_send(call->chan, buf, call->len);
	return NULL;
}

static void start(struct call *call, void *(*fn)(void *), struct gw_chan *chan,
		  size_t len)
{
	*call = (struct call){.chan = chan, .len = len, .result = 12345};
	pthread_create(&call->thread, NULL, fn, call);
	/* So that the call most likely blocks; the test holds either way. */
	nanosleep(&(struct timespec){.tv_nsec = 10 * MS}, NULL);
}

static int finish(struct call *call)
{
	pthread_join(call->thread, NULL);
	return call->result;
}

/* ---- a stream ---- */

Test(mem_chan, bytes_arrive_both_ways)
{
	struct gw_chan *a, *b;
	char buf[8] = {0};

	pair(64, &a, &b);
	cr_assert_eq(gw_chan_send(a, "ping", 5), 0);
	cr_assert_eq(gw_chan_send(b, "pong", 5), 0);
	cr_assert_eq(gw_chan_recv(b, buf, 5), 0);
	cr_assert_str_eq(buf, "ping");
	cr_assert_eq(gw_chan_recv(a, buf, 5), 0);
	cr_assert_str_eq(buf, "pong");
	cr_assert_eq(a->sent, 5);
	cr_assert_eq(a->received, 5);
	cr_assert_eq(gw_chan_link_speed(a), 0);
	gw_chan_free(a);
	gw_chan_free(b);
}

#define TRANSFERS  1000
#define PIECES_MAX 9
#define PIECE_MAX  700

struct stream {
	struct gw_chan *chan;
	uint64_t seed;
	uint64_t total;
	bool good;
};

/* Random pieces of the next stretch of the stream, empty ones among them. */
static size_t cut_pieces(struct stream *stream, unsigned char *buf, size_t left,
			 struct iovec *iov, unsigned int *n)
{
	size_t used = 0;

	*n = (unsigned int)(next_random(&stream->seed) % (PIECES_MAX + 1));
	for (unsigned int i = 0; i < *n; i++) {
		size_t len = next_random(&stream->seed) % PIECE_MAX;

		len = GW_MIN(len, left - used);
		iov[i] = (struct iovec){buf + used, len};
		used += len;
	}
	return used;
}

static void *send_stream(void *arg)
{
	struct stream *stream = arg;
	unsigned char buf[PIECES_MAX * PIECE_MAX];
	struct iovec iov[PIECES_MAX];
	unsigned int n;
	size_t len;

	for (int i = 0; i < TRANSFERS; i++) {
		len = cut_pieces(stream, buf, sizeof(buf), iov, &n);
		for (size_t k = 0; k < len; k++)
			buf[k] = golden(stream->total + k);
		stream->good &= !gw_chan_sendv(stream->chan, iov, n);
		stream->total += len;
	}
	gw_chan_shutdown(stream->chan);
	return NULL;
}

static void *receive_stream(void *arg)
{
	struct stream *stream = arg;
	unsigned char buf[PIECES_MAX * PIECE_MAX];
	struct iovec iov[PIECES_MAX];
	unsigned int n;
	size_t len;

	while (stream->total) {
		uint64_t at = stream->chan->received;

		len = cut_pieces(stream, buf, (size_t)GW_MIN(sizeof(buf), stream->total),
				 iov, &n);
		stream->good &= !gw_chan_recvv(stream->chan, iov, n);
		if (!stream->good)
			return NULL;
		for (size_t k = 0; k < len; k++)
			stream->good &= buf[k] == golden(at + k);
		stream->total -= len;
	}
	stream->good &= gw_chan_recv(stream->chan, buf, 1) == GW_CHAN_EOF;
	return NULL;
}

/* What the sender with @seed will send in all. */
static uint64_t foresee(uint64_t seed)
{
	struct stream stream = {.seed = seed};
	unsigned char buf[PIECES_MAX * PIECE_MAX];
	struct iovec iov[PIECES_MAX];
	unsigned int n;

	for (int i = 0; i < TRANSFERS; i++)
		stream.total += cut_pieces(&stream, buf, sizeof(buf), iov, &n);
	return stream.total;
}

static void run_stream(size_t capacity, uint64_t seed, uint64_t latency)
{
	struct stream out = {.seed = seed, .good = true};
	struct stream in = {.seed = seed * 31, .total = foresee(seed), .good = true};
	pthread_t sender, receiver;

	pair(capacity, &out.chan, &in.chan);
	gw_mem_set_latency(out.chan, latency);
	pthread_create(&sender, NULL, send_stream, &out);
	pthread_create(&receiver, NULL, receive_stream, &in);
	pthread_join(sender, NULL);
	pthread_join(receiver, NULL);
	cr_assert(out.good && in.good, "capacity %zu seed %lu", capacity, seed);
	cr_assert_eq(out.chan->sent, in.chan->received);
	gw_chan_free(out.chan);
	gw_chan_free(in.chan);
}

Test(mem_chan, a_thousand_random_transfers_keep_every_byte_in_order)
{
	run_stream(4096, 42, 0);
}

Test(mem_chan, a_tiny_capacity_only_makes_it_slower)
{
	run_stream(61, 7, 0);
}

Test(mem_chan, random_transfers_survive_latency)
{
	run_stream(100000, 9, MS / 2);
}

/* ---- ends ---- */

Test(mem_chan, the_end_between_messages_is_told_from_the_end_within_one)
{
	struct gw_chan *a, *b;
	char buf[8];

	pair(64, &a, &b);
	cr_assert_eq(gw_chan_send(a, "1234567", 7), 0);
	a = gw_chan_free(a);
	cr_assert_eq(gw_chan_recv(b, buf, 4), 0);
	cr_assert_eq(gw_chan_recv(b, buf, 4), -EPIPE);
	cr_assert_eq(gw_chan_recv(b, buf, 4), GW_CHAN_EOF);
	cr_assert_eq(gw_chan_send(b, buf, 4), -EPIPE);
	gw_chan_free(b);
}

Test(mem_chan, the_ends_may_go_in_either_order)
{
	struct gw_chan *a, *b;

	pair(64, &a, &b);
	gw_chan_free(a);
	gw_chan_free(b);
	pair(64, &a, &b);
	gw_chan_free(b);
	gw_chan_free(a);
}

Test(mem_chan, shutdown_wakes_a_blocked_receiver)
{
	struct gw_chan *a, *b;
	struct call call;

	pair(64, &a, &b);
	start(&call, receive_bytes, a, 10);
	gw_chan_shutdown(a);
	cr_assert_eq(finish(&call), -ESHUTDOWN);
	gw_chan_free(a);
	gw_chan_free(b);
}

Test(mem_chan, shutdown_wakes_a_blocked_sender)
{
	struct gw_chan *a, *b;
	struct call call;

	pair(64, &a, &b);
	start(&call, send_bytes, a, 100);
	gw_chan_shutdown(a);
	cr_assert_eq(finish(&call), -ESHUTDOWN);
	cr_assert_eq(a->sent, 64);
	gw_chan_free(a);
	gw_chan_free(b);
}

Test(mem_chan, the_peers_shutdown_wakes_both)
{
	struct gw_chan *a, *b;
	struct call in, out;

	pair(64, &a, &b);
	start(&in, receive_bytes, a, 10);
	start(&out, send_bytes, a, 100);
	gw_chan_shutdown(b);
	cr_assert_eq(finish(&in), GW_CHAN_EOF);
	cr_assert_eq(finish(&out), -EPIPE);
	gw_chan_free(a);
	gw_chan_free(b);
}

Test(mem_chan, a_full_lane_blocks_its_sender_until_there_is_room)
{
	struct gw_chan *a, *b;
	struct call call;
	char buf[100];

	pair(64, &a, &b);
	start(&call, send_bytes, a, 100);
	cr_assert_eq(gw_chan_recv(b, buf, 100), 0);
	cr_assert_eq(finish(&call), 0);
	gw_chan_free(a);
	gw_chan_free(b);
}

Test(mem_chan, receiving_and_sending_time_out)
{
	struct gw_chan *a, *b;
	char buf[100] = {0};
	uint64_t begin;

	pair(64, &a, &b);
	cr_assert_eq(gw_chan_set_timeout(a, 20 * MS), 0);
	begin = gw_now();
	cr_assert_eq(gw_chan_recv(a, buf, 1), -ETIMEDOUT);
	cr_assert_geq(gw_now() - begin, 20 * MS);
	cr_assert_eq(gw_chan_send(a, buf, 100), -ETIMEDOUT);
	gw_chan_free(a);
	gw_chan_free(b);
}

/* ---- the descriptor for poll() ---- */

Test(mem_chan, the_descriptor_is_readable_exactly_while_something_is)
{
	struct gw_chan *a, *b;
	char buf[8];

	pair(64, &a, &b);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_TIMEOUT);
	cr_assert_eq(gw_chan_send(a, "1234", 4), 0);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_READY);
	cr_assert_eq(gw_chan_wait(a, 0, -1), GW_CHAN_TIMEOUT);
	cr_assert_eq(gw_chan_recv(b, buf, 2), 0);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_READY);
	cr_assert_eq(gw_chan_recv(b, buf, 2), 0);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_TIMEOUT);
	gw_chan_shutdown(a);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_READY);
	cr_assert_eq(gw_chan_recv(b, buf, 2), GW_CHAN_EOF);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_READY);
	gw_chan_free(a);
	gw_chan_free(b);
}

Test(mem_chan, a_wait_can_be_woken)
{
	struct gw_event wake;
	struct gw_chan *a, *b;

	pair(64, &a, &b);
	cr_assert_eq(gw_event_init(&wake), 0);
	gw_event_set(&wake);
	cr_assert_eq(gw_chan_wait(a, UINT64_MAX, wake.fd), GW_CHAN_WOKEN);
	gw_event_deinit(&wake);
	gw_chan_free(a);
	gw_chan_free(b);
}

/* ---- cuts ---- */

static void cut_at(uint64_t at)
{
	unsigned char buf[65];
	struct gw_chan *a, *b;

	pair(256, &a, &b);
	cr_assert_eq(gw_chan_send(a, "before", 6), 0);
	gw_mem_cut_after(a, at);
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = golden(i);
	cr_assert_eq(gw_chan_send(a, buf, sizeof(buf)), -ECONNRESET);
	cr_assert_eq(a->sent, 6 + at);
	cr_assert_eq(gw_chan_send(b, buf, 1), -ECONNRESET);
	cr_assert_eq(gw_chan_recv(a, buf, 1), -ECONNRESET);
	memset(buf, 0, sizeof(buf));
	cr_assert_eq(gw_chan_recv(b, buf, 6), 0);
	cr_assert_eq(gw_chan_recv(b, buf, sizeof(buf)), -ECONNRESET);
	cr_assert_eq(b->received, 6 + at);
	for (size_t i = 0; i < at; i++)
		cr_assert_eq(buf[i], golden(i));
	gw_chan_free(a);
	gw_chan_free(b);
}

Test(mem_chan, a_cut_lets_through_exactly_the_bytes_before_it)
{
	for (uint64_t at = 0; at <= 64; at++)
		cut_at(at);
}

Test(mem_chan, a_cut_wakes_everybody_who_waits)
{
	struct gw_chan *a, *b;
	struct call far, near, out;

	pair(16, &a, &b);
	start(&far, receive_bytes, b, 10);
	start(&near, receive_bytes, a, 10);
	start(&out, send_bytes, b, 100);
	gw_mem_cut_after(a, 3);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_TIMEOUT);
	cr_assert_eq(gw_chan_send(a, "123", 3), 0);
	cr_assert_eq(finish(&far), -ECONNRESET);
	cr_assert_neq(finish(&near), 12345);
	cr_assert_eq(finish(&out), -ECONNRESET);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_READY);
	gw_chan_free(a);
	gw_chan_free(b);
}

/* ---- latency ---- */

Test(mem_chan, late_bytes_are_neither_seen_nor_received_before_their_time)
{
	struct gw_chan *a, *b;
	char buf[4];
	uint64_t begin;

	pair(64, &a, &b);
	gw_mem_set_latency(a, 150 * MS);
	begin = gw_now();
	cr_assert_eq(gw_chan_send(a, "1234", 4), 0);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_TIMEOUT);
	cr_assert_eq(gw_chan_wait(b, 5000 * MS, -1), GW_CHAN_READY);
	cr_assert_geq(gw_now() - begin, 150 * MS);
	cr_assert_eq(gw_chan_recv(b, buf, 4), 0);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_TIMEOUT);
	begin = gw_now();
	cr_assert_eq(gw_chan_send(a, "5678", 4), 0);
	cr_assert_eq(gw_chan_recv(b, buf, 4), 0);
	cr_assert_geq(gw_now() - begin, 150 * MS);
	gw_chan_free(a);
	gw_chan_free(b);
}

Test(mem_chan, the_end_waits_for_late_bytes)
{
	struct gw_chan *a, *b;
	char buf[4];

	pair(64, &a, &b);
	gw_mem_set_latency(a, 150 * MS);
	cr_assert_eq(gw_chan_send(a, "1234", 4), 0);
	a = gw_chan_free(a);
	cr_assert_eq(gw_chan_wait(b, 0, -1), GW_CHAN_TIMEOUT);
	cr_assert_eq(gw_chan_recv(b, buf, 4), 0);
	cr_assert_eq(gw_chan_recv(b, buf, 4), GW_CHAN_EOF);
	gw_chan_free(b);
}

Test(mem_chan, bytes_do_not_overtake_when_the_latency_shrinks)
{
	struct gw_chan *a, *b;
	char buf[4];
	uint64_t begin;

	pair(64, &a, &b);
	gw_mem_set_latency(a, 30 * MS);
	begin = gw_now();
	cr_assert_eq(gw_chan_send(a, "12", 2), 0);
	gw_mem_set_latency(a, 0);
	cr_assert_eq(gw_chan_send(a, "34", 2), 0);
	cr_assert_eq(gw_chan_recv(b, buf, 4), 0);
	cr_assert_geq(gw_now() - begin, 30 * MS);
	cr_assert_eq(memcmp(buf, "1234", 4), 0);
	gw_chan_free(a);
	gw_chan_free(b);
}

Test(mem_chan, thousands_of_late_sends_stay_bounded)
{
	struct gw_chan *a, *b;
	unsigned char buf[5000], byte;
	uint64_t begin;

	pair(8192, &a, &b);
	gw_mem_set_latency(a, 30 * MS);
	begin = gw_now();
	for (size_t i = 0; i < sizeof(buf); i++) {
		byte = golden(i);
		cr_assert_eq(gw_chan_send(a, &byte, 1), 0);
	}
	cr_assert_eq(gw_chan_recv(b, buf, sizeof(buf)), 0);
	cr_assert_geq(gw_now() - begin, 30 * MS);
	for (size_t i = 0; i < sizeof(buf); i++)
		cr_assert_eq(buf[i], golden(i));
	gw_chan_free(a);
	gw_chan_free(b);
}

/* ---- dialer and listener ---- */

Test(mem_chan, a_dialed_channel_ends_at_the_accepted_one)
{
	struct gw_listener *listener;
	struct gw_dialer *dialer;
	struct gw_chan *a, *b;
	struct gw_err err;
	char buf[3];

	cr_assert_eq(gw_mem_net(64, &dialer, &listener), 0);
	cr_assert_eq(gw_listener_accept(listener, 0, -1, &err, &b), GW_CHAN_TIMEOUT);
	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &a), 0);
	cr_assert_eq(gw_listener_accept(listener, UINT64_MAX, -1, &err, &b), 0);
	cr_assert_eq(gw_chan_send(a, "hey", 3), 0);
	cr_assert_eq(gw_chan_recv(b, buf, 3), 0);
	cr_assert_eq(gw_listener_accept(listener, 0, -1, &err, &b), GW_CHAN_TIMEOUT);
	gw_chan_free(a);
	gw_chan_free(b);
	gw_dialer_free(dialer);
	gw_listener_free(listener);
}

Test(mem_chan, accept_takes_channels_in_the_order_they_were_dialed)
{
	struct gw_chan *near[10], *far;
	struct gw_listener *listener;
	struct gw_dialer *dialer;
	struct gw_err err;
	char byte;

	cr_assert_eq(gw_mem_net(64, &dialer, &listener), 0);
	for (int i = 0; i < 10; i++) {
		cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &near[i]), 0);
		byte = (char)i;
		cr_assert_eq(gw_chan_send(near[i], &byte, 1), 0);
	}
	gw_dialer_free(dialer);
	for (int i = 0; i < 10; i++) {
		cr_assert_eq(gw_listener_accept(listener, 0, -1, &err, &far), 0);
		cr_assert_eq(gw_chan_recv(far, &byte, 1), 0);
		cr_assert_eq(byte, i);
		gw_chan_free(far);
		gw_chan_free(near[i]);
	}
	gw_listener_free(listener);
}

Test(mem_chan, without_a_listener_dialing_is_refused_and_queued_peers_see_the_end)
{
	struct gw_listener *listener;
	struct gw_dialer *dialer;
	struct gw_chan *a, *other;
	struct gw_err err;
	char byte;

	cr_assert_eq(gw_mem_net(64, &dialer, &listener), 0);
	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &a), 0);
	gw_listener_free(listener);
	cr_assert_eq(gw_chan_recv(a, &byte, 1), GW_CHAN_EOF);
	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &other), -ECONNREFUSED);
	gw_chan_free(a);
	gw_dialer_free(dialer);
}

Test(mem_chan, a_full_queue_refuses_and_a_wake_cancels)
{
	struct gw_listener *listener;
	struct gw_dialer *dialer;
	struct gw_chan *near[128], *one;
	struct gw_event wake;
	struct gw_err err;

	cr_assert_eq(gw_mem_net(64, &dialer, &listener), 0);
	for (int i = 0; i < 128; i++)
		cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &near[i]), 0);
	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &one), -EAGAIN);
	cr_assert_eq(gw_event_init(&wake), 0);
	gw_event_set(&wake);
	cr_assert_eq(gw_dialer_dial(dialer, wake.fd, &err, &one), -ECANCELED);
	cr_assert_eq(gw_listener_accept(listener, UINT64_MAX, wake.fd, &err, &one),
		     GW_CHAN_WOKEN);
	gw_event_deinit(&wake);
	gw_listener_free(listener);
	gw_dialer_free(dialer);
	for (int i = 0; i < 128; i++)
		gw_chan_free(near[i]);
}

static unsigned int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

Test(mem_chan, no_descriptor_is_left_behind)
{
	unsigned int before = count_descriptors();
	struct gw_listener *listener;
	struct gw_dialer *dialer;
	struct gw_chan *a;
	struct gw_err err;

	for (int i = 0; i < 20; i++) {
		cr_assert_eq(gw_mem_net(64, &dialer, &listener), 0);
		cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &a), 0);
		gw_dialer_free(dialer);
		gw_listener_free(listener);
		gw_chan_free(a);
	}
	cr_assert_eq(count_descriptors(), before);
}
