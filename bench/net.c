/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Plain sockets and lines of JSON. */
#include "bench/net.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/util.h"
#include "transport/address.h"

#define CONNECT_TIMEOUT_MS 10000

static const char *reason(int code)
{
	return strerrordesc_np(-code) ?: "unknown error";
}

/* ---- listening ---- */

static int listen_at(const struct gw_endpoint *at)
{
	int on = 1, r;
	GW_AUTO_CLOSE int fd = socket(at->u.any.sa_family,
				      SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (at->u.any.sa_family != AF_UNIX &&
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)))
		return -errno;
	if (bind(fd, &at->u.any, at->len) || listen(fd, SOMAXCONN))
		return -errno;
	r = fd;
	fd = -1;
	return r;
}

int bench_listen(const char *address, struct gw_err *err)
{
	struct gw_endpoints endpoints;
	struct gw_address parsed;
	int fd = -EADDRNOTAVAIL;
	int r = gw_address_parse(address, err, &parsed);

	if (!r)
		r = gw_address_resolve(&parsed, true, err, &endpoints);
	if (r)
		return r;
	for (unsigned int i = 0; fd < 0 && i < endpoints.n; i++)
		fd = listen_at(&endpoints.list[i]);
	if (fd < 0)
		return gw_err_set(err, fd,
				  "cannot listen on %s: %s: choose another address, or "
				  "port 0 for any that is free",
				  address, reason(fd));
	return fd;
}

uint16_t bench_port_of(int fd)
{
	struct gw_endpoint here = {.len = sizeof(here.u)};

	if (getsockname(fd, &here.u.any, &here.len))
		return 0;
	if (here.u.any.sa_family == AF_INET6)
		return ntohs(here.u.v6.sin6_port);
	return here.u.any.sa_family == AF_INET ? ntohs(here.u.v4.sin_port) : 0;
}

/* No delay before the last, short packet of a page. Unix sockets have none. */
static void set_no_delay(int fd)
{
	int on = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int timeout_ms(uint64_t deadline)
{
	uint64_t now = gw_now(), left = deadline > now ? deadline - now : 0;

	if (deadline == UINT64_MAX)
		return -1;
	return (int)GW_MIN(left / 1000000 + 1, 1U << 30);
}

int bench_accept(int listener, int control, uint64_t deadline, struct gw_err *err)
{
	struct pollfd fds[] = {{.fd = listener, .events = POLLIN},
			       {.fd = control, .events = POLLIN}};
	int fd, n;

	for (;;) {
		n = poll(fds, 2, timeout_ms(deadline));
		if (n < 0 && errno != EINTR)
			return gw_err_errno(err, -errno, "cannot wait for a connection");
		if (n == 0 && gw_now() >= deadline)
			return gw_err_set(err, -ETIMEDOUT, "the peer did not connect");
		if (n > 0 && fds[1].revents)
			return gw_err_set(err, -EPIPE, "the peer gave up");
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			set_no_delay(fd);
			return fd;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
			return gw_err_errno(err, -errno, "cannot accept a connection");
	}
}

/* ---- connecting ---- */

static int await_connect(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(int);
	int code, n;

	do
		n = poll(&pfd, 1, CONNECT_TIMEOUT_MS);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : -ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len))
		return -errno;
	return -code;
}

static int connect_to(const struct gw_endpoint *to)
{
	GW_AUTO_CLOSE int fd = socket(to->u.any.sa_family,
				      SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r;

	if (fd < 0)
		return -errno;
	if (connect(fd, &to->u.any, to->len)) {
		r = errno == EINPROGRESS ? await_connect(fd) : -errno;
		if (r)
			return r;
	}
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK))
		return -errno;
	set_no_delay(fd);
	r = fd;
	fd = -1;
	return r;
}

