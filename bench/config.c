/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What to measure, from words, and the folder for Unix sockets. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/parse.h"
#include "base/util.h"
#include "bench/bench.h"
#include "bench/serve.h"

/* Of the folder's one socket, which a listener makes and removes. */
#define SOCKET_NAME "socket"

#define SIZE_DEFAULT   (1ULL << 30)
#define SIZE_QUICK     (32ULL << 20)
#define SIZE_MIN       (8ULL << 20)
#define SIZE_MAX_TB    4ULL
#define REPEAT_DEFAULT 5U
#define REPEAT_QUICK   2U
#define CHANNELS_LIMIT 64U

static const char *const subjects[] = {
	[BENCH_RAW] = "raw",	     [BENCH_STREAM] = "stream",
	[BENCH_FAULT] = "fault",     [BENCH_ZERO] = "zero",
	[BENCH_LZ4] = "lz4",	     [BENCH_DIRTY] = "dirty",
	[BENCH_INSTALL] = "install", [BENCH_REGISTER] = "register",
};
static_assert(GW_ARRAY_SIZE(subjects) == BENCH_N_SUBJECTS, "a name for every subject");

static const char *const transports[] = {
	[BENCH_TCP] = "tcp",
	[BENCH_UNIX] = "unix",
};
static_assert(GW_ARRAY_SIZE(transports) == BENCH_N_TRANSPORTS, "a name for each");

const char *bench_subject_name(enum bench_subject subject)
{
	return subjects[subject];
}

const char *bench_transport_name(enum bench_transport transport)
{
	return transports[transport];
}

/* ---- words ---- */

static const char *pages_name(unsigned int i)
{
	return bench_pages_name((enum bench_pages)i);
}

static const char *transport_name(unsigned int i)
{
	return transports[i];
}

static const char *subject_name(unsigned int i)
{
	return subjects[i];
}

typedef const char *name_fn(unsigned int i);

/* The bit of the name that @word of @len letters is; 0: of none. */
static unsigned int bit_of(const char *word, size_t len, name_fn *name, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		if (strlen(name(i)) == len && !memcmp(name(i), word, len))
			return 1U << i;
	return 0;
}

/* "a,b": the bits of all names in it. */
static int parse_names(const char *option, const char *value, name_fn *name,
		       unsigned int n, unsigned int *ret, godwit_error *err)
{
	char all[128] = "";
	unsigned int bits = 0, bit;

	for (unsigned int i = 0; i < n; i++) {
		strcat(all, i ? ", " : "");
		strcat(all, name(i));
	}
	for (const char *at = value;; at++) {
		size_t len = strcspn(at, ",");

		bit = bit_of(at, len, name, n);
		if (!bit)
			return gw_err_set(err, -EINVAL,
					  "%s: '%.*s' is none of %s (several are joined "
					  "by commas)",
					  option, (int)len, at, all);
		bits |= bit;
		at += len;
		if (!*at)
			break;
	}
	*ret = bits;
	return 0;
}

static int parse_channels(struct bench_config *config, const char *value,
			  godwit_error *err)
{
	char copy[128], *rest = copy, *word;
	uint64_t n;

	config->n_channels = 0;
	snprintf(copy, sizeof(copy), "%s", value);
	while ((word = strsep(&rest, ","))) {
		if (config->n_channels == BENCH_CHANNELS_MAX ||
		    gw_parse_number(word, 1, CHANNELS_LIMIT, &n))
			return gw_err_set(err, -EINVAL,
					  "--channels: '%s' is not up to %u numbers from "
					  "1 to %u, joined by commas",
					  value, BENCH_CHANNELS_MAX, CHANNELS_LIMIT);
		config->channels[config->n_channels++] = (unsigned int)n;
	}
	return 0;
}

static int parse_size(struct bench_config *config, const char *value, godwit_error *err)
{
	uint64_t size;

	if (gw_parse_size(value, &size) || size < SIZE_MIN || size > SIZE_MAX_TB << 40)
		return gw_err_set(err, -EINVAL,
				  "--size: '%s' is no size from %llu MiB to %llu TiB, "
				  "such as 1G",
				  value, SIZE_MIN >> 20, SIZE_MAX_TB);
	config->size = gw_align_up(size, GW_EXTENT_SIZE);
	return 0;
}

