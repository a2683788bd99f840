/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory over plain streams. */
#include "bench/raw.h"

#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/util.h"

/* A call moves at most so much; more made no difference. */
#define PIECE GW_EXTENT_SIZE
/* A peer that is silent for so long is not coming back. */
#define SILENCE_S 30

struct stream {
	pthread_t thread;
	int fd;
	uint8_t *at;
	uint64_t size;
	int result;
};

/* The part of stream @i of @n; whole extents, so that huge pages are not shared. */
static void take_part(struct stream *stream, const struct bench_memory *memory,
		      uint64_t size, unsigned int n, unsigned int i)
{
	uint64_t extents = size / GW_EXTENT_SIZE;
	uint64_t first = extents * i / n, last = extents * (i + 1) / n;

	stream->at = memory->map + first * GW_EXTENT_SIZE;
	stream->size = (last - first) * GW_EXTENT_SIZE;
}

static void *send_part(void *opaque)
{
	struct stream *stream = opaque;
	uint64_t done = 0;

	while (done < stream->size) {
		ssize_t n = send(stream->fd, stream->at + done,
				 GW_MIN(stream->size - done, PIECE), MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR) {
			stream->result = -errno;
			break;
		}
		done += (uint64_t)GW_MAX(n, 0);
	}
	return NULL;
}

static void *receive_part(void *opaque)
{
	struct stream *stream = opaque;
	uint64_t done = 0;

	while (done < stream->size) {
		ssize_t n = recv(stream->fd, stream->at + done,
				 GW_MIN(stream->size - done, PIECE), 0);

		if (n == 0 || (n < 0 && errno != EINTR)) {
			stream->result = n ? -errno : -EPIPE;
			break;
		}
		done += (uint64_t)GW_MAX(n, 0);
	}
	return NULL;
}

static void *read_part(void *opaque)
{
	struct stream *stream = opaque;

	/* nothing in zero pages is a 1: memchr() reads all, with the widest loads */
	if (memchr(stream->at, 1, stream->size))
		stream->result = -EINVAL;
	return NULL;
}

static int run_all(struct stream *streams, unsigned int n, void *(*main)(void *))
{
	unsigned int started = 0;
	int r = 0;

	for (; !r && started < n; started += !r)
		r = -pthread_create(&streams[started].thread, NULL, main,
				    &streams[started]);
	/* those that run see the end of their sockets, which the caller closes */
	for (unsigned int i = 0; r && i < started; i++)
		shutdown(streams[i].fd, SHUT_RDWR);
	for (unsigned int i = 0; i < started; i++) {
		pthread_join(streams[i].thread, NULL);
		r = r ? r : streams[i].result;
	}
	return r;
}

static int move(const int *fds, unsigned int n, const struct bench_memory *memory,
		uint64_t size, void *(*main)(void *), struct gw_err *err)
{
	struct timeval silence = {.tv_sec = SILENCE_S};
	struct stream streams[BENCH_STREAMS_MAX] = {0};
	int r;

	for (unsigned int i = 0; i < n; i++) {
		streams[i].fd = fds[i];
		take_part(&streams[i], memory, size, n, i);
		setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof(silence));
		setsockopt(fds[i], SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof(silence));
	}
	r = run_all(streams, n, main);
	return r ? gw_err_errno(err, r, "a plain stream broke") : 0;
}

int bench_raw_send(const int *fds, unsigned int n, const struct bench_memory *memory,
		   uint64_t size, struct gw_err *err)
{
	return move(fds, n, memory, size, send_part, err);
}

int bench_raw_receive(const int *fds, unsigned int n, const struct bench_memory *memory,
		      uint64_t size, struct gw_err *err)
{
	return move(fds, n, memory, size, receive_part, err);
}

double bench_raw_read(const struct bench_memory *memory, unsigned int n)
{
	struct stream streams[BENCH_STREAMS_MAX] = {0};
	uint64_t started;

	for (unsigned int i = 0; i < n; i++) {
		streams[i].fd = -1;
		take_part(&streams[i], memory, memory->size, n, i);
	}
	started = gw_now();
	if (run_all(streams, n, read_part))
		return 0;
	return (double)(gw_now() - started) / 1e9;
}
