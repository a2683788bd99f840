/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Statistics as the command shows them: numbers, one line, JSON and back. */
#include <criterion/criterion.h>
#include <string.h>

#include "cli/stats.h"
#include "cli/text.h"

#define MIB (1ULL << 20)

Test(cli_text, sizes_have_three_digits)
{
	const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0 B"},
		{999, "999 B"},
		{1000, "0.98 KiB"},
		{4096, "4.00 KiB"},
		{1023 * 1024, "1.00 MiB"},
		{150 * MIB, "150 MiB"},
		{999 * MIB, "999 MiB"},
		{1536 * MIB, "1.50 GiB"},
		{UINT64_MAX, "16.0 EiB"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		cr_assert_str_eq(text_size(cases[i].bytes).s, cases[i].text);
	cr_assert_str_eq(text_rate(4096).s, "4.00 KiB/s");
}

Test(cli_text, times_have_a_fitting_unit)
{
	const struct {
		uint64_t ns;
		const char *text;
	} cases[] = {
		{0, "0 ns"},
		{999, "999 ns"},
		{1000, "1.00 us"},
		{999600, "1.00 ms"},
		{12345678, "12.3 ms"},
		{119000000000, "119 s"},
		{119600000000, "2 min 0 s"},
		{3599600000000, "1 h 0 min"},
		{7500000000000, "2 h 5 min"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		cr_assert_str_eq(text_time(cases[i].ns).s, cases[i].text);
	/* the longest must fit */
	cr_assert_str_eq(text_time(UINT64_MAX).s, "5124095 h 34 min");
}

Test(cli_text, control_characters_are_replaced)
{
	char text[] = "a\x1b[2J\n\x7f\xc3\xa4";

	text_clean(text);
	cr_assert_str_eq(text, "a?[2J??\xc3\xa4");
}

static struct godwit_stats precopy(void)
{
	return (struct godwit_stats){
		.state = GODWIT_STATE_PRECOPY,
		.mode = "hybrid",
		.session = "0123456789abcdef0123456789abcdef",
		.round = 2,
		.guest_bytes = 1000 * MIB,
		.remaining_bytes = 250 * MIB,
		.throughput = 100 * MIB,
		.dirty_rate = 50 * MIB,
	};
}

Test(cli_stats, eta_counts_what_is_dirtied_meanwhile)
{
	struct godwit_stats stats = precopy();

	cr_assert_eq(stats_eta(&stats), 5000000000);
	/* in post-copy nothing is dirtied at the source */
	stats.state = GODWIT_STATE_POSTCOPY;
	cr_assert_eq(stats_eta(&stats), 2500000000);
}

Test(cli_stats, eta_is_unknown_when_the_guest_is_as_fast)
{
	struct godwit_stats stats = precopy();

	stats.dirty_rate = stats.throughput;
	cr_assert_eq(stats_eta(&stats), UINT64_MAX);
	stats.dirty_rate = 2 * stats.throughput;
	cr_assert_eq(stats_eta(&stats), UINT64_MAX);
	stats.throughput = 0;
	cr_assert_eq(stats_eta(&stats), UINT64_MAX);
	stats = precopy();
	stats.throughput = 1;
	stats.dirty_rate = 0;
	stats.remaining_bytes = UINT64_MAX;
	cr_assert_eq(stats_eta(&stats), UINT64_MAX);
}

static void assert_line(const struct godwit_stats *stats, enum godwit_side side,
			const char *text)
{
	char line[256];

	stats_line(stats, side, line, sizeof(line));
	cr_assert_str_eq(line, text);
}

Test(cli_stats, a_line_says_what_matters_in_each_state)
{
	struct godwit_stats stats = precopy();

	assert_line(
		&stats, GODWIT_SOURCE,
		"precopy, round 2: 75.0 %, 100 MiB/s, 250 MiB left, dirty 50.0 MiB/s, "
		"ETA 5.00 s");
	stats.dirty_rate = 300 * MIB;
	assert_line(&stats, GODWIT_SOURCE,
		    "precopy, round 2: 75.0 %, 100 MiB/s, 250 MiB left, dirty 300 MiB/s, "
		    "no end at this rate");
	stats.state = GODWIT_STATE_POSTCOPY;
	stats.postcopy_bytes = 500 * MIB;
	assert_line(&stats, GODWIT_SOURCE,
		    "postcopy: 50.0 %, 100 MiB/s, 250 MiB left, ETA 2.50 s");
	stats.state = GODWIT_STATE_UNDECIDED;
	assert_line(&stats, GODWIT_SOURCE, "handing over");
	stats.state = GODWIT_STATE_DONE;
	assert_line(&stats, GODWIT_SOURCE, "done");
	memset(&stats, 0, sizeof(stats));
	assert_line(&stats, GODWIT_SOURCE, "connecting");
	assert_line(&stats, GODWIT_DEST, "waiting for a source");
	stats.state = GODWIT_STATE_PRECOPY;
	assert_line(&stats, GODWIT_DEST, "precopy");
}

Test(cli_stats, a_line_is_cut_where_the_buffer_ends)
{
	struct godwit_stats stats = precopy();
	char line[12];

	stats_line(&stats, GODWIT_SOURCE, line, sizeof(line));
	cr_assert_str_eq(line, "precopy, ro");
}

Test(cli_stats, json_holds_every_field)
{
	struct godwit_stats all, back;
	json_t *object;

	/* no field is zero, so one that is forgotten comes back different */
	memset(&all, 0x11, sizeof(all));
	all.state = GODWIT_STATE_PAUSED;
	memset(all.mode, 0, sizeof(all.mode));
	memset(all.session, 0, sizeof(all.session));
	strcpy(all.mode, "hybrid");
	strcpy(all.session, "00112233445566778899aabbccddeeff");
	object = stats_to_json(&all);
	cr_assert_not_null(object);
	memset(&back, 0x22, sizeof(back));
	cr_assert_eq(stats_from_json(object, &back), 0);
	/* padding, if there is any, is nobody's */
	for (size_t i = 0; i < sizeof(all); i += sizeof(uint32_t))
		if (i < offsetof(struct godwit_stats, session) ||
		    i >= offsetof(struct godwit_stats, channels))
			cr_assert_arr_eq((char *)&all + i, (char *)&back + i,
					 sizeof(uint32_t), "byte %zu", i);
	cr_assert_str_eq(all.session, back.session);
	json_decref(object);
}

Test(cli_stats, the_fault_histogram_is_the_figures_and_the_buckets)
{
	static struct stats_all all = {
		.stats = {.faults = 7,
			  .fault_mean_ns = 40,
			  .fault_p50_ns = 31,
			  .fault_p90_ns = 65,
			  .fault_p99_ns = 66,
			  .fault_p999_ns = 67,
			  .fault_max_ns = 68},
		.faults = {{31, 5}, {69, 2}},
		.n_faults = 2,
	};
	json_t *object = stats_all_to_json(&all);
	char *text = json_dumps(json_object_get(object, "fault_histogram"),
				JSON_COMPACT | JSON_PRESERVE_ORDER);

	cr_assert_str_eq(text, "{\"unit\":\"ns\",\"count\":7,\"mean\":40,\"p50\":31,"
			       "\"p90\":65,\"p99\":66,\"p99.9\":67,\"max\":68,"
			       "\"buckets\":[[31,5],[69,2]]}");
	cr_assert_eq(json_integer_value(json_object_get(object, "faults")), 7);
	free(text);
	json_decref(object);
}

Test(cli_stats, json_of_another_kind_is_refused)
{
	static const char *const bad[] = {"[]", "{}", "{\"state\": 1}",
					  "{\"state\": \"asleep\"}"};
	struct godwit_stats stats;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		json_t *value = json_loads(bad[i], 0, NULL);

		cr_assert_eq(stats_from_json(value, &stats), -EINVAL, "%s", bad[i]);
		json_decref(value);
	}
}

Test(cli_stats, text_that_is_no_utf8_still_becomes_a_string)
{
	json_t *string = stats_text_json("a\xff\xfe\xc3\xa4");

	cr_assert_str_eq(json_string_value(string), "a????");
	json_decref(string);
}
