/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Channels over TCP and Unix sockets, their dialers and listeners. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/event.h"
#include "base/util.h"
#include "transport/net.h"

#define MS 1000000ULL

static const struct gw_net_options options = {
	.connect_timeout_ns = 5000 * MS,
	.user_timeout_ns = 12000 * MS,
};

/* A listener, a dialer to it, and both ends of one channel. */
struct fixture {
	struct gw_listener *listener;
	struct gw_dialer *dialer;
	struct gw_chan *near, *far;
	char dir[32];
};

static void connect_to(struct fixture *f, const char *listen, const char *dial)
{
	struct gw_err err = {0};

	cr_assert_eq(gw_listener_new(listen, &options, &err, &f->listener), 0, "%s",
		     err.text);
	if (!dial)
		dial = gw_listener_address(f->listener);
	cr_assert_eq(gw_dialer_new(dial, &options, &err, &f->dialer), 0, "%s", err.text);
	cr_assert_eq(gw_dialer_dial(f->dialer, -1, &err, &f->near), 0, "%s", err.text);
	cr_assert_eq(gw_listener_accept(f->listener, 5000 * MS, -1, &err, &f->far), 0,
		     "%s", err.text);
}

static void setup_tcp(struct fixture *f)
{
	connect_to(f, "127.0.0.1:0", NULL);
}

static void make_dir(struct fixture *f, char *address, size_t size)
{
	strcpy(f->dir, "/tmp/godwit-test-XXXXXX");
	cr_assert_not_null(mkdtemp(f->dir));
	snprintf(address, size, "unix:%s/s", f->dir);
}

static void setup_unix(struct fixture *f)
{
	char address[64];

	make_dir(f, address, sizeof(address));
	connect_to(f, address, NULL);
}

static void teardown(struct fixture *f)
{
	gw_chan_free(f->near);
	gw_chan_free(f->far);
	gw_dialer_free(f->dialer);
	gw_listener_free(f->listener);
	if (f->dir[0])
		cr_assert_eq(rmdir(f->dir), 0, "%s is not empty", f->dir);
}

static void assert_talks(struct fixture *f)
{
	char buf[8];

	cr_assert_eq(gw_chan_send(f->near, "ping", 5), 0);
	cr_assert_eq(gw_chan_recv(f->far, buf, 5), 0);
	cr_assert_str_eq(buf, "ping");
	cr_assert_eq(gw_chan_send(f->far, "pong", 5), 0);
	cr_assert_eq(gw_chan_recv(f->near, buf, 5), 0);
	cr_assert_str_eq(buf, "pong");
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
	nanosleep(&(struct timespec){.tv_nsec = 20 * MS}, NULL);
}

static int finish(struct call *call)
{
	pthread_join(call->thread, NULL);
	return call->result;
}

/* More than any socket buffer takes. */
#define PLENTY (64U << 20)

/* ---- connecting ---- */

