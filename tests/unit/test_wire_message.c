/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Cursor, handshake messages and control messages: pure encoding and decoding. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "wire/cursor.h"
#include "wire/handshake.h"
#include "wire/message.h"

#define MAX_VARINT "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"

static uint8_t payload[GW_MESSAGE_MAX];

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- cursor ---- */

static uint64_t decode_varint(const void *buf, size_t len, bool *ret_bad,
			      size_t *ret_left)
{
	struct gw_reader r = gw_reader_of(buf, len);
	uint64_t value = gw_get_varint(&r);

	*ret_bad = r.bad;
	*ret_left = r.left;
	return value;
}

Test(wire_cursor, varints_survive_at_every_length)
{
	for (unsigned int shift = 0; shift < 64; shift++) {
		const uint64_t values[] = {(1ULL << shift) - 1, 1ULL << shift,
					   (1ULL << shift) + 1, UINT64_MAX >> shift};

		for (unsigned int i = 0; i < GW_ARRAY_SIZE(values); i++) {
			uint8_t buf[10];
			struct gw_writer w = gw_writer_of(buf, sizeof(buf));
			size_t left;
			bool bad;

			gw_put_varint(&w, values[i]);
			cr_assert_not(w.bad);
			cr_assert_eq(
				decode_varint(buf, sizeof(buf) - w.left, &bad, &left),
				values[i]);
			cr_assert_not(bad);
			cr_assert_eq(left, 0);
		}
	}
}

Test(wire_cursor, the_largest_varint_takes_ten_bytes)
{
	uint8_t buf[10];
	struct gw_writer w = gw_writer_of(buf, sizeof(buf));

	gw_put_varint(&w, UINT64_MAX);
	cr_assert_eq(w.left, 0);
	cr_assert_eq(buf[9], 1);
	w = gw_writer_of(buf, 9);
	gw_put_varint(&w, UINT64_MAX);
	cr_assert(w.bad);
}

Test(wire_cursor, a_varint_that_is_cut_or_too_long_is_bad)
{
	static const char *const wrong[] = {
		"",
		"\x80",
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", /* bit 64 */
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81", /* an eleventh byte to come */
		"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
	};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(wrong); i++) {
		size_t left;
		bool bad;

		cr_assert_eq(decode_varint(wrong[i], strlen(wrong[i]), &bad, &left), 0);
		cr_assert(bad, "number %u", i);
	}
}

Test(wire_cursor, past_the_end_everything_reads_as_zero_and_stays_bad)
{
	static const uint8_t buf[3] = {1, 2, 3};
	struct gw_reader r = gw_reader_of(buf, sizeof(buf));

	cr_assert_eq(gw_get_u16(&r), 0x0201);
	cr_assert_eq(gw_get_u32(&r), 0);
	cr_assert(r.bad);
	cr_assert_eq(gw_get_u8(&r), 0, "a bad cursor does not come back");
	gw_skip(&r, 0);
	cr_assert(r.bad);
	r = gw_reader_of(buf, sizeof(buf));
	gw_skip(&r, 4);
	cr_assert(r.bad);
}

static const char *read_text(const char *bytes, size_t len, char *dst)
{
	struct gw_reader r = gw_reader_of(bytes, len);

	gw_get_text(&r, dst, len);
	return dst;
}

#define READ_TEXT(bytes) read_text(bytes, sizeof(bytes), (char[sizeof(bytes)]){0})

Test(wire_cursor, text_that_a_terminal_would_obey_is_made_harmless)
{
	cr_assert_str_eq(READ_TEXT("plain text ~"), "plain text ~");
	cr_assert_str_eq(READ_TEXT("\x1b[2Jgone\r\n\x07\x7f"), "?[2Jgone????");
	/* CSI of eight bits, bare and as UTF-8 */
	cr_assert_str_eq(READ_TEXT("a\x9b"
				   "2J"),
			 "a?2J");
	cr_assert_str_eq(READ_TEXT("a\xc2\x9b"
				   "2J"),
			 "a??2J");
}

