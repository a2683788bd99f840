/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine, memory to memory: mode offline, which is one round over all of
 * it, with a guest that does nothing and has no device state. The time is that
 * of godwit_source_run(): connecting, agreeing and committing are in it.
 */
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "bench/raw.h"
#include "bench/run.h"
#include "bench/serve.h"
#include "bench/source.h"

static int stream_once(struct bench *bench, enum bench_transport transport,
		       unsigned int channels, struct gw_err *err, struct bench_cost *ret)
{
	char address[BENCH_ADDRESS_MAX], number[16];
	double cpu = bench_cpu_seconds();
	struct bench_source source;
	uint64_t started = 0;
	json_t *answer;
	int r;

	snprintf(number, sizeof(number), "%u", channels);
	r = bench_source_init(&source, &bench->memory, "offline", number, NULL, err);
	if (!r)
		r = bench_peer_ask(&bench->peer,
				   json_pack("{s:s, s:s}", "do", "stream", "transport",
					     bench_transport_name(transport)),
				   err, &answer);
	if (!r) {
		r = bench_peer_where(&bench->peer, answer, address, sizeof(address), err);
		json_decref(answer);
		started = gw_now();
		if (!r)
			r = godwit_source_run(source.handle, address, err);
		ret->seconds = (double)(gw_now() - started) / 1e9;
	}
	if (!r)
		r = bench_peer_hear(&bench->peer, BENCH_PATIENCE, err, &answer);
	bench_source_deinit(&source);
	if (r)
		return r;
	ret->cpu = bench_cpu_seconds() - cpu;
	ret->peer_cpu =
		bench->config->to ? json_number_value(json_object_get(answer, "cpu")) : 0;
	json_decref(answer);
	return 0;
}

/* Zero pages are not sent but looked at: no socket says how fast that can be. */
static int ceiling_once(struct bench *bench, enum bench_pages pages,
			enum bench_transport transport, unsigned int channels,
			struct gw_err *err, struct bench_cost *ret)
{
	if (pages != BENCH_PAGES_ZERO)
		return bench_raw_once(bench, transport, channels, err, ret);
	*ret = (struct bench_cost){.seconds = bench_raw_read(&bench->memory, channels)};
	return ret->seconds > 0 ? 0 : gw_err_set(err, -EIO, "the memory is not zero");
}

static int drop_if_cold(struct bench *bench, struct gw_err *err)
{
	if (!bench->config->cold)
		return 0;
	return bench_peer_ask(&bench->peer, json_pack("{s:s}", "do", "drop"), err, NULL);
}

static int measure_pair(struct bench *bench, enum bench_pages pages,
			enum bench_transport transport, unsigned int channels,
			struct bench_costs *ceilings, struct bench_costs *costs,
			struct gw_err *err)
{
	struct bench_cost ceiling, cost;
	int r = drop_if_cold(bench, err);

	if (!r)
		r = ceiling_once(bench, pages, transport, channels, err, &ceiling);
	if (!r)
		r = drop_if_cold(bench, err);
	if (!r)
		r = stream_once(bench, transport, channels, err, &cost);
	if (r)
		return r;
	bench_costs_add(ceilings, bench->memory.size, &ceiling);
	bench_costs_add(costs, bench->memory.size, &cost);
	return 0;
}

static int measure(struct bench *bench, enum bench_pages pages,
		   enum bench_transport transport, unsigned int channels,
		   struct gw_err *err)
{
	struct bench_costs unmeasured = {0}, ceilings = {0}, costs = {0};
	const char *cold = bench->config->cold ? ", cold" : "";
	char what[64];
	int r;

	bench_say(bench, "stream, %s, %s, %u channels", bench_pages_name(pages),
		  bench_transport_name(transport), channels);
	snprintf(what, sizeof(what),
		 pages == BENCH_PAGES_ZERO ? "reading memory, %u thread%s%s"
					   : "raw sockets, %u stream%s%s",
		 channels, channels == 1 ? "" : "s", cold);
	/* warms up */
	r = measure_pair(bench, pages, transport, channels, &unmeasured, &unmeasured,
			 err);
	for (unsigned int i = 0; !r && i < bench->config->repeat; i++)
		r = measure_pair(bench, pages, transport, channels, &ceilings, &costs,
				 err);
	if (r)
		return r;
	return bench_costs_report(bench, "stream",
				  json_pack("{s:i, s:s, s:s}", "channels", channels,
					    "transport", bench_transport_name(transport),
					    "pages", bench_pages_name(pages)),
				  &costs, what, &ceilings);
}

static int measure_all(struct bench *bench, enum bench_pages pages, struct gw_err *err)
{
	const struct bench_config *config = bench->config;
	int r = 0;

	bench_pages_fill(pages, config->seed, bench->memory.map, bench->memory.size);
	for (unsigned int t = 0; t < BENCH_N_TRANSPORTS; t++)
		for (unsigned int c = 0; !r && c < config->n_channels; c++)
			if (config->transports & 1U << t)
				r = measure(bench, pages, (enum bench_transport)t,
					    config->channels[c], err);
	return r;
}

int bench_run_stream(struct bench *bench, struct gw_err *err)
{
	int r = 0;

	for (unsigned int i = 0; !r && i < BENCH_N_PAGES; i++)
		if (bench->config->pages & 1U << i)
			r = measure_all(bench, (enum bench_pages)i, err);
	return r;
}