static bool have_v6(void)
{
	struct sockaddr_in6 addr = {.sin6_family = AF_INET6,
				    .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	GW_AUTO_CLOSE int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && !bind(fd, (struct sockaddr *)&addr, sizeof(addr));
}

static void dialed_address(const struct fixture *f, const char *host, char *buf,
			   size_t size)
{
	snprintf(buf, size, "%s%s", host, strrchr(gw_listener_address(f->listener), ':'));
}

Test(tcp, ipv4_talks_and_port_0_is_resolved)
{
	struct fixture f = {0};
	char expected[96];

	setup_tcp(&f);
	cr_assert_str_neq(gw_listener_address(f.listener), "127.0.0.1:0");
	snprintf(expected, sizeof(expected), "tcp %s", gw_listener_address(f.listener));
	cr_assert_str_eq(f.near->name, expected);
	assert_talks(&f);
	teardown(&f);
}

Test(tcp, ipv6_talks)
{
	struct fixture f = {0};

	if (!have_v6())
		cr_skip_test("this host has no ::1");
	connect_to(&f, "[::1]:0", NULL);
	cr_assert_eq(strncmp(gw_listener_address(f.listener), "[::1]:", 6), 0);
	assert_talks(&f);
	teardown(&f);
}

Test(tcp, a_name_talks)
{
	struct fixture f = {0};

	connect_to(&f, "localhost:0", NULL);
	assert_talks(&f);
	teardown(&f);
}

Test(tcp, every_address_of_a_name_is_tried)
{
	struct fixture f = {0};
	struct gw_err err = {0};
	char address[64];

	/* "localhost" may be ::1 first, where nobody listens. */
	cr_assert_eq(gw_listener_new("127.0.0.1:0", &options, &err, &f.listener), 0);
	dialed_address(&f, "localhost", address, sizeof(address));
	cr_assert_eq(gw_dialer_new(address, &options, &err, &f.dialer), 0);
	cr_assert_eq(gw_dialer_dial(f.dialer, -1, &err, &f.near), 0, "%s", err.text);
	cr_assert_eq(gw_listener_accept(f.listener, 5000 * MS, -1, &err, &f.far), 0);
	assert_talks(&f);
	teardown(&f);
}

Test(tcp, the_ipv6_wildcard_takes_ipv4_too_and_names_it_plainly)
{
	struct fixture f = {0};
	struct gw_err err = {0};
	char address[64];

	if (!have_v6())
		cr_skip_test("this host has no ::1");
	cr_assert_eq(gw_listener_new("[::]:0", &options, &err, &f.listener), 0, "%s",
		     err.text);
	dialed_address(&f, "127.0.0.1", address, sizeof(address));
	cr_assert_eq(gw_dialer_new(address, &options, &err, &f.dialer), 0);
	cr_assert_eq(gw_dialer_dial(f.dialer, -1, &err, &f.near), 0, "%s", err.text);
	cr_assert_eq(gw_listener_accept(f.listener, 5000 * MS, -1, &err, &f.far), 0);
	cr_assert_eq(strncmp(f.far->name, "tcp 127.0.0.1:", 14), 0, "%s", f.far->name);
	assert_talks(&f);
	teardown(&f);
}

Test(tcp, a_listening_port_can_be_taken_again_at_once)
{
	struct fixture f = {0}, again = {0};
	char address[64];

	setup_tcp(&f);
	assert_talks(&f);
	snprintf(address, sizeof(address), "%s", gw_listener_address(f.listener));
	/* The accepting side closes first: its end lingers in TIME_WAIT. */
	f.far = gw_chan_free(f.far);
	teardown(&f);
	connect_to(&again, address, NULL);
	assert_talks(&again);
	teardown(&again);
}

/* ---- refusals ---- */

static void assert_says(const struct gw_err *err, const char *part)
{
	cr_assert(strstr(err->text, part), "\"%s\" lacks \"%s\"", err->text, part);
}

/* An address nobody listens at: one that was bound a moment ago. */
static void free_address(char *buf, size_t size)
{
	struct gw_listener *listener;
	struct gw_err err;

	cr_assert_eq(gw_listener_new("127.0.0.1:0", &options, &err, &listener), 0);
	snprintf(buf, size, "%s", gw_listener_address(listener));
	gw_listener_free(listener);
}

Test(tcp, a_refused_connection_asks_for_the_receiver)
{
	struct gw_dialer *dialer;
	struct gw_chan *chan;
	struct gw_err err = {0};
	char address[64], expected[300];

	free_address(address, sizeof(address));
	cr_assert_eq(gw_dialer_new(address, &options, &err, &dialer), 0);
	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &chan), -ECONNREFUSED);
	snprintf(expected, sizeof(expected),
		 "cannot connect to %s: Connection refused: is `godwit receive --listen "
		 "%s` running there?",
		 address, address);
	cr_assert_str_eq(err.text, expected);
	gw_dialer_free(dialer);
}

Test(tcp, a_refused_name_lists_what_was_tried)
{
	struct gw_dialer *dialer;
	struct gw_chan *chan;
	struct gw_err err = {0};
	char free[64], address[64];

	free_address(free, sizeof(free));
	snprintf(address, sizeof(address), "localhost%s", strchr(free, ':'));
	cr_assert_eq(gw_dialer_new(address, &options, &err, &dialer), 0);
	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &chan), -ECONNREFUSED);
	assert_says(&err, "Connection refused");
	assert_says(&err, address);
	gw_dialer_free(dialer);
}

Test(tcp, port_0_is_nothing_to_connect_to)
{
	struct gw_dialer *dialer;
	struct gw_err err = {0};

	cr_assert_eq(gw_dialer_new("127.0.0.1:0", &options, &err, &dialer), -EINVAL);
	assert_says(&err, "port 0");
}

