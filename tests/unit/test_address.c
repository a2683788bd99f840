/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is an address, what is not, and what the user is told. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <string.h>

#include "base/util.h"
#include "transport/address.h"

Test(address, host_and_port_are_taken_apart)
{
	static const struct {
		const char *text, *host;
		uint16_t port;
	} good[] = {
		{"192.0.2.2:49152", "192.0.2.2", 49152},
		{"localhost:0", "localhost", 0},
		{"host-b.example.net:65535", "host-b.example.net", 65535},
		{"my_host:1", "my_host", 1},
		{"[::]:49152", "::", 49152},
		{"[fd00::2]:80", "fd00::2", 80},
		{"[fe80::1%eth0]:80", "fe80::1%eth0", 80},
		{"[::ffff:192.0.2.2]:80", "::ffff:192.0.2.2", 80},
	};

	for (size_t i = 0; i < GW_ARRAY_SIZE(good); i++) {
		struct gw_address address;
		struct gw_err err = {0};

		cr_assert_eq(gw_address_parse(good[i].text, &err, &address), 0, "%s: %s",
			     good[i].text, err.text);
		cr_assert_str_eq(address.host, good[i].host);
		cr_assert_eq(address.port, good[i].port);
		cr_assert_str_empty(address.path);
	}
}

Test(address, unix_paths_are_taken_as_they_are)
{
	struct gw_address address;
	struct gw_err err;

	cr_assert_eq(gw_address_parse("unix:/run/a:b c.sock", &err, &address), 0);
	cr_assert_str_eq(address.path, "/run/a:b c.sock");
	cr_assert_str_empty(address.host);
	cr_assert_eq(gw_address_parse("unix:relative", &err, &address), 0);
	cr_assert_str_eq(address.path, "relative");
}

Test(address, anything_else_is_refused_with_the_forms_that_are_expected)
{
	static const char *const bad[] = {
		"",
		":",
		":49152",
		"host",
		"host:",
		"host:x",
		"host:-1",
		"host:65536",
		"host: 1",
		"host:1 ",
		"host:99999999999999999999",
		"host:0x10",
		"ho st:1",
		"-host:1",
		"*:1",
		"a/b:1",
		"tcp:host:1",
		"http://host:1",
		"fd00::2:49152",
		"::1",
		"[::1]",
		"[::1:1",
		"[::1]1",
		"[]:1",
		"[host]:1",
		"[192.0.2.2]:1",
		"[fe80::1%]:1",
		"[::1]]:1",
		"unix:",
		"UNIX:/x",
		"host:http",
	};

	for (size_t i = 0; i < GW_ARRAY_SIZE(bad); i++) {
		struct gw_address address;
		struct gw_err err = {0};

		cr_assert_eq(gw_address_parse(bad[i], &err, &address), -EINVAL, "\"%s\"",
			     bad[i]);
		cr_assert_eq(err.code, -EINVAL);
		cr_assert(strstr(err.text, "HOST:PORT, [IPV6]:PORT or unix:PATH"), "%s",
			  err.text);
	}
}

static void assert_refused(const char *text, const char *why)
{
	struct gw_address address;
	struct gw_err err = {0};

	cr_assert_eq(gw_address_parse(text, &err, &address), -EINVAL);
	cr_assert(strstr(err.text, why), "%s", err.text);
}

Test(address, a_refusal_says_what_is_wrong)
{
	assert_refused("fd00::2:49152", "needs brackets");
	assert_refused("host", "no port");
	assert_refused("host:70000", "0 to 65535");
	assert_refused("[::1:1", "closing bracket");
	assert_refused("unix:", "empty");
}

Test(address, a_unix_path_may_have_107_bytes_and_no_more)
{
	char text[128] = "unix:";
	struct gw_address address;
	struct gw_err err;

	memset(text + 5, 'p', 107);
	cr_assert_eq(gw_address_parse(text, &err, &address), 0);
	cr_assert_eq(strlen(address.path), 107);
	text[5 + 107] = 'p';
	cr_assert_eq(gw_address_parse(text, &err, &address), -EINVAL);
	cr_assert(strstr(err.text, "107 bytes"), "%s", err.text);
}

Test(address, a_host_name_may_have_253_bytes_and_no_more)
{
	char text[4096];
	struct gw_address address;
	struct gw_err err;

	memset(text, 'h', sizeof(text));
	strcpy(text + 253, ":1");
	cr_assert_eq(gw_address_parse(text, &err, &address), 0);
	for (size_t len = 254; len < 260; len++) {
		memset(text, 'h', sizeof(text));
		strcpy(text + len, ":1");
		cr_assert_eq(gw_address_parse(text, &err, &address), -EINVAL);
	}
	memset(text, 'h', sizeof(text));
	strcpy(text + 4000, ":1");
	cr_assert_eq(gw_address_parse(text, &err, &address), -EINVAL);
}

static void assert_round_trip(const char *text, const char *expected)
{
	struct gw_endpoints endpoints;
	struct gw_address address;
	struct gw_err err = {0};
	char buf[128];

	cr_assert_eq(gw_address_parse(text, &err, &address), 0);
	cr_assert_eq(gw_address_resolve(&address, false, &err, &endpoints), 0, "%s",
		     err.text);
	gw_endpoint_format(&endpoints.list[0], buf, sizeof(buf));
	cr_assert_str_eq(buf, expected);
}

Test(address, a_resolved_address_is_shown_in_the_form_it_is_written)
{
	assert_round_trip("192.0.2.2:49152", "192.0.2.2:49152");
	assert_round_trip("[fd00::0:2]:80", "[fd00::2]:80");
	assert_round_trip("unix:/run/x", "unix:/run/x");
	assert_round_trip("[::ffff:192.0.2.2]:80", "192.0.2.2:80");
}

Test(address, a_name_that_does_not_exist_is_named_in_the_error)
{
	struct gw_endpoints endpoints;
	struct gw_address address;
	struct gw_err err = {0};

	cr_assert_eq(gw_address_parse("no-such-host.invalid:1", &err, &address), 0);
	cr_assert_lt(gw_address_resolve(&address, false, &err, &endpoints), 0);
	cr_assert(strstr(err.text, "cannot resolve host \"no-such-host.invalid\": "),
		  "%s", err.text);
}
