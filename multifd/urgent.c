/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The urgent lane at the source: page requests in, pages out. */
#include "multifd/urgent.h"

#include <string.h>

#include "base/priority.h"

struct gw_urgent {
	struct gw_urgent_config config;
	struct gw_packer packer;
	pthread_t thread;
};

static void fail(struct gw_urgent *urgent, int code, const char *what)
{
	struct gw_err err = {0};

	gw_err_errno(&err, code, "urgent channel (%s): %s", urgent->config.chan->name,
		     what);
	urgent->config.failed(urgent->config.opaque, &err);
}

/*
 * Sends the page even when bulk has taken it: it may sit behind megabytes in a
 * socket, and memory holds still, so the copy that comes second is the same.
 */
static int answer(struct gw_urgent *urgent, const struct gw_request *request)
{
	const struct gw_memory_region *region =
		&urgent->config.memory->regions[request->region];
	uint64_t page_units = gw_memory_page_units(region);
	uint64_t first = gw_align_down(request->unit, page_units);
	uint64_t extent = gw_align_down(first, GW_EXTENT_UNITS);
	uint64_t data[GW_MASK_WORDS] = {0}, zero[GW_MASK_WORDS] = {0};
	uint64_t *mask = gw_memory_is_backed(region, first) ? data : zero;
	int r;

	for (uint64_t i = first - extent; i < first - extent + page_units; i++)
		mask[i / 64] |= 1ULL << (i % 64);
	gw_bitmap_clear_range(urgent->config.todo, region->first_unit + first,
			      page_units);
	r = gw_packer_send(&urgent->packer, request->region, extent, data, zero);
	/* After the page, since bulk takes the queue's lock too. Full: enough is hot. */
	(void)gw_queue_put(urgent->config.hot, region->first_unit + extent);
	return r;
}

static bool request_valid(const struct gw_urgent *urgent,
			  const struct gw_request *request)
{
	return request->region < urgent->config.memory->n_regions &&
	       request->unit < urgent->config.memory->regions[request->region].units;
}

static void *urgent_main(void *arg)
{
	struct gw_urgent *urgent = arg;
	uint8_t buf[GW_REQUEST_LEN];
	struct gw_request request;
	int r;

	gw_priority_raise();
	for (;;) {
		r = gw_chan_recv(urgent->config.chan, buf, sizeof(buf));
		if (r == GW_CHAN_EOF) {
			fail(urgent, -ECONNRESET, "closed by the destination");
			return NULL;
		}
		if (r) {
			fail(urgent, r, "receiving a page request");
			return NULL;
		}
		if (gw_request_decode(buf, &request) ||
		    !request_valid(urgent, &request)) {
			fail(urgent, -EPROTO, "a request for memory that is not there");
			return NULL;
		}
		r = answer(urgent, &request);
		if (r) {
			fail(urgent, r, "sending a page");
			return NULL;
		}
	}
}

int gw_urgent_start(const struct gw_urgent_config *config, struct gw_err *err,
		    struct gw_urgent **ret)
{
	struct gw_urgent *urgent = calloc(1, sizeof(*urgent));
	int r;

	if (!urgent)
		return gw_err_set(err, -ENOMEM, "out of memory for the urgent channel");
	urgent->config = *config;
	/* No limit, no compression: a page alone gains nothing and the guest waits. */
	r = gw_packer_init(&urgent->packer, config->memory, config->chan,
			   config->counters, NULL, GW_COMPRESS_NONE);
	if (!r)
		r = -pthread_create(&urgent->thread, NULL, urgent_main, urgent);
	if (r) {
		free(urgent);
		return gw_err_errno(err, r, "starting the urgent channel");
	}
	*ret = urgent;
	return 0;
}

struct gw_urgent *gw_urgent_free(struct gw_urgent *urgent)
{
	if (!urgent)
		return NULL;
	pthread_join(urgent->thread, NULL);
	gw_packer_deinit(&urgent->packer);
	free(urgent);
	return NULL;
}