Test(tcp, an_unknown_name_is_refused_when_the_dialer_is_made)
{
	struct gw_dialer *dialer;
	struct gw_err err = {0};

	cr_assert_lt(gw_dialer_new("nobody.invalid:1", &options, &err, &dialer), 0);
	assert_says(&err, "nobody.invalid");
}

Test(tcp, an_address_in_use_says_so)
{
	struct gw_listener *first, *second;
	struct gw_err err = {0};

	cr_assert_eq(gw_listener_new("127.0.0.1:0", &options, &err, &first), 0);
	cr_assert_eq(gw_listener_new(gw_listener_address(first), &options, &err, &second),
		     -EADDRINUSE);
	assert_says(&err, gw_listener_address(first));
	assert_says(&err, "Address already in use: another program listens there");
	gw_listener_free(first);
}

Test(tcp, an_address_of_another_host_says_so)
{
	struct gw_listener *listener;
	struct gw_err err = {0};

	cr_assert_eq(gw_listener_new("198.51.100.77:0", &options, &err, &listener),
		     -EADDRNOTAVAIL);
	assert_says(&err, "no interface of this host has that address");
}

/*
 * A listener whose queue is full drops further connection requests, as a host
 * that is down would: the connection stays under way.
 */
struct deaf {
	int fd, filler[8];
	char address[64];
};

static void deaf_init(struct deaf *deaf)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);

	deaf->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(deaf->fd, (struct sockaddr *)&addr, len), 0);
	cr_assert_eq(listen(deaf->fd, 0), 0);
	cr_assert_eq(getsockname(deaf->fd, (struct sockaddr *)&addr, &len), 0);
	for (int i = 0; i < 8; i++) {
		deaf->filler[i] =
			socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (connect(deaf->filler[i], (struct sockaddr *)&addr, len))
			cr_assert_eq(errno, EINPROGRESS);
	}
	snprintf(deaf->address, sizeof(deaf->address), "127.0.0.1:%u",
		 (unsigned int)ntohs(addr.sin_port));
}

static void deaf_deinit(struct deaf *deaf)
{
	gw_close(&deaf->fd);
	for (int i = 0; i < 8; i++)
		gw_close(&deaf->filler[i]);
}

Test(tcp, a_host_that_does_not_answer_is_given_up_at_the_limit)
{
	struct gw_net_options brief = {.connect_timeout_ns = 100 * MS};
	struct gw_dialer *dialer;
	struct gw_chan *chan;
	struct gw_err err = {0};
	struct deaf deaf;
	uint64_t begin;

	deaf_init(&deaf);
	cr_assert_eq(gw_dialer_new(deaf.address, &brief, &err, &dialer), 0);
	begin = gw_now();
	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &chan), -ETIMEDOUT);
	cr_assert_geq(gw_now() - begin, 100 * MS);
	assert_says(&err, "limit 0.1 s");
	gw_dialer_free(dialer);
	deaf_deinit(&deaf);
}

static void *set_soon(void *arg)
{
	nanosleep(&(struct timespec){.tv_nsec = 50 * MS}, NULL);
	gw_event_set(arg);
	return NULL;
}

Test(tcp, a_connection_under_way_can_be_called_off)
{
	struct gw_net_options patient = {0};
	struct gw_dialer *dialer;
	struct gw_event wake;
	struct gw_chan *chan;
	struct gw_err err = {0};
	struct deaf deaf;
	pthread_t thread;

	deaf_init(&deaf);
	cr_assert_eq(gw_event_init(&wake), 0);
	cr_assert_eq(gw_dialer_new(deaf.address, &patient, &err, &dialer), 0);
	pthread_create(&thread, NULL, set_soon, &wake);
	cr_assert_eq(gw_dialer_dial(dialer, wake.fd, &err, &chan), -ECANCELED);
	assert_says(&err, "called off");
	pthread_join(thread, NULL);
	gw_dialer_free(dialer);
	gw_event_deinit(&wake);
	deaf_deinit(&deaf);
}

