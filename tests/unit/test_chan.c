/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The loops over partial transfers, against a channel that does as it is told. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/event.h"
#include "base/util.h"
#include "transport/chan.h"
#include "transport/net.h"

/* Moves at most step bytes an attempt, into or out of a plain array. */
struct fake {
	struct gw_chan chan;
	size_t step;
	unsigned int interrupts; /* attempts that still fail with EINTR */
	unsigned int most_entries;
	unsigned int attempts;
	int fail_with; /* once limit has been reached; 0: end of stream */
	size_t limit;  /* bytes until then */
	size_t at;
	unsigned char data[65536];
};

static ssize_t fake_move(struct fake *fake, const struct iovec *iov, unsigned int n,
			 bool out)
{
	size_t left = GW_MIN(fake->step, fake->limit - fake->at), moved = 0;

	fake->attempts++;
	fake->most_entries = GW_MAX(fake->most_entries, n);
	if (fake->interrupts) {
		fake->interrupts--;
		return -EINTR;
	}
	if (fake->at == fake->limit)
		return fake->fail_with;
	for (unsigned int i = 0; i < n && left; i++) {
		size_t len = GW_MIN(iov[i].iov_len, left);

		if (!len)
			continue;
		if (out)
			memcpy(fake->data + fake->at, iov[i].iov_base, len);
		else
			memcpy(iov[i].iov_base, fake->data + fake->at, len);
		fake->at += len;
		left -= len;
		moved += len;
	}
	return (ssize_t)moved;
}

static ssize_t fake_sendv(struct gw_chan *chan, const struct iovec *iov, unsigned int n)
{
	return fake_move((struct fake *)chan, iov, n, true);
}

static ssize_t fake_recvv(struct gw_chan *chan, const struct iovec *iov, unsigned int n)
{
	return fake_move((struct fake *)chan, iov, n, false);
}

static void fake_shutdown(struct gw_chan *chan)
{
}

static void fake_free(struct gw_chan *chan)
{
	free(chan);
}

static const struct gw_chan_ops fake_ops = {
	.sendv = fake_sendv,
	.recvv = fake_recvv,
	.shutdown = fake_shutdown,
	.free = fake_free,
};

static struct fake *fake_new(size_t step)
{
	struct fake *fake = calloc(1, sizeof(*fake));

	fake->chan.ops = &fake_ops;
	fake->chan.poll_fd = -1;
	fake->step = step;
	fake->limit = sizeof(fake->data);
	for (size_t i = 0; i < sizeof(fake->data); i++)
		fake->data[i] = (unsigned char)(i * 7 + i / 256);
	return fake;
}

Test(chan, bytes_sent_in_steps_of_any_size_arrive_whole)
{
	unsigned char data[1000];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)(i * 13);
	for (size_t step = 1; step < 70; step++) {
		struct fake *fake = fake_new(step);

		cr_assert_eq(gw_chan_send(&fake->chan, data, sizeof(data)), 0);
		cr_assert_eq(memcmp(fake->data, data, sizeof(data)), 0, "step %zu", step);
		gw_chan_free(&fake->chan);
	}
}

Test(chan, pieces_received_in_steps_of_any_size_are_filled_in_order)
{
	for (size_t step = 1; step < 70; step++) {
		struct fake *fake = fake_new(step);
		unsigned char got[100];
		struct iovec iov[] = {
			{got, 1}, {got + 1, 0}, {got + 1, 33}, {got + 34, 66}};

		cr_assert_eq(gw_chan_recvv(&fake->chan, iov, 4), 0);
		cr_assert_eq(memcmp(fake->data, got, sizeof(got)), 0, "step %zu", step);
		gw_chan_free(&fake->chan);
	}
}

Test(chan, an_attempt_never_has_more_than_1024_entries)
{
	struct fake *fake = fake_new(1 << 20);
	struct iovec iov[3000];

	for (unsigned int i = 0; i < 3000; i++)
		iov[i] = (struct iovec){"x", 1};
	cr_assert_eq(gw_chan_sendv(&fake->chan, iov, 3000), 0);
	cr_assert_eq(fake->at, 3000);
	cr_assert_eq(fake->most_entries, 1024);
	gw_chan_free(&fake->chan);
}

Test(chan, nothing_to_move_needs_no_attempt)
{
	struct fake *fake = fake_new(1);
	struct iovec iov[] = {{NULL, 0}, {NULL, 0}};

	cr_assert_eq(gw_chan_send(&fake->chan, NULL, 0), 0);
	cr_assert_eq(gw_chan_recv(&fake->chan, NULL, 0), 0);
	cr_assert_eq(gw_chan_sendv(&fake->chan, iov, 2), 0);
	cr_assert_eq(gw_chan_recvv(&fake->chan, iov, 0), 0);
	cr_assert_eq(fake->attempts, 0);
	gw_chan_free(&fake->chan);
}

Test(chan, an_interrupted_attempt_is_made_again)
{
	struct fake *fake = fake_new(10);
	char data[25];

	fake->interrupts = 3;
	cr_assert_eq(gw_chan_recv(&fake->chan, data, sizeof(data)), 0);
	cr_assert_eq(fake->attempts, 3 + 3);
	gw_chan_free(&fake->chan);
}

