/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the kernel says of bytes that do not get away. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "base/util.h"
#include "transport/net.h"

#define MS 1000000ULL

static const struct gw_net_options options = {.connect_timeout_ns = 5000 * MS};

static void connect_over(const char *address, struct gw_chan **ret_near,
			 struct gw_chan **ret_far)
{
	struct gw_listener *listener;
	struct gw_dialer *dialer;
	struct gw_err err = {0};

	cr_assert_eq(gw_listener_new(address, &options, &err, &listener), 0, "%s",
		     err.text);
	cr_assert_eq(
		gw_dialer_new(gw_listener_address(listener), &options, &err, &dialer), 0);
	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, ret_near), 0, "%s", err.text);
	cr_assert_eq(gw_listener_accept(listener, 5000 * MS, -1, &err, ret_far), 0);
	gw_dialer_free(dialer);
	gw_listener_free(listener);
}

/* Until nothing more goes in: the other end does not read. */
static void fill(struct gw_chan *chan)
{
	static const uint8_t piece[1 << 20];
	int r = 0;

	cr_assert_eq(gw_chan_set_timeout(chan, 300 * MS), 0);
	for (int i = 0; i < 256 && !r; i++)
		r = gw_chan_send(chan, piece, sizeof(piece));
	cr_assert_eq(r, -ETIMEDOUT);
}

Test(backlog, a_peer_that_does_not_read_is_to_blame)
{
	struct gw_chan *near, *far;
	struct gw_chan_backlog before, after;

	connect_over("127.0.0.1:0", &near, &far);
	cr_assert(gw_chan_backlog(near, &before));
	cr_assert_eq(before.unsent, 0);
	fill(near);
	cr_assert(gw_chan_backlog(near, &after));
	cr_assert_gt(after.unsent, 0);
	cr_assert_gt(after.peer_ns, before.peer_ns + 100 * MS);
	gw_chan_free(near);
	gw_chan_free(far);
}

Test(backlog, a_peer_that_has_read_all_has_not_been_waited_for)
{
	struct gw_chan *near, *far;
	struct gw_chan_backlog backlog;
	uint8_t byte = 1;

	connect_over("127.0.0.1:0", &near, &far);
	for (int i = 0; i < 100; i++) {
		cr_assert_eq(gw_chan_send(near, &byte, 1), 0);
		cr_assert_eq(gw_chan_recv(far, &byte, 1), 0);
	}
	cr_assert(gw_chan_backlog(near, &backlog));
	cr_assert_eq(backlog.unsent, 0);
	cr_assert_eq(backlog.peer_ns, 0);
	gw_chan_free(near);
	gw_chan_free(far);
}

Test(backlog, of_other_channels_nobody_knows)
{
	struct gw_chan *near, *far;
	struct gw_chan_backlog backlog;
	char address[64];

	snprintf(address, sizeof(address), "unix:/tmp/godwit-backlog-%d", (int)getpid());
	connect_over(address, &near, &far);
	cr_assert_not(gw_chan_backlog(near, &backlog));
	gw_chan_free(near);
	gw_chan_free(far);
	cr_assert_eq(gw_mem_pair(4096, &near, &far), 0);
	cr_assert_not(gw_chan_backlog(near, &backlog));
	gw_chan_free(near);
	gw_chan_free(far);
}