static int parse_number(const char *name, const char *value, uint64_t min, uint64_t max,
			uint64_t *ret, godwit_error *err)
{
	if (!gw_parse_number(value, min, max, ret))
		return 0;
	return gw_err_set(err, -EINVAL, "--%s: '%s' is no whole number from %llu to %llu",
			  name, value, (unsigned long long)min, (unsigned long long)max);
}

int bench_config_set(struct bench_config *config, const char *name, const char *value,
		     godwit_error *err)
{
	uint64_t number;
	int r;

	if (!name) {
		unsigned int bit =
			bit_of(value, strlen(value), subject_name, BENCH_N_SUBJECTS);

		if (!bit)
			return gw_err_set(err, -EINVAL,
					  "there is no subject '%s': godwit bench --help "
					  "lists them",
					  value);
		config->subjects |= bit;
		return 0;
	}
	if (!strcmp(name, "size"))
		return parse_size(config, value, err);
	if (!strcmp(name, "channels"))
		return parse_channels(config, value, err);
	if (!strcmp(name, "pages"))
		return parse_names("--pages", value, pages_name, BENCH_N_PAGES,
				   &config->pages, err);
	if (!strcmp(name, "transport"))
		return parse_names("--transport", value, transport_name,
				   BENCH_N_TRANSPORTS, &config->transports, err);
	if (!strcmp(name, "seed"))
		return parse_number(name, value, 1, INT64_MAX, &config->seed, err);
	assert(!strcmp(name, "repeat"));
	r = parse_number(name, value, 1, BENCH_RUNS_MAX, &number, err);
	if (!r)
		config->repeat = (unsigned int)number;
	return r;
}

/* ---- what was left open ---- */

static void fill_channels(struct bench_config *config)
{
	static const unsigned int usual[] = {1, 2, 4};

	if (config->n_channels)
		return;
	if (config->quick) {
		config->channels[config->n_channels++] = 2;
		return;
	}
	for (size_t i = 0; i < GW_ARRAY_SIZE(usual); i++)
		config->channels[config->n_channels++] = usual[i];
}

int bench_config_finish(struct bench_config *config, godwit_error *err)
{
	if (config->to && config->transports & 1U << BENCH_UNIX)
		return gw_err_set(
			err, -EINVAL,
			"--transport: unix is for one host: leave it out, or use "
			"--loopback");
	if (!config->transports)
		config->transports =
			config->to ? 1U << BENCH_TCP : (1U << BENCH_N_TRANSPORTS) - 1;
	if (!config->subjects)
		config->subjects = (1U << BENCH_N_SUBJECTS) - 1;
	if (!config->pages)
		config->pages = (1U << BENCH_N_PAGES) - 1;
	if (!config->size)
		config->size = config->quick ? SIZE_QUICK : SIZE_DEFAULT;
	if (!config->repeat)
		config->repeat = config->quick ? REPEAT_QUICK : REPEAT_DEFAULT;
	fill_channels(config);
	return 0;
}

/* ---- the folder ---- */

int bench_scratch_make(struct bench_config *config, godwit_error *err)
{
	unsigned int wants = 1U << BENCH_RAW | 1U << BENCH_STREAM;

	config->scratch[0] = '\0';
	if (!(config->transports & 1U << BENCH_UNIX) || !(config->subjects & wants))
		return 0;
	snprintf(config->scratch, sizeof(config->scratch), "/tmp/godwit-bench-XXXXXX");
	if (mkdtemp(config->scratch))
		return 0;
	config->scratch[0] = '\0';
	return gw_err_errno(err, -errno,
			    "cannot make a folder in /tmp for Unix sockets (--transport "
			    "tcp does without)");
}

void bench_scratch_socket(const struct bench_config *config, char *buf, size_t size)
{
	snprintf(buf, size, "unix:%s/" SOCKET_NAME, config->scratch);
}

void bench_scratch_clear(const struct bench_config *config)
{
	char path[BENCH_SCRATCH_MAX + sizeof(SOCKET_NAME) + 1];

	if (!config->scratch[0])
		return;
	snprintf(path, sizeof(path), "%s/" SOCKET_NAME, config->scratch);
	unlink(path);
}

void bench_scratch_remove(struct bench_config *config)
{
	if (!config->scratch[0])
		return;
	bench_scratch_clear(config);
	rmdir(config->scratch);
	config->scratch[0] = '\0';
}
