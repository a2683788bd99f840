/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options: every documented value, every kind of wrong one, and the defaults. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "migrate/options.h"

#define MS 1000000ULL

static struct godwit_options options;

static void set(const char *name, const char *value)
{
	struct gw_err err = {0};

	gw_options_init(&options);
	cr_assert_eq(godwit_options_set(&options, name, value, &err), 0, "%s", err.text);
}

static bool is_known(const char *name)
{
	const struct godwit_option *option;

	for (size_t i = 0; (option = godwit_option_at(i)); i++)
		if (!strcmp(option->name, name))
			return true;
	return false;
}

Test(options, defaults_are_those_of_the_manual)
{
	gw_options_init(&options);
	cr_assert_eq(options.mode, GW_MODE_HYBRID);
	cr_assert_eq(options.channels, 0);
	cr_assert_eq(options.compress, GW_COMPRESS_AUTO);
	cr_assert_eq(options.max_downtime_ns, 10 * MS);
	cr_assert_eq(options.bandwidth, 0);
	cr_assert_eq(options.postcopy_after_ns, 0);
	cr_assert_eq(options.max_rounds, 0);
	cr_assert_eq(options.connect_timeout_ns, 10 * GW_NSEC);
	cr_assert_eq(options.peer_timeout_ns, 10 * GW_NSEC);
	cr_assert_eq(options.timeout_ns, 0);
	cr_assert_null(options.log.fn);
}

Test(options, every_mode_is_known_by_its_name)
{
	static const struct {
		const char *name;
		enum gw_mode mode;
		bool may_postcopy;
	} modes[] = {
		{"precopy", GW_MODE_PRECOPY, false},
		{"postcopy", GW_MODE_POSTCOPY, true},
		{"hybrid", GW_MODE_HYBRID, true},
		{"offline", GW_MODE_OFFLINE, false},
	};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(modes); i++) {
		set("mode", modes[i].name);
		cr_assert_eq(options.mode, modes[i].mode);
		cr_assert_str_eq(gw_mode_name(modes[i].mode), modes[i].name);
		cr_assert_eq(gw_mode_may_postcopy(modes[i].mode), modes[i].may_postcopy);
	}
	cr_assert_str_eq(gw_mode_name(GW_N_MODES), "(unknown)");
}

Test(options, channels_are_a_number_or_left_to_the_link)
{
	set("channels", "1");
	cr_assert_eq(options.channels, 1);
	set("channels", "64");
	cr_assert_eq(options.channels, 64);
	set("channels", "auto");
	cr_assert_eq(options.channels, 0);
}

Test(options, auto_undoes_an_earlier_number_of_channels)
{
	set("channels", "7");
	cr_assert_eq(godwit_options_set(&options, "channels", "auto", NULL), 0);
	cr_assert_eq(options.channels, 0);
}

Test(options, compression_is_adaptive_on_or_off)
{
	gw_options_init(&options);
	set("compress", "lz4");
	cr_assert_eq(options.compress, GW_COMPRESS_LZ4);
	cr_assert_eq(godwit_options_set(&options, "compress", "none", NULL), 0);
	cr_assert_eq(options.compress, GW_COMPRESS_NONE);
	cr_assert_eq(godwit_options_set(&options, "compress", "auto", NULL), 0);
	cr_assert_eq(options.compress, GW_COMPRESS_AUTO);
}

Test(options, times_and_rates_come_in_the_documented_units)
{
	set("max-downtime", "0");
	cr_assert_eq(options.max_downtime_ns, 0);
	set("max-downtime", "2.5ms");
	cr_assert_eq(options.max_downtime_ns, 2500000);
	set("bandwidth", "500M");
	cr_assert_eq(options.bandwidth, 500ULL << 20);
	set("bandwidth", "4gbit");
	cr_assert_eq(options.bandwidth, 500000000);
	set("bandwidth", "unlimited");
	cr_assert_eq(options.bandwidth, 0);
	set("postcopy-after", "3");
	cr_assert_eq(options.postcopy_after_ns, 3 * GW_NSEC);
	set("max-rounds", "1");
	cr_assert_eq(options.max_rounds, 1);
	set("connect-timeout", "1m");
	cr_assert_eq(options.connect_timeout_ns, 60 * GW_NSEC);
	set("peer-timeout", "1500ms");
	cr_assert_eq(options.peer_timeout_ns, 1500 * MS);
	set("timeout", "1h");
	cr_assert_eq(options.timeout_ns, 3600 * GW_NSEC);
}