Test(tcp, accepting_ends_at_its_limit_and_when_woken)
{
	struct gw_listener *listener;
	struct gw_event wake;
	struct gw_chan *chan;
	struct gw_err err = {0};
	pthread_t thread;
	uint64_t begin = gw_now();

	cr_assert_eq(gw_listener_new("127.0.0.1:0", &options, &err, &listener), 0);
	cr_assert_eq(gw_listener_accept(listener, 30 * MS, -1, &err, &chan),
		     GW_CHAN_TIMEOUT);
	cr_assert_geq(gw_now() - begin, 30 * MS);
	cr_assert_eq(gw_event_init(&wake), 0);
	pthread_create(&thread, NULL, set_soon, &wake);
	cr_assert_eq(gw_listener_accept(listener, UINT64_MAX, wake.fd, &err, &chan),
		     GW_CHAN_WOKEN);
	pthread_join(thread, NULL);
	gw_event_deinit(&wake);
	gw_listener_free(listener);
}

/* ---- streams ---- */

static void run_big_transfer(struct fixture *f)
{
	const size_t len = 8 << 20;
	GW_AUTO_FREE unsigned char *buf = malloc(len);
	struct iovec iov[2100];
	struct call call;

	/* More entries than one system call takes, odd lengths. */
	for (unsigned int i = 0; i < 2100; i++)
		iov[i] = (struct iovec){buf + (size_t)i * 3777, 3777};
	iov[2099].iov_len = len - 2099UL * 3777;
	memset(buf, 0xff, len);
	start(&call, send_bytes, f->near, len);
	cr_assert_eq(gw_chan_recvv(f->far, iov, 2100), 0);
	cr_assert_eq(finish(&call), 0);
	for (size_t i = 0; i < len; i++)
		cr_assert(!buf[i]);
	cr_assert_eq(f->near->sent, len);
	cr_assert_eq(f->far->received, len);
}

Test(tcp, thousands_of_pieces_arrive_whole)
{
	struct fixture f = {0};

	setup_tcp(&f);
	run_big_transfer(&f);
	teardown(&f);
}

Test(tcp, thousands_of_pieces_arrive_whole_over_a_unix_socket)
{
	struct fixture f = {0};

	setup_unix(&f);
	run_big_transfer(&f);
	teardown(&f);
}

Test(tcp, the_end_between_messages_is_told_from_the_end_within_one)
{
	struct fixture f = {0};
	char buf[8];

	setup_tcp(&f);
	cr_assert_eq(gw_chan_send(f.near, "1234567", 7), 0);
	f.near = gw_chan_free(f.near);
	cr_assert_eq(gw_chan_recv(f.far, buf, 4), 0);
	cr_assert_eq(gw_chan_recv(f.far, buf, 4), -EPIPE);
	cr_assert_eq(gw_chan_recv(f.far, buf, 4), GW_CHAN_EOF);
	teardown(&f);
}

static void run_shutdown(struct fixture *f)
{
	struct call in, out;
	char byte = 0;

	start(&in, receive_bytes, f->near, 10);
	start(&out, send_bytes, f->near, PLENTY);
	gw_chan_shutdown(f->near);
	cr_assert_eq(finish(&in), -ESHUTDOWN);
	cr_assert_eq(finish(&out), -ESHUTDOWN);
	cr_assert_eq(gw_chan_send(f->near, &byte, 1), -ESHUTDOWN);
	cr_assert_eq(gw_chan_recv(f->near, &byte, 1), -ESHUTDOWN);
	cr_assert_eq(gw_chan_wait(f->near, 0, -1), GW_CHAN_READY);
}

Test(tcp, shutdown_wakes_a_blocked_receiver_and_a_blocked_sender)
{
	struct fixture f = {0};

	setup_tcp(&f);
	run_shutdown(&f);
	teardown(&f);
}

Test(tcp, shutdown_wakes_both_on_a_unix_socket)
{
	struct fixture f = {0};

	setup_unix(&f);
	run_shutdown(&f);
	teardown(&f);
}

Test(tcp, sending_to_a_closed_peer_is_an_error_and_no_signal)
{
	struct fixture f = {0};
	struct call call;

	setup_tcp(&f);
	f.far = gw_chan_free(f.far);
	start(&call, send_bytes, f.near, PLENTY);
	cr_assert(finish(&call) == -EPIPE || call.result == -ECONNRESET);
	teardown(&f);
}

Test(tcp, a_reset_in_the_middle_of_a_message_is_reported_as_one)
{
	struct linger abort_on_close = {.l_onoff = 1};
	struct fixture f = {0};
	struct call call;

	setup_tcp(&f);
	cr_assert_eq(gw_chan_send(f.far, "1234", 4), 0);
	start(&call, receive_bytes, f.near, 10);
	/* Closing a second descriptor would not reset: close the only one. */
	cr_assert_eq(setsockopt(f.far->poll_fd, SOL_SOCKET, SO_LINGER, &abort_on_close,
				sizeof(abort_on_close)),
		     0);
	gw_close(&f.far->poll_fd);
	cr_assert_eq(finish(&call), -ECONNRESET);
	cr_assert_eq(f.near->received, 4);
	teardown(&f);
}

