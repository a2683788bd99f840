/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options by name: one table that the library, the command and its help share. */
#include "migrate/options.h"

#include <assert.h>
#include <string.h>

#include "base/parse.h"
#include "base/util.h"

static const char *const mode_names[] = {
	[0] = "(none)",
	[GW_MODE_PRECOPY] = "precopy",
	[GW_MODE_POSTCOPY] = "postcopy",
	[GW_MODE_HYBRID] = "hybrid",
	[GW_MODE_OFFLINE] = "offline",
};
static_assert(GW_ARRAY_SIZE(mode_names) == GW_N_MODES, "a name for every mode");

static const char *const compress_names[] = {
	[GW_COMPRESS_NONE] = "none",
	[GW_COMPRESS_LZ4] = "lz4",
	[GW_COMPRESS_AUTO] = "auto",
};
static_assert(GW_ARRAY_SIZE(compress_names) == GW_N_COMPRESS, "a name for each");

const char *gw_mode_name(enum gw_mode mode)
{
	return mode < GW_N_MODES ? mode_names[mode] : "(unknown)";
}

bool gw_mode_may_postcopy(enum gw_mode mode)
{
	return mode == GW_MODE_POSTCOPY || mode == GW_MODE_HYBRID;
}

typedef int set_fn(struct godwit_options *options, const char *value);

static int set_mode(struct godwit_options *options, const char *value)
{
	for (unsigned int i = 1; i < GW_N_MODES; i++) {
		if (!strcmp(value, mode_names[i])) {
			options->mode = (enum gw_mode)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int set_channels(struct godwit_options *options, const char *value)
{
	uint64_t n = 0;

	if (strcmp(value, "auto") && gw_parse_number(value, 1, GW_CHANNELS_MAX, &n))
		return -EINVAL;
	options->channels = (unsigned int)n;
	return 0;
}

static int set_compress(struct godwit_options *options, const char *value)
{
	for (unsigned int i = 0; i < GW_ARRAY_SIZE(compress_names); i++) {
		if (!strcmp(value, compress_names[i])) {
			options->compress = (enum gw_compress)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int set_max_downtime(struct godwit_options *options, const char *value)
{
	return gw_parse_duration(value, &options->max_downtime_ns);
}

static int set_bandwidth(struct godwit_options *options, const char *value)
{
	return gw_parse_rate(value, &options->bandwidth);
}

static int set_postcopy_after(struct godwit_options *options, const char *value)
{
	return gw_parse_duration(value, &options->postcopy_after_ns);
}

static int set_max_rounds(struct godwit_options *options, const char *value)
{
	return gw_parse_number(value, 1, 1000000, &options->max_rounds);
}

/* Waiting for ever is not offered where a guest may be standing still. */
static int parse_positive(const char *value, uint64_t *ret_ns)
{
	uint64_t ns;

	if (gw_parse_duration(value, &ns) || !ns)
		return -EINVAL;
	*ret_ns = ns;
	return 0;
}

static int set_connect_timeout(struct godwit_options *options, const char *value)
{
	return parse_positive(value, &options->connect_timeout_ns);
}

static int set_peer_timeout(struct godwit_options *options, const char *value)
{
	return parse_positive(value, &options->peer_timeout_ns);
}

static int set_timeout(struct godwit_options *options, const char *value)
{
	return gw_parse_duration(value, &options->timeout_ns);
}

#define BOTH (GODWIT_SOURCE | GODWIT_DEST)

static const struct {
	struct godwit_option public;
	set_fn *set;
} table[] = {
	{{"mode", "precopy|postcopy|hybrid|offline", "hybrid",
	  "how memory moves; hybrid is pre-copy that turns into post-copy when needed",
	  GODWIT_SOURCE},
	 set_mode},
	{{"channels", "N|auto", "auto",
	  "parallel channels, 1 to 64; auto: one for each 10 Gb/s of the link, "
	  "2 where its speed is unknown",
	  GODWIT_SOURCE},
	 set_channels},
	{{"max-downtime", "TIME", "10ms",
	  "pre-copy ends when the rest is expected to move within TIME", GODWIT_SOURCE},
	 set_max_downtime},
	{{"bandwidth", "RATE", "unlimited",
	  "at most RATE over all channels, as sent: 500M (bytes) or 4gbit (bits) a "
	  "second",
	  GODWIT_SOURCE},
	 set_bandwidth},
	{{"compress", "auto|lz4|none", "auto",
	  "compress pages, by batches of up to 256 KiB; auto: on each channel, while it "
	  "is faster",
	  GODWIT_SOURCE},
	 set_compress},
	{{"postcopy-after", "TIME", NULL, "hybrid: switch to post-copy after TIME",
	  GODWIT_SOURCE},
	 set_postcopy_after},
	{{"max-rounds", "N", NULL,
	  "rounds of pre-copy before post-copy (hybrid, default 8) or before giving up "
	  "(precopy, default 30)",
	  GODWIT_SOURCE},
	 set_max_rounds},
	{{"connect-timeout", "TIME", "10s", "for connecting and for each handshake",
	  BOTH},
	 set_connect_timeout},
	{{"peer-timeout", "TIME", "10s",
	  "a peer that acknowledges nothing for TIME counts as dead", BOTH},
	 set_peer_timeout},
	{{"timeout", "TIME", NULL, "give up when no source has come within TIME",
	  GODWIT_DEST},
	 set_timeout},
};

const struct godwit_option *godwit_option_at(size_t index)
{
	return index < GW_ARRAY_SIZE(table) ? &table[index].public : NULL;
}

void gw_options_init(struct godwit_options *options)
{
	*options = (struct godwit_options){0};
	for (size_t i = 0; i < GW_ARRAY_SIZE(table); i++) {
		int r = table[i].public.initial
				? table[i].set(options, table[i].public.initial)
				: 0;

		assert(!r);
		(void)r;
	}
}

godwit_options *godwit_options_new(void)
{
	struct godwit_options *options = malloc(sizeof(*options));

	if (options)
		gw_options_init(options);
	return options;
}

godwit_options *godwit_options_free(godwit_options *options)
{
	free(options);
	return NULL;
}

int godwit_options_set(godwit_options *options, const char *name, const char *value,
		       godwit_error *err)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(table); i++) {
		if (strcmp(table[i].public.name, name))
			continue;
		if (table[i].set(options, value))
			return gw_err_set(err, -EINVAL, "%s: '%s' is not of the form %s",
					  name, value, table[i].public.value);
		return 0;
	}
	return gw_err_set(err, -ENOENT, "no option is called '%s'", name);
}

void godwit_options_set_log(godwit_options *options, godwit_log_fn fn, void *opaque,
			    enum godwit_log_level level)
{
	options->log = (struct gw_log){.fn = fn, .opaque = opaque, .level = level};
}

const char *godwit_version(void)
{
	return GW_VERSION;
}