Test(options, a_value_of_the_wrong_form_is_refused_with_the_right_one)
{
	static const struct {
		const char *name, *value;
	} wrong[] = {
		{"mode", "live"},
		{"mode", ""},
		{"mode", "(none)"},
		{"mode", "PRECOPY"},
		{"channels", "0"},
		{"channels", "65"},
		{"channels", "-1"},
		{"channels", "2.5"},
		{"channels", "Auto"},
		{"channels", ""},
		{"channels", "4 "},
		{"compress", "zstd"},
		{"compress", ""},
		{"max-downtime", "-1ms"},
		{"max-downtime", "soon"},
		{"max-downtime", "10MB"},
		{"max-downtime", ""},
		{"bandwidth", "10ms"},
		{"bandwidth", "fast"},
		{"bandwidth", "1e9"},
		{"bandwidth", "-1"},
		{"postcopy-after", "x"},
		{"max-rounds", "0"},
		{"max-rounds", "1000001"},
		{"max-rounds", "many"},
		{"connect-timeout", "1d"},
		{"connect-timeout", "0"},
		{"peer-timeout", "0s"},
		{"peer-timeout", "1 s"},
		{"timeout", "never"},
		{"timeout", "inf"},
		{"timeout", "0x10"},
		{"timeout", "99999999999999999999h"},
	};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(wrong); i++) {
		struct godwit_options before;
		struct gw_err err = {0};
		char start[64];

		gw_options_init(&options);
		before = options;
		cr_assert_eq(
			godwit_options_set(&options, wrong[i].name, wrong[i].value, &err),
			-EINVAL, "%s=%s", wrong[i].name, wrong[i].value);
		snprintf(start, sizeof(start), "%s: '%s' is not of the form ",
			 wrong[i].name, wrong[i].value);
		cr_assert_eq(strncmp(err.text, start, strlen(start)), 0, "%s", err.text);
		cr_assert_gt(strlen(err.text), strlen(start));
		cr_assert_eq(err.code, -EINVAL);
		cr_assert_eq(memcmp(&before, &options, sizeof(before)), 0,
			     "a refused value changes nothing");
	}
}

Test(options, an_unknown_option_is_refused_by_name)
{
	struct gw_err err = {0};

	gw_options_init(&options);
	cr_assert_eq(godwit_options_set(&options, "speed", "1", &err), -ENOENT);
	cr_assert_str_eq(err.text, "no option is called 'speed'");
	cr_assert_eq(godwit_options_set(&options, "", "1", NULL), -ENOENT);
}

Test(options, a_message_with_a_hostile_value_still_fits)
{
	struct gw_err err = {0};
	char value[4 * GW_ERR_TEXT_MAX];

	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	gw_options_init(&options);
	cr_assert_eq(godwit_options_set(&options, "mode", value, &err), -EINVAL);
	cr_assert_eq(strlen(err.text), GW_ERR_TEXT_MAX - 1);
}

Test(options, the_list_is_complete_and_its_defaults_can_be_typed)
{
	static const char *const names[] = {
		"mode",		"channels",	  "max-downtime", "bandwidth",
		"compress",	"max-rounds",	  "timeout",	  "connect-timeout",
		"peer-timeout", "postcopy-after",
	};
	const struct godwit_option *option;
	size_t n = 0;

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(names); i++)
		cr_assert(is_known(names[i]), "%s", names[i]);
	for (; (option = godwit_option_at(n)); n++) {
		cr_assert(option->name[0] && option->value[0] && option->help[0]);
		cr_assert(option->sides &&
			  !(option->sides & ~(GODWIT_SOURCE | GODWIT_DEST)));
		if (option->initial)
			set(option->name, option->initial);
	}
	cr_assert_geq(n, GW_ARRAY_SIZE(names));
	cr_assert_null(godwit_option_at(SIZE_MAX));
}

static void ignore_line(void *opaque, enum godwit_log_level level, const char *line)
{
}

Test(options, the_public_object_is_made_with_defaults_and_takes_a_log)
{
	godwit_options *made = godwit_options_new();
	int opaque;

	cr_assert_not_null(made);
	gw_options_init(&options);
	cr_assert_eq(memcmp(made, &options, sizeof(options)), 0);
	godwit_options_set_log(made, ignore_line, &opaque, GODWIT_LOG_INFO);
	cr_assert_eq(made->log.fn, ignore_line);
	cr_assert_eq(made->log.opaque, &opaque);
	cr_assert_eq(made->log.level, GODWIT_LOG_INFO);
	cr_assert_null(godwit_options_free(made));
	cr_assert_null(godwit_options_free(NULL));
}