Test(wire_cursor, text_in_other_scripts_stays_readable)
{
	cr_assert_str_eq(READ_TEXT("/srv/Gäste/→/ゲスト/🐦"), "/srv/Gäste/→/ゲスト/🐦");
}

Test(wire_cursor, text_that_is_not_utf_8_is_made_so)
{
	cr_assert_str_eq(READ_TEXT("\xe4\xf6"), "??");
	cr_assert_str_eq(READ_TEXT("\xc0\xaf"), "??");		 /* overlong */
	cr_assert_str_eq(READ_TEXT("\xe0\x80\x9b"), "???");	 /* overlong CSI */
	cr_assert_str_eq(READ_TEXT("\xed\xa0\x80"), "???");	 /* a surrogate */
	cr_assert_str_eq(READ_TEXT("\xf4\x90\x80\x80"), "????"); /* past the last */
	cr_assert_str_eq(READ_TEXT("\xe2\x86"), "??");		 /* cut short */
	cr_assert_str_eq(READ_TEXT("\xe2\x86z"), "??z");
}

Test(wire_cursor, text_without_an_end_is_ended)
{
	char dst[4];
	struct gw_reader r = gw_reader_of("abcdef", 6);

	gw_get_text(&r, dst, sizeof(dst));
	cr_assert_str_eq(dst, "abc");
	cr_assert_eq(r.left, 2, "the field is its full length");
}

Test(wire_cursor, text_longer_than_its_field_is_cut)
{
	char field[8], dst[8];
	struct gw_writer w = gw_writer_of(field, sizeof(field));
	struct gw_reader r = gw_reader_of(field, sizeof(field));

	gw_put_text(&w, "0123456789", sizeof(field));
	cr_assert_not(w.bad);
	gw_get_text(&r, dst, sizeof(dst));
	cr_assert_str_eq(dst, "0123456");
}

/* ---- HELLO, WELCOME, ACCEPT ---- */

static struct gw_hello some_hello(void)
{
	return (struct gw_hello){
		.version = GW_WIRE_VERSION,
		.oldest = GW_WIRE_OLDEST,
		.kind = GW_CHAN_BULK,
		.index = 0x1234,
		.required = 1,
		.offered = 0x8000000000000003ULL,
		.session = {1, 2, [15] = 16},
		.nonce = {9, [31] = 10},
	};
}

static int decode_hello(struct gw_hello hello, struct gw_hello *ret)
{
	uint8_t buf[GW_HELLO_LEN];

	gw_hello_encode(&hello, buf);
	return gw_hello_decode(buf, ret);
}

Test(wire_handshake, a_hello_survives_the_wire)
{
	struct gw_hello hello = some_hello(), got;

	cr_assert_eq(decode_hello(hello, &got), 0);
	cr_assert_eq(got.version, hello.version);
	cr_assert_eq(got.oldest, hello.oldest);
	cr_assert_eq(got.kind, hello.kind);
	cr_assert_eq(got.index, hello.index);
	cr_assert_eq(got.required, hello.required);
	cr_assert_eq(got.offered, hello.offered);
	cr_assert_arr_eq(got.session, hello.session, sizeof(got.session));
	cr_assert_arr_eq(got.nonce, hello.nonce, sizeof(got.nonce));
}

Test(wire_handshake, a_hello_of_another_version_is_told_from_garbage)
{
	struct gw_hello hello = some_hello(), got;

	hello.version = GW_WIRE_VERSION + 5;
	hello.oldest = GW_WIRE_VERSION;
	cr_assert_eq(decode_hello(hello, &got), 0, "newer, but it can speak ours");
	hello.oldest = GW_WIRE_VERSION + 1;
	cr_assert_eq(decode_hello(hello, &got), -EPROTONOSUPPORT);
	cr_assert_eq(got.oldest, GW_WIRE_VERSION + 1, "for the refusal's text");
	hello.version = hello.oldest = 0;
	cr_assert_eq(decode_hello(hello, &got), -EPROTONOSUPPORT);
	hello.version = 1;
	hello.oldest = 2;
	cr_assert_eq(decode_hello(hello, &got), -EPROTO);
}