int bench_connect(const char *address, struct gw_err *err)
{
	struct gw_endpoints endpoints;
	struct gw_address parsed;
	int r = gw_address_parse(address, err, &parsed);
	int fd = -EADDRNOTAVAIL;

	if (!r)
		r = gw_address_resolve(&parsed, false, err, &endpoints);
	if (r)
		return r;
	for (unsigned int i = 0; fd < 0 && i < endpoints.n; i++)
		fd = connect_to(&endpoints.list[i]);
	if (fd < 0)
		return gw_err_set(err, fd,
				  "cannot connect to %s: %s: is `godwit bench --listen "
				  "%s` running there, and no firewall on the way?",
				  address, reason(fd), address);
	return fd;
}

/* ---- receiving ---- */

/* 0: something is there, or the end. */
static int wait_readable(int fd, uint64_t deadline)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	int n;

	do
		n = poll(&pfd, 1, timeout_ms(deadline));
	while ((n < 0 && errno == EINTR) || (!n && gw_now() < deadline));
	if (n < 0)
		return -errno;
	return n ? 0 : -ETIMEDOUT;
}

int bench_recv_by(int fd, void *data, size_t len, uint64_t deadline)
{
	char *at = data;
	ssize_t n;
	int r;

	while (len) {
		r = wait_readable(fd, deadline);
		if (r)
			return r;
		n = recv(fd, at, len, MSG_DONTWAIT);
		if (n == 0)
			return -EPIPE;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		at += GW_MAX(n, 0);
		len -= (size_t)GW_MAX(n, 0);
	}
	return 0;
}

/* ---- lines ---- */

int bench_link_init(struct bench_link *link, int fd, struct gw_err *err)
{
	*link = (struct bench_link){.fd = fd, .line = malloc(BENCH_LINE_MAX)};
	if (link->line)
		return 0;
	gw_close(&link->fd);
	return gw_err_set(err, -ENOMEM, "out of memory");
}

void bench_link_deinit(struct bench_link *link)
{
	gw_close(&link->fd);
	free(link->line);
	*link = (struct bench_link){.fd = -1};
}

static int send_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

int bench_link_send(struct bench_link *link, json_t *object, struct gw_err *err)
{
	GW_AUTO_FREE char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;
	int r;

	json_decref(object);
	if (!text)
		return gw_err_set(err, -ENOMEM, "out of memory");
	/* the end of the line takes the place of the text's */
	text[len] = '\n';
	r = send_all(link->fd, text, len + 1);
	return r ? gw_err_errno(err, r, "cannot send to the peer") : 0;
}

/* Takes the first line out of the buffer if there is one: 1, or 0. */
static int take_line(struct bench_link *link, struct gw_err *err, json_t **ret)
{
	char *end = memchr(link->line, '\n', link->used);
	json_t *object;
	size_t len;

	if (!end)
		return 0;
	len = (size_t)(end - link->line);
	object = json_loadb(link->line, len, JSON_REJECT_DUPLICATES, NULL);
	link->used -= len + 1;
	memmove(link->line, end + 1, link->used);
	if (json_is_object(object)) {
		*ret = object;
		return 1;
	}
	json_decref(object);
	return gw_err_set(err, -EBADMSG, "the peer does not speak as godwit bench does");
}

int bench_link_recv(struct bench_link *link, uint64_t deadline, struct gw_err *err,
		    json_t **ret)
{
	ssize_t n;
	int r;

	for (;;) {
		r = take_line(link, err, ret);
		if (r)
			return r < 0 ? r : 0;
		if (link->used == BENCH_LINE_MAX)
			return gw_err_set(err, -EBADMSG,
					  "the peer sent a line that is too long");
		r = wait_readable(link->fd, deadline);
		if (r)
			return gw_err_errno(err, r, "waiting for the peer");
		n = recv(link->fd, link->line + link->used, BENCH_LINE_MAX - link->used,
			 MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return gw_err_set(err, -EPIPE, "the peer has gone");
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return gw_err_errno(err, -errno, "cannot hear the peer");
		link->used += (size_t)GW_MAX(n, 0);
	}
}
