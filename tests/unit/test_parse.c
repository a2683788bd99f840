/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes, rates, durations and numbers: what they mean and what they are not. */
#include <criterion/criterion.h>
#include <locale.h>

#include "base/parse.h"
#include "base/util.h"

typedef int (*parse_fn)(const char *text, uint64_t *ret);

struct good {
	const char *text;
	uint64_t value;
};

#define UNTOUCHED 0xfeedfacecafeULL

static void assert_good(parse_fn parse, const struct good *good, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t value = UNTOUCHED;

		cr_assert_eq(parse(good[i].text, &value), 0, "\"%s\"", good[i].text);
		cr_assert_eq(value, good[i].value, "\"%s\" is %lu", good[i].text, value);
	}
}

static void assert_bad(parse_fn parse, const char *const *bad, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t value = UNTOUCHED;

		cr_assert_eq(parse(bad[i], &value), -EINVAL, "\"%s\"", bad[i]);
		cr_assert_eq(value, UNTOUCHED, "\"%s\"", bad[i]);
	}
}

/* What no parser of a number takes. */
static const char *const never[] = {
	"",	 " ",	"x",
	"-1",	 "+1",	" 1",
	"1 ",	 "1x",	"0x10",
	"1e3",	 "1E3", "nan",
	"inf",	 ".5",	"1..2",
	"1.2.3", "1.",	"1.K",
	"1,5",	 "K",	"--1",
	"1 K",	 "1K ", "1KK",
	"1iB",	 "\n",	"99999999999999999999999999999999999999",
};

Test(parse, sizes)
{
	static const struct good good[] = {
		{"0", 0},
		{"1", 1},
		{"4096", 4096},
		{"7B", 7},
		{"64M", 64ULL << 20},
		{"64m", 64ULL << 20},
		{"64MB", 64ULL << 20},
		{"64MiB", 64ULL << 20},
		{"2.5G", 2560ULL << 20},
		{"1K", 1024},
		{"0.5k", 512},
		{"1T", 1ULL << 40},
		{"16777215T", 16777215ULL << 40},
		{"9007199254740993", 9007199254740993ULL},
		{"18446744073709551615", UINT64_MAX},
	};
	static const char *const bad[] = {
		"1P", "16777216T", "18446744073709551616", "1s", "1Gbit", "1M/s", "1Gi"};

	assert_good(gw_parse_size, good, GW_ARRAY_SIZE(good));
	assert_bad(gw_parse_size, bad, GW_ARRAY_SIZE(bad));
	assert_bad(gw_parse_size, never, GW_ARRAY_SIZE(never));
}

Test(parse, rates)
{
	static const struct good good[] = {
		{"0", 0},
		{"unlimited", 0},
		{"300MB", 300ULL << 20},
		{"300MB/s", 300ULL << 20},
		{"300M/s", 300ULL << 20},
		{"10Gbit", 1250000000},
		{"10gbit/s", 1250000000},
		{"2.5Gbit", 312500000},
		{"100Mbit", 12500000},
		{"8kbit", 1000},
		{"500", 500},
		{"500/s", 500},
	};
	static const char *const bad[] = {"/s",	   "1/",	"1/m", "10bit",
					  "1/s/s", "Unlimited", "M/s", "1ms"};

	assert_good(gw_parse_rate, good, GW_ARRAY_SIZE(good));
	assert_bad(gw_parse_rate, bad, GW_ARRAY_SIZE(bad));
	assert_bad(gw_parse_rate, never, GW_ARRAY_SIZE(never));
}

Test(parse, durations)
{
	static const struct good good[] = {
		{"0", 0},
		{"1", 1000000000},
		{"10ms", 10000000},
		{"2.5s", 2500000000},
		{"300us", 300000},
		{"17ns", 17},
		{"5m", 300000000000},
		{"1h", 3600000000000},
		{"0.001s", 1000000},
	};
	static const char *const bad[] = {"1d", "1sec", "10M s", "6000000h", "1min"};

	assert_good(gw_parse_duration, good, GW_ARRAY_SIZE(good));
	assert_bad(gw_parse_duration, bad, GW_ARRAY_SIZE(bad));
	assert_bad(gw_parse_duration, never, GW_ARRAY_SIZE(never));
}

static int number_1_to_64(const char *text, uint64_t *ret)
{
	return gw_parse_number(text, 1, 64, ret);
}

static int any_number(const char *text, uint64_t *ret)
{
	return gw_parse_number(text, 0, UINT64_MAX, ret);
}

Test(parse, numbers_within_limits)
{
	static const struct good good[] = {{"1", 1}, {"64", 64}, {"007", 7}};
	static const struct good large[] = {{"0", 0},
					    {"18446744073709551615", UINT64_MAX}};
	static const char *const bad[] = {"0", "65", "1.0", "18446744073709551617"};

	assert_good(number_1_to_64, good, GW_ARRAY_SIZE(good));
	assert_good(any_number, large, GW_ARRAY_SIZE(large));
	assert_bad(number_1_to_64, bad, GW_ARRAY_SIZE(bad));
	assert_bad(number_1_to_64, never, GW_ARRAY_SIZE(never));
	assert_bad(any_number, never, GW_ARRAY_SIZE(never));
}

Test(parse, the_locale_of_the_program_does_not_matter)
{
	static const char *const commas[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE"};
	static const struct good good[] = {{"2.5s", 2500000000}};
	size_t i;

	for (i = 0; i < GW_ARRAY_SIZE(commas); i++)
		if (setlocale(LC_ALL, commas[i]))
			break;
	if (i == GW_ARRAY_SIZE(commas))
		cr_skip_test("no locale with a decimal comma is installed");
	assert_good(gw_parse_duration, good, GW_ARRAY_SIZE(good));
}