Test(wire_handshake, every_byte_of_the_magic_counts)
{
	for (unsigned int i = 0; i < 8; i++) {
		struct gw_hello hello = some_hello(), got;
		struct gw_welcome welcome = {.version = GW_WIRE_VERSION}, got_welcome;
		uint8_t buf[GW_WELCOME_LEN];

		gw_hello_encode(&hello, buf);
		buf[i] ^= 0x20;
		cr_assert_eq(gw_hello_decode(buf, &got), -EPROTO);
		gw_welcome_encode(&welcome, buf);
		buf[i] ^= 0x20;
		cr_assert_eq(gw_welcome_decode(buf, &got_welcome), -EPROTO);
	}
}

Test(wire_handshake, a_welcome_survives_the_wire)
{
	struct gw_welcome welcome = {.version = GW_WIRE_VERSION,
				     .features = 3,
				     .nonce = {7, [31] = 8},
				     .reason = "because"},
			  got;
	uint8_t buf[GW_WELCOME_LEN];

	gw_welcome_encode(&welcome, buf);
	cr_assert_eq(gw_welcome_decode(buf, &got), 0);
	cr_assert_eq(got.version, welcome.version);
	cr_assert_eq(got.status, GW_STATUS_OK);
	cr_assert_eq(got.features, 3);
	cr_assert_arr_eq(got.nonce, welcome.nonce, sizeof(got.nonce));
	cr_assert_str_eq(got.reason, "because");
}

Test(wire_handshake, a_welcome_in_a_version_we_do_not_speak_is_refused)
{
	struct gw_welcome welcome = {.version = GW_WIRE_VERSION + 1}, got;
	uint8_t buf[GW_WELCOME_LEN];

	gw_welcome_encode(&welcome, buf);
	cr_assert_eq(gw_welcome_decode(buf, &got), -EPROTONOSUPPORT);
	/* A refusal may come in any version: its reason is what matters. */
	welcome.status = GW_STATUS_VERSION;
	gw_welcome_encode(&welcome, buf);
	cr_assert_eq(gw_welcome_decode(buf, &got), 0);
}

Test(wire_handshake, an_accept_survives_the_wire_and_keeps_its_reserved_bits_clear)
{
	struct gw_accept accept = {.status = GW_STATUS_PROOF,
				   .mac = {1, [31] = 2},
				   .reason = "why"},
			 got;
	uint8_t buf[GW_ACCEPT_LEN];

	gw_accept_encode(&accept, buf);
	cr_assert_eq(gw_accept_decode(buf, &got), 0);
	cr_assert_eq(got.status, GW_STATUS_PROOF);
	cr_assert_arr_eq(got.mac, accept.mac, sizeof(got.mac));
	cr_assert_str_eq(got.reason, "why");
	for (unsigned int i = 2; i < 8; i++) {
		gw_accept_encode(&accept, buf);
		buf[i] = 1;
		cr_assert_eq(gw_accept_decode(buf, &got), -EPROTO);
	}
}

Test(wire_handshake, every_status_has_a_name)
{
	for (unsigned int i = 0; i < GW_N_STATUSES; i++)
		cr_assert_not_null(gw_status_name((enum gw_status)i));
	cr_assert_str_eq(gw_status_name((enum gw_status)GW_N_STATUSES), "unknown status");
	cr_assert_str_eq(gw_status_name((enum gw_status)65535), "unknown status");
}

/* ---- message headers ---- */

static int decode_header(const void *buf, struct gw_message_header *ret)
{
	return gw_message_header_decode(buf, ret);
}

