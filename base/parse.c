/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes, rates and durations as people write them. */
#include "base/parse.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/util.h"

struct suffix {
	const char *text;
	uint64_t factor;
};

static const struct suffix size_suffixes[] = {
	{"", 1},
	{"B", 1},
	{"K", 1ULL << 10},
	{"KB", 1ULL << 10},
	{"KiB", 1ULL << 10},
	{"M", 1ULL << 20},
	{"MB", 1ULL << 20},
	{"MiB", 1ULL << 20},
	{"G", 1ULL << 30},
	{"GB", 1ULL << 30},
	{"GiB", 1ULL << 30},
	{"T", 1ULL << 40},
	{"TB", 1ULL << 40},
	{"TiB", 1ULL << 40},
};

static const struct suffix bit_suffixes[] = {
	{"kbit", 125},
	{"mbit", 125000},
	{"gbit", 125000000},
};

static const struct suffix duration_suffixes[] = {
	{"", GW_NSEC},	{"ns", 1},	     {"us", 1000},	    {"ms", 1000000},
	{"s", GW_NSEC}, {"m", 60 * GW_NSEC}, {"h", 3600 * GW_NSEC},
};

/* The part before the point is kept apart: a double would round long ones. */
struct number {
	uint64_t whole;
	double fraction;
};

/* Digits past the 18th make no difference to what a double holds. */
static double parse_fraction(const char *digits, const char **ret_rest)
{
	uint64_t above = 0, below = 1;

	for (; isdigit((unsigned char)*digits); digits++) {
		if (below >= 1000000000000000000ULL)
			continue;
		above = above * 10 + (uint64_t)(*digits - '0');
		below *= 10;
	}
	*ret_rest = digits;
	return (double)above / (double)below;
}

/*
 * A decimal number without sign, exponent or hexadecimal tricks. Not strtod():
 * it asks the program's locale what a decimal point is.
 */
static int split_number(const char *text, struct number *ret, const char **ret_rest)
{
	struct number number = {0};
	const char *rest;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	number.whole = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	rest = end;
	if (*rest == '.') {
		if (!isdigit((unsigned char)rest[1]))
			return -EINVAL;
		number.fraction = parse_fraction(rest + 1, &rest);
	}
	*ret = number;
	*ret_rest = rest;
	return 0;
}

static int scale(const char *text, size_t text_len, const struct number *number,
		 const struct suffix *suffixes, size_t n, uint64_t *ret)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t factor = suffixes[i].factor, value, part;

		if (strlen(suffixes[i].text) != text_len ||
		    strncasecmp(suffixes[i].text, text, text_len))
			continue;
		part = (uint64_t)(number->fraction * (double)factor + 0.5);
		if (__builtin_mul_overflow(number->whole, factor, &value) ||
		    __builtin_add_overflow(value, part, &value))
			return -EINVAL;
		*ret = value;
		return 0;
	}
	return -EINVAL;
}

int gw_parse_size(const char *text, uint64_t *ret_bytes)
{
	const char *rest;
	struct number number;

	if (split_number(text, &number, &rest))
		return -EINVAL;
	return scale(rest, strlen(rest), &number, size_suffixes,
		     GW_ARRAY_SIZE(size_suffixes), ret_bytes);
}

int gw_parse_rate(const char *text, uint64_t *ret_bytes_per_second)
{
	const char *rest;
	struct number number;
	size_t len;

	if (!strcmp(text, "unlimited")) {
		*ret_bytes_per_second = 0;
		return 0;
	}
	if (split_number(text, &number, &rest))
		return -EINVAL;
	len = strlen(rest);
	if (len >= 2 && !strcmp(rest + len - 2, "/s"))
		len -= 2;
	if (!scale(rest, len, &number, bit_suffixes, GW_ARRAY_SIZE(bit_suffixes),
		   ret_bytes_per_second))
		return 0;
	return scale(rest, len, &number, size_suffixes, GW_ARRAY_SIZE(size_suffixes),
		     ret_bytes_per_second);
}

int gw_parse_duration(const char *text, uint64_t *ret_ns)
{
	const char *rest;
	struct number number;

	if (split_number(text, &number, &rest))
		return -EINVAL;
	return scale(rest, strlen(rest), &number, duration_suffixes,
		     GW_ARRAY_SIZE(duration_suffixes), ret_ns);
}

int gw_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value)
{
	unsigned long long value;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end || value < min || value > max)
		return -EINVAL;
	*ret_value = value;
	return 0;
}
