/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Frames and page requests: what is written is read, what lies is refused. */
#include <criterion/criterion.h>
#include <string.h>

#include "wire/frame.h"

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Three units of data, two zero ones, in an extent of full length. */
static struct gw_frame pages_frame(void)
{
	return (struct gw_frame){
		.type = GW_FRAME_PAGES,
		.encoding = GW_ENCODING_RAW,
		.region = 3,
		.payload = 3 * GW_UNIT_SIZE,
		.unit = 7 * GW_EXTENT_UNITS,
		.count = GW_EXTENT_UNITS,
		.data = {1, [7] = 3ULL << 62},
		.zero = {2, [3] = 1},
	};
}

static struct gw_frame lz4_frame(unsigned int units)
{
	struct gw_frame frame = {
		.type = GW_FRAME_PAGES,
		.encoding = GW_ENCODING_LZ4,
		.payload = 100,
		.count = GW_EXTENT_UNITS,
	};

	for (unsigned int i = 0; i < units; i++)
		frame.data[i / 64] |= 1ULL << (i % 64);
	return frame;
}

static int reencode(const struct gw_frame *frame, struct gw_frame *ret)
{
	uint8_t buf[GW_FRAME_LEN];

	gw_frame_encode(frame, buf);
	return gw_frame_decode(buf, ret);
}

static void expect_same(struct gw_frame frame)
{
	struct gw_frame got;

	memset(&got, 0xa5, sizeof(got));
	cr_assert_eq(reencode(&frame, &got), 0);
	cr_assert_eq(got.type, frame.type);
	cr_assert_eq(got.encoding, frame.encoding);
	cr_assert_eq(got.region, frame.region);
	cr_assert_eq(got.payload, frame.payload);
	cr_assert_eq(got.unit, frame.unit);
	cr_assert_eq(got.count, frame.count);
	cr_assert_arr_eq(got.data, frame.data, sizeof(got.data));
	cr_assert_arr_eq(got.zero, frame.zero, sizeof(got.zero));
}

/* Refused, and the caller's frame is left as it was. */
static void expect_refused(struct gw_frame frame, const char *why)
{
	struct gw_frame got = {.type = 77, .region = 4711}, untouched = got;

	cr_assert_eq(reencode(&frame, &got), -EPROTO, "%s", why);
	cr_assert_eq(memcmp(&got, &untouched, sizeof(got)), 0, "%s", why);
}

Test(wire_frame, pages_survive_the_wire)
{
	struct gw_frame frame = pages_frame();

	expect_same(frame);
	expect_same(lz4_frame(1));
	expect_same(lz4_frame(GW_FRAME_LZ4_UNITS));

	frame = pages_frame();
	frame.region = UINT16_MAX;
	frame.unit = UINT64_MAX - (GW_EXTENT_UNITS - 1);
	expect_same(frame);
}

Test(wire_frame, an_extent_of_zeroes_alone_has_no_payload)
{
	struct gw_frame frame = pages_frame();

	memset(frame.data, 0, sizeof(frame.data));
	memset(frame.zero, 0xff, sizeof(frame.zero));
	frame.payload = 0;
	expect_same(frame);
}

Test(wire_frame, zero_ranges_and_barriers_survive_the_wire)
{
	expect_same((struct gw_frame){
		.type = GW_FRAME_ZERO, .region = 9, .unit = 5, .count = 1ULL << 40});
	expect_same((struct gw_frame){.type = GW_FRAME_BARRIER, .count = UINT64_MAX});
	expect_same((struct gw_frame){.type = GW_FRAME_BARRIER});
}

Test(wire_frame, every_field_has_its_documented_place)
{
	struct gw_frame frame = pages_frame();
	static const uint8_t head[24] = {
		1,    0,    3, 0,	      /* type, encoding, region */
		0x00, 0x30, 0, 0,	      /* payload: 3 * 4096 */
		0x00, 0x0e, 0, 0, 0, 0, 0, 0, /* unit: 3584 */
		0x00, 0x02, 0, 0, 0, 0, 0, 0, /* count: 512 */
	};
	uint8_t buf[GW_FRAME_LEN];

	gw_frame_encode(&frame, buf);
	cr_assert_arr_eq(buf, head, sizeof(head));
	cr_assert_eq(buf[24], 1);      /* data: unit 0 */
	cr_assert_eq(buf[87], 0xc0);   /* data: units 510 and 511 */
	cr_assert_eq(buf[88], 2);      /* zero: unit 1 */
	cr_assert_eq(buf[88 + 24], 1); /* zero: unit 192 */
}