Test(wire_message, headers_survive_the_wire)
{
	for (uint16_t type = 1; type < GW_N_MESSAGES; type++) {
		struct gw_message_header header = {.type = type,
						   .length = GW_MESSAGE_MAX},
					 got;
		uint8_t buf[GW_MESSAGE_HEADER_LEN];

		gw_message_header_encode(&header, buf);
		cr_assert_eq(decode_header(buf, &got), 0);
		cr_assert_eq(got.type, type);
		cr_assert_eq(got.length, GW_MESSAGE_MAX);
		cr_assert_not_null(gw_message_name(type));
	}
	cr_assert_str_eq(gw_message_name(GW_N_MESSAGES), "(unknown)");
}

Test(wire_message, a_header_that_lies_is_refused)
{
	static const uint8_t wrong[][GW_MESSAGE_HEADER_LEN] = {
		{0, 0, 0, 0, 0, 0, 0, 0},	      /* type 0 */
		{GW_N_MESSAGES, 0, 0, 0, 0, 0, 0, 0}, /* past the last type */
		{1, 1, 0, 0, 0, 0, 0, 0},	      /* type 257 */
		{1, 0, 1, 0, 0, 0, 0, 0},	      /* reserved */
		{1, 0, 0, 128, 0, 0, 0, 0},	      /* reserved */
		{1, 0, 0, 0, 1, 0, 1, 0},	      /* 65537 bytes */
		{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, /* 4 GiB */
	};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(wrong); i++) {
		struct gw_message_header got = {.type = 99};

		cr_assert_eq(decode_header(wrong[i], &got), -EPROTO, "number %u", i);
		cr_assert_eq(got.type, 99);
	}
}

/* ---- payloads ---- */

/*
 * A payload of fixed size is taken at its very length, and any other is refused
 * without a change to the result.
 */
#define EXPECT_EXACT_LENGTH(decode, type, len)                                           \
	do {                                                                             \
		type result, untouched;                                                  \
		memset(&result, 0x5a, sizeof(result));                                   \
		memset(&untouched, 0x5a, sizeof(untouched));                             \
		for (size_t n = 0; n < (len); n++)                                       \
			cr_assert_eq(decode(payload, n, &result), -EPROTO, "%zu", n);    \
		cr_assert_eq(decode(payload, (len) + 1, &result), -EPROTO);              \
		cr_assert_eq(memcmp(&result, &untouched, sizeof(result)), 0);            \
		cr_assert_eq(decode(payload, len, &result), 0);                          \
	} while (0)

static size_t encode_setup(unsigned int n_regions)
{
	struct gw_setup setup = {.mode = 3,
				 .compress = 1,
				 .channels = 64,
				 .n_regions = (uint16_t)n_regions};

	for (unsigned int i = 0; i < n_regions; i++) {
		snprintf(setup.regions[i].name, sizeof(setup.regions[i].name), "ram-%u",
			 i);
		setup.regions[i].size = (i + 1ULL) << 40;
		setup.regions[i].page_size = 4096;
	}
	return gw_setup_encode(&setup, payload);
}

Test(wire_message, a_setup_survives_the_wire)
{
	static struct gw_setup got;
	size_t len = encode_setup(GW_SETUP_REGIONS_MAX);

	cr_assert_leq(len, GW_MESSAGE_MAX);
	cr_assert_eq(gw_setup_decode(payload, len, &got), 0);
	cr_assert_eq(got.mode, 3);
	cr_assert_eq(got.compress, 1);
	cr_assert_eq(got.channels, 64);
	cr_assert_eq(got.n_regions, GW_SETUP_REGIONS_MAX);
	cr_assert_str_eq(got.regions[63].name, "ram-63");
	cr_assert_eq(got.regions[63].size, 64ULL << 40);
	cr_assert_eq(got.regions[63].page_size, 4096);
}

Test(wire_message, a_setup_of_any_other_length_is_refused)
{
	size_t len = encode_setup(2);

	EXPECT_EXACT_LENGTH(gw_setup_decode, struct gw_setup, len);
}