static void run_timeouts(struct fixture *f)
{
	struct call call;
	uint64_t begin;
	char byte;

	cr_assert_eq(gw_chan_set_timeout(f->near, 60 * MS), 0);
	begin = gw_now();
	cr_assert_eq(gw_chan_recv(f->near, &byte, 1), -ETIMEDOUT);
	/* The kernel counts in its own ticks, of up to 10 ms. */
	cr_assert_geq(gw_now() - begin, 50 * MS);
	start(&call, send_bytes, f->near, PLENTY);
	cr_assert_eq(finish(&call), -ETIMEDOUT);
	cr_assert_eq(gw_chan_set_timeout(f->near, 0), 0);
	start(&call, receive_bytes, f->near, 1);
	cr_assert_eq(gw_chan_send(f->far, &byte, 1), 0);
	cr_assert_eq(finish(&call), 0);
}

Test(tcp, receiving_and_sending_time_out)
{
	struct fixture f = {0};

	setup_tcp(&f);
	run_timeouts(&f);
	teardown(&f);
}

Test(tcp, receiving_and_sending_time_out_on_a_unix_socket)
{
	struct fixture f = {0};

	setup_unix(&f);
	run_timeouts(&f);
	teardown(&f);
}

Test(tcp, a_wait_tells_bytes_from_silence_from_the_end)
{
	struct fixture f = {0};
	char byte = 0;

	setup_tcp(&f);
	cr_assert_eq(gw_chan_wait(f.near, 0, -1), GW_CHAN_TIMEOUT);
	cr_assert_eq(gw_chan_send(f.far, &byte, 1), 0);
	cr_assert_eq(gw_chan_wait(f.near, 5000 * MS, -1), GW_CHAN_READY);
	cr_assert_eq(gw_chan_recv(f.near, &byte, 1), 0);
	cr_assert_eq(gw_chan_wait(f.near, 0, -1), GW_CHAN_TIMEOUT);
	gw_chan_shutdown(f.far);
	cr_assert_eq(gw_chan_wait(f.near, 5000 * MS, -1), GW_CHAN_READY);
	cr_assert_eq(gw_chan_recv(f.near, &byte, 1), GW_CHAN_EOF);
	teardown(&f);
}

/* ---- options ---- */

static int get_option(const struct gw_chan *chan, int level, int name)
{
	socklen_t len = sizeof(int);
	int value = -1;

	cr_assert_eq(getsockopt(chan->poll_fd, level, name, &value, &len), 0);
	return value;
}

static void assert_options(const struct gw_chan *chan)
{
	cr_assert_eq(get_option(chan, IPPROTO_TCP, TCP_NODELAY), 1);
	cr_assert_eq(get_option(chan, SOL_SOCKET, SO_KEEPALIVE), 1);
	cr_assert_eq(get_option(chan, IPPROTO_TCP, TCP_KEEPIDLE), 6);
	cr_assert_eq(get_option(chan, IPPROTO_TCP, TCP_KEEPINTVL), 2);
	cr_assert_eq(get_option(chan, IPPROTO_TCP, TCP_KEEPCNT), 3);
	cr_assert_eq(get_option(chan, IPPROTO_TCP, TCP_USER_TIMEOUT), 12000);
	cr_assert(fcntl(chan->poll_fd, F_GETFD) & FD_CLOEXEC);
	cr_assert_not(fcntl(chan->poll_fd, F_GETFL) & O_NONBLOCK);
}

Test(tcp, both_ends_have_the_tcp_options)
{
	struct fixture f = {0};

	setup_tcp(&f);
	assert_options(f.near);
	assert_options(f.far);
	cr_assert(fcntl(f.listener->poll_fd, F_GETFD) & FD_CLOEXEC);
	teardown(&f);
}