Test(wire_frame, an_unknown_type_or_encoding_is_refused)
{
	for (unsigned int i = 0; i < 256; i++) {
		struct gw_frame frame = pages_frame();

		frame.type = (uint8_t)i;
		if (i != GW_FRAME_PAGES)
			expect_refused(frame, "type");
		frame = pages_frame();
		frame.encoding = (uint8_t)i;
		if (i != GW_ENCODING_RAW)
			expect_refused(frame, "encoding");
	}
}

Test(wire_frame, pages_outside_of_one_extent_are_refused)
{
	struct gw_frame frame = pages_frame();

	frame.count = 0;
	expect_refused(frame, "count 0");
	frame.count = GW_EXTENT_UNITS + 1;
	expect_refused(frame, "count 513");
	frame.count = UINT64_MAX;
	expect_refused(frame, "count of all ones");
	frame = pages_frame();
	frame.unit++;
	expect_refused(frame, "unit within an extent");
}

Test(wire_frame, masks_beyond_the_count_are_refused)
{
	for (unsigned int count = 1; count < GW_EXTENT_UNITS; count++) {
		struct gw_frame frame = {
			.type = GW_FRAME_PAGES, .payload = GW_UNIT_SIZE, .count = count};

		frame.data[(count - 1) / 64] = 1ULL << ((count - 1) % 64);
		expect_same(frame);
		memset(frame.data, 0, sizeof(frame.data));
		frame.data[count / 64] = 1ULL << (count % 64);
		expect_refused(frame, "data");
		memset(frame.data, 0, sizeof(frame.data));
		frame.payload = 0;
		frame.zero[count / 64] = 1ULL << (count % 64);
		expect_refused(frame, "zero");
	}
}

Test(wire_frame, a_unit_in_both_masks_is_refused)
{
	for (unsigned int bit = 0; bit < GW_EXTENT_UNITS; bit++) {
		struct gw_frame frame = {.type = GW_FRAME_PAGES,
					 .payload = GW_UNIT_SIZE,
					 .count = GW_EXTENT_UNITS};

		frame.data[bit / 64] = frame.zero[bit / 64] = 1ULL << (bit % 64);
		expect_refused(frame, "both");
	}
}

Test(wire_frame, a_raw_payload_has_exactly_its_units_bytes)
{
	static const uint32_t wrong[] = {
		0,
		1,
		3 * GW_UNIT_SIZE - 1,
		3 * GW_UNIT_SIZE + 1,
		2 * GW_UNIT_SIZE,
		UINT32_MAX,
	};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(wrong); i++) {
		struct gw_frame frame = pages_frame();

		frame.payload = wrong[i];
		expect_refused(frame, "payload");
	}
}

Test(wire_frame, a_compressed_payload_is_smaller_than_its_units_and_not_empty)
{
	struct gw_frame frame = lz4_frame(4);

	frame.payload = 4 * GW_UNIT_SIZE - 1;
	expect_same(frame);
	frame.payload = 4 * GW_UNIT_SIZE;
	expect_refused(frame, "as large");
	frame.payload = 0;
	expect_refused(frame, "empty");
	expect_refused(lz4_frame(0), "no units");
	expect_refused(lz4_frame(GW_FRAME_LZ4_UNITS + 1), "too many units");
}

Test(wire_frame, a_zero_range_or_barrier_carries_nothing_else)
{
	static const struct gw_frame zero = {.type = GW_FRAME_ZERO, .count = 1},
				     barrier = {.type = GW_FRAME_BARRIER, .count = 1};

	for (unsigned int i = 0; i < 2; i++) {
		const struct gw_frame good = i ? barrier : zero;
		struct gw_frame bad = good;

		expect_same(good);
		bad.payload = 1;
		expect_refused(bad, "payload");
		bad = good;
		bad.encoding = 1;
		expect_refused(bad, "encoding");
		bad = good;
		bad.data[7] = 1ULL << 63;
		expect_refused(bad, "data mask");
		bad = good;
		bad.zero[0] = 1;
		expect_refused(bad, "zero mask");
	}
	expect_refused((struct gw_frame){.type = GW_FRAME_ZERO}, "empty range");
	expect_refused((struct gw_frame){.type = GW_FRAME_BARRIER, .unit = 1}, "unit");
	expect_refused((struct gw_frame){.type = GW_FRAME_BARRIER, .region = 1},
		       "region");
}

/* What a receiver relies on once a frame has been decoded. */
static void check_promises(const struct gw_frame *frame)
{
	unsigned int data = gw_mask_count(frame->data), first = 0, len, sum = 0;

	for (unsigned int i = 0; i < GW_MASK_WORDS; i++)
		cr_assert_not(frame->data[i] & frame->zero[i]);
	while ((len = gw_mask_next_run(frame->data, &first))) {
		first += len;
		sum += len;
		cr_assert_leq(first, frame->count);
	}
	cr_assert_eq(sum, data);
	if (frame->type != GW_FRAME_PAGES) {
		cr_assert_eq(frame->payload, 0);
		return;
	}
	cr_assert(frame->count >= 1 && frame->count <= GW_EXTENT_UNITS);
	cr_assert_eq(frame->unit % GW_EXTENT_UNITS, 0);
	cr_assert_leq(frame->payload, data * GW_UNIT_SIZE);
	if (frame->encoding == GW_ENCODING_LZ4)
		cr_assert_lt(frame->payload, GW_FRAME_LZ4_MAX);
}