Test(wire_message, a_setup_with_no_or_too_many_regions_is_refused)
{
	static const uint16_t wrong[] = {0, GW_SETUP_REGIONS_MAX + 1, UINT16_MAX};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(wrong); i++) {
		static struct gw_setup got;

		encode_setup(1);
		payload[4] = (uint8_t)wrong[i];
		payload[5] = (uint8_t)(wrong[i] >> 8);
		got.n_regions = 1;
		cr_assert_eq(gw_setup_decode(payload, GW_MESSAGE_MAX, &got), -EPROTO);
		cr_assert_eq(got.n_regions, 1, "nobody may loop over a refused count");
	}
}

Test(wire_message, numbers_survive_the_wire_at_their_exact_length)
{
	uint64_t got;

	cr_assert_eq(gw_number_encode(0x8877665544332211ULL, payload), 8);
	cr_assert_eq(payload[0], 0x11);
	cr_assert_eq(gw_number_decode(payload, 8, &got), 0);
	cr_assert_eq(got, 0x8877665544332211ULL);
	EXPECT_EXACT_LENGTH(gw_number_decode, uint64_t, 8);
}

Test(wire_message, the_end_of_the_state_survives_the_wire)
{
	struct gw_state_end end = {.length = 123, .hash = UINT64_MAX}, got;

	cr_assert_eq(gw_state_end_encode(&end, payload), 16);
	cr_assert_eq(gw_state_end_decode(payload, 16, &got), 0);
	cr_assert_eq(got.length, 123);
	cr_assert_eq(got.hash, UINT64_MAX);
	EXPECT_EXACT_LENGTH(gw_state_end_decode, struct gw_state_end, 16);
}

Test(wire_message, the_end_of_a_naming_survives_the_wire)
{
	struct gw_missing_end end = {.units = 1ULL << 40, .data = 17}, got;

	cr_assert_eq(gw_missing_end_encode(&end, payload), 16);
	cr_assert_eq(gw_missing_end_decode(payload, 16, &got), 0);
	cr_assert_eq(got.units, 1ULL << 40);
	cr_assert_eq(got.data, 17);
	EXPECT_EXACT_LENGTH(gw_missing_end_decode, struct gw_missing_end, 16);
}

static bool same_hist(const struct gw_hist *a, const struct gw_hist *b)
{
	return a->count == b->count && a->sum == b->sum && a->max == b->max &&
	       !memcmp(a->steps, b->steps, sizeof(a->steps));
}

static void assert_progress_survives(const struct gw_progress *progress, size_t len)
{
	static struct gw_progress got;

	cr_assert_eq(gw_progress_encode(progress, payload), len);
	memset(&got, 0xff, sizeof(got));
	cr_assert_eq(gw_progress_decode(payload, len, &got), 0);
	cr_assert_eq(got.missing_units, progress->missing_units);
	cr_assert(same_hist(&got.faults, &progress->faults));
	EXPECT_EXACT_LENGTH(gw_progress_decode, struct gw_progress, len);
}

Test(wire_message, progress_survives_the_wire)
{
	static const uint64_t times[] = {0, 1, 31, 32, 70000, 70001, 1ULL << 39};
	static struct gw_progress progress;

	progress.missing_units = UINT64_MAX;
	assert_progress_survives(&progress, 26);
	for (unsigned int i = 0; i < GW_ARRAY_SIZE(times); i++)
		gw_hist_record(&progress.faults, times[i]);
	/* six steps, since 70 us fall in one; three of them after a gap of two bytes */
	assert_progress_survives(&progress, 26 + 6 * 2 + 2);
	/* beyond the range: the last step, and only the maximum knows how far */
	gw_hist_record(&progress.faults, UINT64_MAX / 2);
	assert_progress_survives(&progress, 26 + 7 * 2 + 2);
}

Test(wire_message, the_fullest_progress_survives_the_wire)
{
	static struct gw_progress progress;

	progress.faults.sum = progress.faults.max = UINT64_MAX;
	for (unsigned int i = 0; i < GW_HIST_STEPS; i++) {
		progress.faults.steps[i] = UINT32_MAX;
		progress.faults.count += UINT32_MAX;
	}
	assert_progress_survives(&progress, 26 + GW_HIST_STEPS * 6);
}

