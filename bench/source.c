/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A source of the engine with everything it needs. */
#include "bench/source.h"

#include "base/err.h"
#include "base/util.h"

static int set_all(godwit_options *options, const char *mode, const char *channels,
		   const char *bandwidth, godwit_error *err)
{
	int r = godwit_options_set(options, "mode", mode, err);

	if (!r)
		r = godwit_options_set(options, "channels", channels, err);
	if (!r && bandwidth)
		r = godwit_options_set(options, "bandwidth", bandwidth, err);
	return r;
}

int bench_source_init(struct bench_source *source, const struct bench_memory *memory,
		      const char *mode, const char *channels, const char *bandwidth,
		      godwit_error *err)
{
	static const struct godwit_guest_ops no_ops;
	int r;

	*source = (struct bench_source){.options = godwit_options_new()};
	if (!source->options)
		return gw_err_set(err, -ENOMEM, "out of memory");
	r = set_all(source->options, mode, channels, bandwidth, err);
	if (!r)
		r = bench_memory_guest(memory, &no_ops, NULL, err, &source->guest);
	if (!r)
		r = godwit_source_new(source->guest, source->options, err,
				      &source->handle);
	return r;
}

void bench_source_deinit(struct bench_source *source)
{
	godwit_source_free(source->handle);
	godwit_guest_free(source->guest);
	godwit_options_free(source->options);
}