Test(wire_frame, random_bytes_never_yield_a_frame_that_lies)
{
	uint64_t seed = 0x9e3779b97f4a7c15ULL;
	unsigned int accepted = 0;

	for (unsigned int i = 0; i < 300000; i++) {
		struct gw_frame good = i % 2 ? pages_frame() : lz4_frame(i % 70), got;
		uint8_t buf[GW_FRAME_LEN];

		/* Half of them are all noise, the others a good frame with a few bits off. */
		gw_frame_encode(&good, buf);
		if (i % 4 < 2)
			for (unsigned int n = next_random(&seed) % 4; n; n--)
				buf[next_random(&seed) % sizeof(buf)] ^=
					(uint8_t)(1U << next_random(&seed) % 8);
		else
			for (unsigned int n = 0; n < sizeof(buf); n++)
				buf[n] = (uint8_t)next_random(&seed);
		if (gw_frame_decode(buf, &got))
			continue;
		check_promises(&got);
		accepted++;
	}
	cr_assert_gt(accepted, 1000, "only %u: the test tries nothing", accepted);
}

/* ---- masks ---- */

Test(wire_frame, runs_of_a_mask_are_found_across_words)
{
	uint64_t mask[GW_MASK_WORDS] = {0};
	unsigned int first = 0;

	cr_assert_eq(gw_mask_next_run(mask, &first), 0);
	cr_assert_eq(first, GW_EXTENT_UNITS);

	mask[0] = 1ULL << 63;
	mask[1] = ~0ULL;
	mask[2] = 1;
	mask[7] = 1ULL << 63;
	first = 0;
	cr_assert_eq(gw_mask_next_run(mask, &first), 66);
	cr_assert_eq(first, 63);
	first += 66;
	cr_assert_eq(gw_mask_next_run(mask, &first), 1);
	cr_assert_eq(first, 511);
	first++;
	cr_assert_eq(gw_mask_next_run(mask, &first), 0);
	cr_assert_eq(gw_mask_count(mask), 67);

	memset(mask, 0xff, sizeof(mask));
	first = 0;
	cr_assert_eq(gw_mask_next_run(mask, &first), GW_EXTENT_UNITS);
	cr_assert_eq(gw_mask_count(mask), GW_EXTENT_UNITS);
}

Test(wire_frame, runs_of_random_masks_are_those_of_a_walk_bit_by_bit)
{
	uint64_t seed = 4711;

	for (unsigned int round = 0; round < 2000; round++) {
		uint64_t mask[GW_MASK_WORDS];
		unsigned int first = 0, len, bit = 0;

		for (unsigned int i = 0; i < GW_MASK_WORDS; i++)
			mask[i] = next_random(&seed) |
				  (round % 2 ? next_random(&seed) << 1 : 0);
		while ((len = gw_mask_next_run(mask, &first))) {
			for (; bit < first; bit++)
				cr_assert_not(mask[bit / 64] >> (bit % 64) & 1);
			for (; bit < first + len; bit++)
				cr_assert(mask[bit / 64] >> (bit % 64) & 1);
			first += len;
		}
		for (; bit < GW_EXTENT_UNITS; bit++)
			cr_assert_not(mask[bit / 64] >> (bit % 64) & 1);
	}
}

/* ---- requests ---- */

Test(wire_frame, page_requests_survive_the_wire)
{
	static const struct gw_request requests[] = {
		{0, 0}, {1, 2}, {UINT16_MAX, UINT64_MAX}};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(requests); i++) {
		uint8_t buf[GW_REQUEST_LEN];
		struct gw_request got;

		gw_request_encode(&requests[i], buf);
		cr_assert_eq(gw_request_decode(buf, &got), 0);
		cr_assert_eq(got.region, requests[i].region);
		cr_assert_eq(got.unit, requests[i].unit);
	}
}

Test(wire_frame, a_request_with_reserved_bits_is_refused)
{
	for (unsigned int bit = 0; bit < 48; bit++) {
		struct gw_request request = {.region = 1, .unit = 2},
				  got = {.region = 99};
		uint8_t buf[GW_REQUEST_LEN];

		gw_request_encode(&request, buf);
		buf[2 + bit / 8] ^= (uint8_t)(1U << bit % 8);
		cr_assert_eq(gw_request_decode(buf, &got), -EPROTO);
		cr_assert_eq(got.region, 99);
	}
}