static int decode_steps(uint8_t n, const void *steps, size_t len)
{
	struct gw_progress got;

	memset(payload, 0, 26);
	payload[24] = n;
	memcpy(payload + 26, steps, len);
	return gw_progress_decode(payload, 26 + len, &got);
}

Test(wire_message, a_progress_whose_steps_are_empty_cut_or_past_the_last_is_refused)
{
	/* 1151, the last of all steps, is 0x7f 0x08 in seven bits each */
	cr_assert_eq(decode_steps(1, "\xff\x08\x01", 3), 0);
	cr_assert_eq(decode_steps(1, "\x80\x09\x01", 3), -EPROTO, "past the last");
	cr_assert_eq(decode_steps(2, "\xff\x08\x01\x00\x01", 5), -EPROTO, "one more");
	cr_assert_eq(decode_steps(2, "\x05\x01" MAX_VARINT "\x01", 13), -EPROTO, "wraps");
	cr_assert_eq(decode_steps(1, MAX_VARINT "\x01", 11), -EPROTO, "gap");
	cr_assert_eq(decode_steps(1, "\x05\x00", 2), -EPROTO, "empty");
	cr_assert_eq(decode_steps(1, "\x05", 1), -EPROTO, "no count");
	cr_assert_eq(decode_steps(1, "\x05\x80", 2), -EPROTO, "cut count");
	cr_assert_eq(decode_steps(1, "\x80", 1), -EPROTO, "cut gap");
	cr_assert_eq(decode_steps(0, "\x05\x01", 2), -EPROTO, "unannounced");
	cr_assert_eq(decode_steps(1, "\x05\xff\xff\xff\xff\x0f", 6), 0, "32 bits");
	cr_assert_eq(decode_steps(1, "\x05\x80\x80\x80\x80\x10", 6), -EPROTO, "33 bits");
}

Test(wire_message, an_abort_survives_the_wire_with_harmless_text)
{
	struct gw_abort msg = {.code = -ECANCELED, .text = "by the user\x1b[31m"}, got;
	size_t len = gw_abort_encode(&msg, payload);

	cr_assert_eq(len, 4 + GW_ABORT_TEXT_LEN);
	cr_assert_eq(gw_abort_decode(payload, len, &got), 0);
	cr_assert_eq(got.code, -ECANCELED);
	cr_assert_str_eq(got.text, "by the user?[31m");
	EXPECT_EXACT_LENGTH(gw_abort_decode, struct gw_abort, len);
}

Test(wire_message, an_abort_whose_code_is_no_error_is_refused)
{
	static const int32_t wrong[] = {0, 1, INT32_MAX, -4096, INT32_MIN};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(wrong); i++) {
		struct gw_abort msg = {.code = wrong[i]}, got = {.code = -1};
		size_t len = gw_abort_encode(&msg, payload);

		cr_assert_eq(gw_abort_decode(payload, len, &got), -EPROTO);
		cr_assert_eq(got.code, -1);
	}
}

/* ---- runs ---- */

Test(wire_message, runs_survive_the_wire_up_to_the_region_s_edge)
{
	static const uint64_t runs[][2] = {
		{0, 1}, {1, 1}, {500, 1000}, {1ULL << 40, 1ULL << 20}};
	const uint64_t units = (1ULL << 40) + (1ULL << 20);
	struct gw_runs_writer w;
	struct gw_runs_reader r;
	uint64_t first, count;
	uint16_t region;

	gw_runs_begin(&w, payload, 7);
	for (unsigned int i = 0; i < GW_ARRAY_SIZE(runs); i++)
		cr_assert(gw_runs_add(&w, runs[i][0], runs[i][1]));
	cr_assert_eq(gw_runs_region(payload, w.used, &region), 0);
	cr_assert_eq(region, 7);

	gw_runs_open(&r, payload, w.used, units);
	for (unsigned int i = 0; i < GW_ARRAY_SIZE(runs); i++) {
		cr_assert_eq(gw_runs_next(&r, &first, &count), 1);
		cr_assert_eq(first, runs[i][0]);
		cr_assert_eq(count, runs[i][1]);
	}
	cr_assert_eq(gw_runs_next(&r, &first, &count), 0);

	gw_runs_open(&r, payload, w.used, units - 1);
	for (unsigned int i = 0; i + 1 < GW_ARRAY_SIZE(runs); i++)
		cr_assert_eq(gw_runs_next(&r, &first, &count), 1);
	cr_assert_eq(gw_runs_next(&r, &first, &count), -EPROTO);
}