Test(tcp, extreme_user_timeouts_stay_within_what_the_kernel_takes)
{
	static const uint64_t timeouts[] = {1, MS, 1000 * MS, 100000000 * MS, UINT64_MAX};

	for (size_t i = 0; i < GW_ARRAY_SIZE(timeouts); i++) {
		struct gw_net_options extreme = {.connect_timeout_ns = 1000 * MS,
						 .user_timeout_ns = timeouts[i]};
		struct gw_listener *listener;
		struct gw_dialer *dialer;
		struct gw_chan *chan;
		struct gw_err err = {0};

		cr_assert_eq(gw_listener_new("127.0.0.1:0", &extreme, &err, &listener),
			     0);
		cr_assert_eq(gw_dialer_new(gw_listener_address(listener), &extreme, &err,
					   &dialer),
			     0);
		cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &chan), 0, "%s", err.text);
		cr_assert_gt(get_option(chan, IPPROTO_TCP, TCP_USER_TIMEOUT), 0);
		gw_chan_free(chan);
		gw_dialer_free(dialer);
		gw_listener_free(listener);
	}
}

/* ---- Unix sockets ---- */

Test(tcp, a_unix_socket_is_its_users_alone_and_goes_with_its_listener)
{
	struct fixture f = {0};
	const char *path;
	struct stat st;

	setup_unix(&f);
	path = gw_listener_address(f.listener) + strlen("unix:");
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600, "mode %o", st.st_mode);
	assert_talks(&f);
	/* teardown() fails if the file is still there. */
	teardown(&f);
}

Test(tcp, a_live_unix_socket_is_not_replaced_and_does_not_notice)
{
	struct gw_listener *second;
	struct gw_chan *chan;
	struct fixture f = {0};
	struct gw_err err = {0};

	setup_unix(&f);
	cr_assert_eq(
		gw_listener_new(gw_listener_address(f.listener), &options, &err, &second),
		-EADDRINUSE);
	assert_says(&err, "another program listens there");
	cr_assert_eq(gw_listener_accept(f.listener, 10 * MS, -1, &err, &chan),
		     GW_CHAN_TIMEOUT);
	assert_talks(&f);
	teardown(&f);
}

/* Leaves a socket file at @address that nobody has open. */
static void leave_stale(const char *address)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	GW_AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, address + strlen("unix:"));
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
}

Test(tcp, a_stale_unix_socket_is_replaced)
{
	struct fixture f = {0};
	char address[64];

	make_dir(&f, address, sizeof(address));
	leave_stale(address);
	connect_to(&f, address, NULL);
	assert_talks(&f);
	teardown(&f);
}

Test(tcp, dialing_a_stale_or_missing_unix_socket_asks_for_the_receiver)
{
	struct fixture f = {0};
	struct gw_err err = {0};
	char address[64];

	make_dir(&f, address, sizeof(address));
	cr_assert_eq(gw_dialer_new(address, &options, &err, &f.dialer), 0);
	cr_assert_eq(gw_dialer_dial(f.dialer, -1, &err, &f.near), -ENOENT);
	assert_says(&err, "is `godwit receive --listen unix:");
	leave_stale(address);
	cr_assert_eq(gw_dialer_dial(f.dialer, -1, &err, &f.near), -ECONNREFUSED);
	assert_says(&err, "is `godwit receive --listen unix:");
	unlink(address + strlen("unix:"));
	teardown(&f);
}

Test(tcp, a_file_that_is_no_socket_is_left_alone)
{
	struct fixture f = {0};
	struct gw_err err = {0};
	char address[64];
	const char *path = address + strlen("unix:");
	int fd;

	make_dir(&f, address, sizeof(address));
	fd = open(path, O_CREAT | O_CLOEXEC | O_WRONLY, 0600);
	gw_close(&fd);
	cr_assert_eq(gw_listener_new(address, &options, &err, &f.listener), -EEXIST);
	assert_says(&err, "not a socket");
	cr_assert_eq(unlink(path), 0);
	teardown(&f);
}

Test(tcp, a_file_that_took_the_place_of_the_socket_is_left_alone)
{
	struct fixture f = {0};
	struct gw_err err = {0};
	char address[64];
	const char *path = address + strlen("unix:");

	make_dir(&f, address, sizeof(address));
	cr_assert_eq(gw_listener_new(address, &options, &err, &f.listener), 0);
	cr_assert_eq(unlink(path), 0);
	leave_stale(address);
	f.listener = gw_listener_free(f.listener);
	cr_assert_eq(unlink(path), 0, "the other socket is gone");
	teardown(&f);
}