Test(chan, the_end_before_the_first_byte_is_not_an_error)
{
	struct fake *fake = fake_new(10);
	char data[25];

	fake->limit = 50;
	cr_assert_eq(gw_chan_recv(&fake->chan, data, 25), 0);
	cr_assert_eq(gw_chan_recv(&fake->chan, data, 25), 0);
	cr_assert_eq(gw_chan_recv(&fake->chan, data, 25), GW_CHAN_EOF);
	gw_chan_free(&fake->chan);
}

Test(chan, the_end_within_a_message_is_a_broken_pipe)
{
	struct fake *fake = fake_new(10);
	char data[25];

	fake->limit = 49;
	cr_assert_eq(gw_chan_recv(&fake->chan, data, 25), 0);
	cr_assert_eq(gw_chan_recv(&fake->chan, data, 25), -EPIPE);
	gw_chan_free(&fake->chan);
}

Test(chan, an_error_passes_through_after_the_bytes_before_it_are_counted)
{
	struct fake *fake = fake_new(10);
	char data[64] = {0};

	fake->limit = 35;
	fake->fail_with = -ECONNRESET;
	cr_assert_eq(gw_chan_send(&fake->chan, data, 64), -ECONNRESET);
	cr_assert_eq(fake->chan.sent, 35);
	fake->at = 0;
	cr_assert_eq(gw_chan_recv(&fake->chan, data, 64), -ECONNRESET);
	cr_assert_eq(fake->chan.received, 35);
	gw_chan_free(&fake->chan);
}

Test(chan, a_sender_that_moves_nothing_fails_and_does_not_spin)
{
	struct fake *fake = fake_new(10);
	char data[64] = {0};

	fake->limit = 0;
	cr_assert_eq(gw_chan_send(&fake->chan, data, 64), -EPIPE);
	gw_chan_free(&fake->chan);
}

Test(chan, calls_after_shutdown_fail_without_an_attempt)
{
	struct fake *fake = fake_new(10);
	char data[4] = {0};

	gw_chan_shutdown(&fake->chan);
	cr_assert_eq(gw_chan_send(&fake->chan, data, 4), -ESHUTDOWN);
	cr_assert_eq(gw_chan_recv(&fake->chan, data, 4), -ESHUTDOWN);
	cr_assert_eq(fake->attempts, 0);
	gw_chan_free(&fake->chan);
}

Test(chan, freeing_nothing_is_nothing)
{
	cr_assert_null(gw_chan_free(NULL));
	cr_assert_null(gw_dialer_free(NULL));
	cr_assert_null(gw_listener_free(NULL));
}

/* ---- waiting ---- */

Test(chan, a_wait_ends_at_its_limit)
{
	uint64_t begin = gw_now();

	cr_assert_eq(gw_net_poll(-1, 0, gw_net_deadline(30000000), -1), GW_CHAN_TIMEOUT);
	cr_assert_geq(gw_now() - begin, 30000000);
}

Test(chan, the_longest_time_limit_is_none)
{
	cr_assert_eq(gw_net_deadline(UINT64_MAX), UINT64_MAX);
	cr_assert_eq(gw_net_deadline(UINT64_MAX - 1), UINT64_MAX);
}

Test(chan, the_wake_descriptor_goes_before_bytes)
{
	struct gw_event bytes, wake;

	cr_assert_eq(gw_event_init(&bytes), 0);
	cr_assert_eq(gw_event_init(&wake), 0);
	gw_event_set(&bytes);
	cr_assert_eq(gw_net_poll(bytes.fd, POLLIN, UINT64_MAX, wake.fd), GW_CHAN_READY);
	gw_event_set(&wake);
	cr_assert_eq(gw_net_poll(bytes.fd, POLLIN, UINT64_MAX, wake.fd), GW_CHAN_WOKEN);
	gw_event_deinit(&bytes);
	gw_event_deinit(&wake);
}

Test(chan, a_closed_descriptor_is_an_error_and_no_endless_loop)
{
	struct gw_event gone;
	int fd;

	cr_assert_eq(gw_event_init(&gone), 0);
	fd = gone.fd;
	gw_event_deinit(&gone);
	cr_assert_eq(gw_net_poll(fd, POLLIN, UINT64_MAX, -1), -EBADF);
}

static void ignore_signal(int sig)
{
}

static void *keep_signalling(void *arg)
{
	pthread_t *to = arg;

	for (int i = 0; i < 60; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
		pthread_kill(*to, SIGUSR1);
	}
	return NULL;
}

Test(chan, signals_do_not_stretch_a_wait)
{
	struct sigaction action = {.sa_handler = ignore_signal};
	pthread_t self = pthread_self(), thread;
	uint64_t begin, took;

	sigaction(SIGUSR1, &action, NULL);
	begin = gw_now();
	pthread_create(&thread, NULL, keep_signalling, &self);
	cr_assert_eq(gw_net_poll(-1, 0, gw_net_deadline(50000000), -1), GW_CHAN_TIMEOUT);
	took = gw_now() - begin;
	pthread_join(thread, NULL);
	cr_assert_geq(took, 50000000);
	/* With the time starting over at each signal it would be 350 ms. */
	cr_assert_lt(took, 250000000, "took %lu ns", took);
}