Test(wire_message, a_full_message_of_runs_takes_no_more_and_is_read_back_whole)
{
	struct gw_runs_writer w;
	struct gw_runs_reader r;
	uint64_t first, count, n = 0, m = 0;

	gw_runs_begin(&w, payload, 0);
	while (gw_runs_add(&w, n * 1000000, 999999))
		n++;
	cr_assert_leq(w.used, GW_MESSAGE_MAX);
	cr_assert_gt(w.used, GW_MESSAGE_MAX - 20);
	gw_runs_open(&r, payload, w.used, UINT64_MAX);
	while (gw_runs_next(&r, &first, &count) == 1)
		cr_assert_eq(first, m++ * 1000000);
	cr_assert_eq(m, n);
}

static int first_run(const void *runs, size_t len, uint64_t units)
{
	struct gw_runs_reader r;
	uint64_t first, count;

	memset(payload, 0, 8);
	memcpy(payload + 8, runs, len);
	gw_runs_open(&r, payload, 8 + len, units);
	return gw_runs_next(&r, &first, &count);
}

Test(wire_message, a_run_that_is_empty_cut_or_wraps_around_is_refused)
{
	cr_assert_eq(first_run("\x00\x01", 2, 1), 1);
	cr_assert_eq(first_run("\x00\x00", 2, 100), -EPROTO, "empty");
	cr_assert_eq(first_run("\x05", 1, 100), -EPROTO, "no length");
	cr_assert_eq(first_run("\x05\x80", 2, 100), -EPROTO, "cut length");
	cr_assert_eq(first_run("\x01\x01", 2, 1), -EPROTO, "outside");
	cr_assert_eq(first_run("\x00\x02", 2, 1), -EPROTO, "longer");
	cr_assert_eq(first_run(MAX_VARINT "\x01", 11, 100), -EPROTO, "gap");
	cr_assert_eq(first_run("\x01" MAX_VARINT, 11, 100), -EPROTO, "sum wraps");
	cr_assert_eq(first_run(MAX_VARINT MAX_VARINT, 20, UINT64_MAX), -EPROTO);
	cr_assert_eq(first_run("\x00\x01", 2, 0), -EPROTO, "an empty region");
}

Test(wire_message, a_header_of_runs_that_is_short_or_not_clean_is_refused)
{
	struct gw_runs_writer w;
	uint16_t region = 99;

	gw_runs_begin(&w, payload, 1);
	for (size_t len = 0; len < 8; len++)
		cr_assert_eq(gw_runs_region(payload, len, &region), -EPROTO);
	for (unsigned int i = 2; i < 8; i++) {
		gw_runs_begin(&w, payload, 1);
		payload[i] = 0x80;
		cr_assert_eq(gw_runs_region(payload, 8, &region), -EPROTO);
	}
	cr_assert_eq(region, 99);
}

/* ---- noise ---- */

static void decode_runs_noise(const uint8_t *buf, size_t len)
{
	const uint64_t units = 1ULL << 30;
	struct gw_runs_reader r;
	uint64_t first, count, end = 0;
	uint16_t region;

	if (gw_runs_region(buf, len, &region))
		return;
	gw_runs_open(&r, buf, len, units);
	while (gw_runs_next(&r, &first, &count) == 1) {
		cr_assert(count && first >= end && first < units);
		cr_assert_leq(count, units - first);
		end = first + count;
	}
}