static void *accept_late(void *arg)
{
	struct fixture *f = arg;
	struct gw_err err;
	struct gw_chan *chan;

	nanosleep(&(struct timespec){.tv_nsec = 50 * MS}, NULL);
	cr_assert_eq(gw_listener_accept(f->listener, 1000 * MS, -1, &err, &chan), 0);
	gw_chan_free(chan);
	return NULL;
}

Test(tcp, a_full_queue_of_a_unix_socket_is_waited_for)
{
	struct fixture f = {0};
	struct gw_net_options brief = {.connect_timeout_ns = 30 * MS};
	struct gw_dialer *hasty;
	struct gw_chan *chans[8];
	struct gw_err err = {0};
	char address[64];
	pthread_t thread;
	int n = 0;

	make_dir(&f, address, sizeof(address));
	cr_assert_eq(gw_listener_new(address, &options, &err, &f.listener), 0);
	cr_assert_eq(listen(f.listener->poll_fd, 1), 0);
	cr_assert_eq(gw_dialer_new(address, &brief, &err, &hasty), 0);
	while (n < 8 && !gw_dialer_dial(hasty, -1, &err, &chans[n]))
		n++;
	cr_assert_lt(n, 8);
	cr_assert_eq(err.code, -ETIMEDOUT);
	cr_assert_eq(gw_dialer_new(address, &options, &err, &f.dialer), 0);
	pthread_create(&thread, NULL, accept_late, &f);
	cr_assert_eq(gw_dialer_dial(f.dialer, -1, &err, &f.near), 0, "%s", err.text);
	pthread_join(thread, NULL);
	while (n)
		gw_chan_free(chans[--n]);
	gw_dialer_free(hasty);
	teardown(&f);
}

/* ---- the link ---- */

Test(tcp, loopback_and_unix_sockets_have_no_link_speed)
{
	struct fixture f = {0}, local = {0};

	setup_tcp(&f);
	cr_assert_eq(gw_chan_link_speed(f.near), 0);
	teardown(&f);
	setup_unix(&local);
	cr_assert_eq(gw_chan_link_speed(local.near), 0);
	teardown(&local);
}

static void write_file(const char *dir, const char *name, const char *text)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	cr_assert_not_null(file);
	fputs(text, file);
	fclose(file);
}

Test(tcp, only_a_device_that_knows_its_speed_has_one)
{
	char dir[] = "/tmp/godwit-test-XXXXXX", sub[64], path[96];

	cr_assert_not_null(mkdtemp(dir));
	snprintf(sub, sizeof(sub), "%s/eth9", dir);
	cr_assert_eq(mkdir(sub, 0700), 0);
	write_file(sub, "speed", "10000\n");
	cr_assert_eq(gw_link_speed_at(dir, "eth9"), 0, "a virtual link");
	write_file(sub, "device", "");
	cr_assert_eq(gw_link_speed_at(dir, "eth9"), 10000);
	write_file(sub, "speed", "-1\n");
	cr_assert_eq(gw_link_speed_at(dir, "eth9"), 0);
	write_file(sub, "speed", "0\n");
	cr_assert_eq(gw_link_speed_at(dir, "eth9"), 0);
	write_file(sub, "speed", "");
	cr_assert_eq(gw_link_speed_at(dir, "eth9"), 0);
	cr_assert_eq(gw_link_speed_at(dir, "eth8"), 0);
	snprintf(path, sizeof(path), "%s/speed", sub);
	unlink(path);
	snprintf(path, sizeof(path), "%s/device", sub);
	unlink(path);
	rmdir(sub);
	rmdir(dir);
}

/* ---- resources ---- */

static unsigned int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

Test(tcp, no_descriptor_is_left_behind)
{
	unsigned int before = count_descriptors();
	struct gw_listener *listener;
	struct gw_dialer *dialer;
	struct gw_chan *chan;
	struct gw_err err;
	char address[64];

	free_address(address, sizeof(address));
	cr_assert_eq(gw_dialer_new(address, &options, &err, &dialer), 0);
	cr_assert_eq(gw_dialer_dial(dialer, -1, &err, &chan), -ECONNREFUSED);
	gw_dialer_free(dialer);
	cr_assert_eq(gw_listener_new("198.51.100.77:0", &options, &err, &listener),
		     -EADDRNOTAVAIL);
	for (int i = 0; i < 3; i++) {
		struct fixture f = {0};

		setup_tcp(&f);
		teardown(&f);
	}
	cr_assert_eq(count_descriptors(), before);
}
