/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The two halves of a remote fault, each alone and as bare as can be. */
#include "bench/bare.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#include "base/event.h"
#include "base/util.h"
#include "bench/serve.h"
#include "userfault/fault.h"

/* ---- over a socket ---- */

/* Exactly @len bytes; -EPIPE: the peer ended it before the first. */
static int receive(int fd, void *data, size_t len, bool spin)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = recv(fd, (char *)data + done, len - done,
				 spin ? MSG_DONTWAIT : 0);

		if (n == 0)
			return done ? -ECONNRESET : -EPIPE;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		done += (size_t)GW_MAX(n, 0);
	}
	return 0;
}

static int send_whole(int fd, const void *data, size_t len)
{
	ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

	/* it blocks, and a page fits into any buffer */
	return n < 0 ? -errno : n == (ssize_t)len ? 0 : -EIO;
}

int bench_bare_echo(int fd, bool spin, struct gw_err *err)
{
	char request[BENCH_ECHO_REQUEST], answer[BENCH_ECHO_ANSWER] = {0};
	int r = 0;

	while (!r) {
		r = receive(fd, request, sizeof(request), spin);
		if (!r)
			r = send_whole(fd, answer, sizeof(answer));
	}
	return r == -EPIPE ? 0 : gw_err_errno(err, r, "the ping-pong broke");
}

int bench_bare_ask(int fd, unsigned int count, bool spin, struct gw_hist *hist,
		   struct gw_err *err)
{
	char request[BENCH_ECHO_REQUEST] = {0}, answer[BENCH_ECHO_ANSWER];
	int r = 0;

	for (unsigned int i = 0; !r && i < count; i++) {
		uint64_t started = gw_now();

		r = send_whole(fd, request, sizeof(request));
		if (!r)
			r = receive(fd, answer, sizeof(answer), spin);
		gw_hist_record(hist, gw_now() - started);
	}
	return r ? gw_err_errno(err, r, "the ping-pong broke") : 0;
}

/* ---- a local fault ---- */

struct service {
	struct gw_uffd uffd;
	struct gw_event stop;
	bool spin;
	int result; /* the thread's until it is joined */
	char page[GW_UNIT_SIZE];
};

static int serve_some(struct service *service)
{
	struct gw_fault faults[16];
	int n = gw_fault_read(&service->uffd, faults, GW_ARRAY_SIZE(faults));
	int r = GW_MIN(n, 0);

	for (int i = 0; r >= 0 && i < n; i++)
		r = gw_fault_copy(&service->uffd, faults[i].address, service->page,
				  GW_UNIT_SIZE);
	return r;
}

static void *service_main(void *opaque)
{
	struct service *service = opaque;
	struct pollfd fds[] = {{.fd = service->uffd.fd, .events = POLLIN},
			       {.fd = service->stop.fd, .events = POLLIN}};
	int r = 0;

	while (r >= 0) {
		/* spinning: a look without waiting finds out about the stop too */
		int n = poll(fds, 2, service->spin ? 0 : -1);

		if (n > 0 && fds[1].revents)
			break;
		if (n > 0)
			r = serve_some(service);
	}
	service->result = GW_MIN(r, 0);
	/* a thread that waits for a page must not wait for ever */
	if (r < 0)
		gw_uffd_detach(&service->uffd);
	return NULL;
}

static void touch(struct bench_memory *memory, unsigned int count, struct gw_hist *hist)
{
	uint64_t units = memory->size >> GW_UNIT_SHIFT;

	for (uint64_t i = 0; i < GW_MIN(count, units); i++) {
		volatile uint8_t *page = memory->map + (i << GW_UNIT_SHIFT);
		uint64_t started = gw_now();

		(void)*page;
		gw_hist_record(hist, gw_now() - started);
	}
}

static int serve_and_touch(struct service *service, struct bench_memory *memory,
			   unsigned int count, struct gw_hist *hist)
{
	pthread_t thread;
	int r = gw_event_init(&service->stop);

	if (r)
		return r;
	r = -pthread_create(&thread, NULL, service_main, service);
	if (!r) {
		touch(memory, count, hist);
		gw_event_set(&service->stop);
		pthread_join(thread, NULL);
		r = service->result;
	}
	gw_event_deinit(&service->stop);
	return r;
}

int bench_bare_fault(struct bench_memory *memory, unsigned int count, bool spin,
		     struct gw_hist *hist, struct gw_err *err)
{
	struct service service = {.spin = spin};
	int r = bench_memory_drop(memory, err);

	if (!r)
		r = gw_uffd_attach(0, GW_UFFD_FAULTS, false, NULL, err, &service.uffd);
	if (r)
		return r;
	r = gw_fault_register(&service.uffd, (uint64_t)(uintptr_t)memory->map,
			      memory->size, err);
	if (!r) {
		r = serve_and_touch(&service, memory, count, hist);
		if (r)
			gw_err_errno(err, r, "serving local faults");
	}
	gw_uffd_detach(&service.uffd);
	return r;
}