static void decode_setup_noise(const uint8_t *buf, size_t len)
{
	static struct gw_setup setup;

	if (gw_setup_decode(buf, len, &setup))
		return;
	cr_assert(setup.n_regions >= 1 && setup.n_regions <= GW_SETUP_REGIONS_MAX);
	for (unsigned int i = 0; i < setup.n_regions; i++)
		cr_assert_lt(strnlen(setup.regions[i].name, GW_SETUP_NAME_LEN),
			     GW_SETUP_NAME_LEN);
}

static void decode_progress_noise(const uint8_t *buf, size_t len)
{
	static struct gw_progress progress;
	uint64_t sum = 0;

	if (gw_progress_decode(buf, len, &progress))
		return;
	for (unsigned int i = 0; i < GW_HIST_STEPS; i++)
		sum += progress.faults.steps[i];
	cr_assert_eq(sum, progress.faults.count);
}

static void decode_abort_noise(const uint8_t *buf, size_t len)
{
	struct gw_abort msg;

	if (gw_abort_decode(buf, len, &msg))
		return;
	cr_assert(msg.code < 0 && msg.code >= -4095);
	for (const char *c = msg.text; *c; c++)
		cr_assert((unsigned char)*c >= 0x20 && *c != 0x7f);
}

static void decode_handshake_noise(const uint8_t *buf)
{
	struct gw_hello hello;
	struct gw_welcome welcome;
	struct gw_accept accept;

	if (!gw_hello_decode(buf, &hello))
		cr_assert(hello.oldest <= GW_WIRE_VERSION &&
			  hello.version >= GW_WIRE_OLDEST);
	if (!gw_welcome_decode(buf, &welcome))
		cr_assert_lt(strnlen(welcome.reason, GW_REASON_LEN), GW_REASON_LEN);
	if (!gw_accept_decode(buf, &accept))
		cr_assert_lt(strnlen(accept.reason, GW_REASON_LEN), GW_REASON_LEN);
}

/* Each buffer ends where its allocation ends, so that a sanitizer sees an overrun. */
Test(wire_message, random_bytes_never_crash_and_never_yield_values_out_of_range)
{
	uint64_t seed = 88172645463325252ULL;

	for (unsigned int i = 0; i < 100000; i++) {
		size_t len = next_random(&seed) % 600;
		GW_AUTO_FREE uint8_t *buf = malloc(len + 1), *hello = malloc(256);
		struct gw_message_header header;

		for (size_t n = 0; n < len; n++)
			buf[n] = (uint8_t)next_random(&seed);
		if (len > 8 && i % 2)
			memset(buf + 2, 0, 6); /* past the header of runs */
		if (len > 26 && i % 5 == 0)
			memcpy(buf + 24, "\x03\x00", 2); /* three steps, and short ones */
		if (len >= 6 && i % 3 == 0)
			memcpy(buf + 4, "\x02\x00", 2); /* a setup of two regions */
		buf = realloc(buf, len ? len : 1);
		decode_runs_noise(buf, len);
		decode_setup_noise(buf, len);
		decode_abort_noise(buf, len);
		decode_progress_noise(buf, len);
		if (len >= sizeof(uint64_t) && !decode_header(buf, &header))
			cr_assert(header.type < GW_N_MESSAGES &&
				  header.length <= GW_MESSAGE_MAX);

		for (size_t n = 0; n < 256; n++)
			hello[n] = (uint8_t)next_random(&seed);
		if (i % 2)
			memcpy(hello, GW_WIRE_MAGIC, 8);
		decode_handshake_noise(hello);
	}
}

Test(wire_message, a_good_setup_with_a_few_bits_off_never_yields_values_out_of_range)
{
	uint64_t seed = 12345;

	for (unsigned int i = 0; i < 50000; i++) {
		size_t len = encode_setup(1 + i % 3);

		for (unsigned int n = 1 + next_random(&seed) % 3; n; n--)
			payload[next_random(&seed) % 16] ^=
				(uint8_t)(1U << next_random(&seed) % 8);
		decode_setup_noise(payload, len);
	}
}
