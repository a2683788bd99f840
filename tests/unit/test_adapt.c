/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When to compress: decided against a link of which everything is known, in
 * simulated time.
 */
#include <criterion/criterion.h>

#include "base/util.h"
#include "multifd/adapt.h"

#define MS     (GW_NSEC / 1000)
#define MB     1000000ULL
#define EXTENT (2ULL << 20)
#define PIECE  (256ULL << 10)
#define SAMPLE (64ULL << 10)

/* A sender, its socket's buffer, a link and what comes after it. */
struct world {
	/* given */
	double link;	 /* bytes a second over the wire */
	double copy;	 /* bytes a second into the socket's buffer */
	double lz4;	 /* guest bytes a second */
	double ratio;	 /* of the data that is next */
	double receiver; /* guest bytes a second that it can take; 0: any */
	double buffer;	 /* bytes in flight, all buffers together */
	/* observed */
	struct gw_adapt adapt;
	double queued;	    /* bytes in the buffer */
	uint64_t now;	    /* ns */
	uint64_t raw, wire; /* bytes sent */
	uint64_t packed;    /* of raw, compressed */
	uint64_t sampling;  /* ns that went into samples */
	unsigned int samples, switches;
};

static struct world slow_link(void)
{
	struct world world = {
		.link = 62.5 * MB,
		.copy = 4000.0 * MB,
		.lz4 = 900.0 * MB,
		.ratio = 2,
		.buffer = 4 << 20,
	};

	gw_adapt_init(&world.adapt);
	gw_adapt_begin(&world.adapt);
	return world;
}

static void pass(struct world *world, double ns, double drain)
{
	double gone = drain * ns / GW_NSEC;

	world->now += (uint64_t)ns;
	world->queued = gone > world->queued ? 0 : world->queued - gone;
}

/* Bytes a second that leave the buffer: the link's, or what the receiver can take. */
static double drain_of(const struct world *world, double ratio)
{
	return world->receiver && world->receiver / ratio < world->link
		       ? world->receiver / ratio
		       : world->link;
}

static uint64_t send(struct world *world, double bytes, double ratio)
{
	double drain = drain_of(world, ratio);
	uint64_t began = world->now;

	pass(world, bytes / world->copy * GW_NSEC, drain);
	world->queued += bytes;
	if (world->queued > world->buffer)
		pass(world, (world->queued - world->buffer) / drain * GW_NSEC, drain);
	return world->now - began;
}

static void send_plain(struct world *world, uint64_t bytes)
{
	uint64_t ns = send(world, (double)bytes, 1);

	gw_adapt_sent(&world->adapt, bytes, ns,
		      world->queued > (128 << 10) && !world->receiver);
	world->wire += bytes;
}

static void send_lz4(struct world *world, uint64_t bytes)
{
	bool packing = world->adapt.packing;
	uint64_t wire = (uint64_t)((double)bytes / world->ratio), began = world->now, ns;

	/* What does not shrink is skipped over fast. */
	pass(world, (double)bytes / (world->lz4 * (world->ratio < 1.1 ? 4 : 1)) * GW_NSEC,
	     drain_of(world, world->ratio));
	ns = world->now - began;
	gw_adapt_sent_lz4(&world->adapt, bytes, wire, ns,
			  send(world, (double)wire, world->ratio));
	world->wire += wire;
	world->packed += bytes;
	if (!packing) {
		world->samples++;
		world->sampling += ns;
	}
	world->switches += packing != world->adapt.packing;
}

/* Sends @bytes of guest memory as the packer does; bytes a second. */
static double run(struct world *world, uint64_t bytes)
{
	uint64_t began = world->now;

	for (uint64_t done = 0; done < bytes; done += EXTENT) {
		uint64_t left = EXTENT;

		while (left && gw_adapt_wants_lz4(&world->adapt)) {
			uint64_t piece = world->adapt.packing ? PIECE : SAMPLE;

			piece = GW_MIN(piece, left);
			send_lz4(world, piece);
			left -= piece;
		}
		if (left)
			send_plain(world, left);
		world->raw += EXTENT;
	}
	return (double)bytes * GW_NSEC / (double)(world->now - began);
}

Test(adapt, a_fast_link_is_not_even_sampled)
{
	struct world world = slow_link();

	world.link = world.copy = 2500.0 * MB;
	run(&world, 8ULL << 30);
	cr_assert_eq(world.samples, 0);
	cr_assert_eq(world.wire, world.raw);
}

Test(adapt, samples_cost_less_than_a_hundredth)
{
	struct world world = slow_link();

	/* as fast as LZ4: samples are due, compressing is not */
	world.link = 1000.0 * MB;
	run(&world, 512ULL << 20);
	cr_assert_gt(world.samples, 0);
	cr_assert_lt(world.sampling * 100, world.now);
	run(&world, 16ULL << 30);
	cr_assert_lt(world.samples, 40);
	cr_assert_eq(world.switches, 0);
}

Test(adapt, a_slow_link_is_twice_as_fast_with_2_to_1_data)
{
	struct world world = slow_link();
	double rate = run(&world, 128ULL << 20);

	cr_assert_gt(rate, 1.7 * world.link, "%.1f MB/s", rate / MB);
	rate = run(&world, 2ULL << 30);
	cr_assert_gt(rate, 1.93 * world.link, "%.1f MB/s", rate / MB);
}

Test(adapt, data_that_does_not_shrink_goes_as_it_is)
{
	struct world world = slow_link();
	double rate;

	world.ratio = 1;
	rate = run(&world, 2ULL << 30);
	cr_assert_gt(rate, 0.99 * world.link, "%.1f MB/s", rate / MB);
	cr_assert_eq(world.switches, 0);
	cr_assert_lt(world.samples, 60);
}

Test(adapt, compressing_ends_where_the_data_stops_to_shrink_and_begins_again)
{
	struct world world = slow_link();
	uint64_t packed;

	run(&world, 256ULL << 20);
	cr_assert(world.adapt.packing);
	world.ratio = 1;
	packed = world.packed;
	run(&world, 512ULL << 20);
	cr_assert_not(world.adapt.packing);
	cr_assert_lt(world.packed - packed, 64ULL << 20);
	world.ratio = 2;
	run(&world, 256ULL << 20);
	cr_assert(world.adapt.packing);
}

Test(adapt, a_link_that_becomes_slow_is_noticed)
{
	struct world world = slow_link();

	world.link = 1500.0 * MB;
	run(&world, 4ULL << 30);
	cr_assert_not(world.adapt.packing);
	world.link = 50.0 * MB;
	run(&world, 128ULL << 20);
	cr_assert(world.adapt.packing);
	cr_assert_gt(run(&world, 1ULL << 30), 1.9 * world.link);
}

Test(adapt, a_link_that_becomes_fast_is_noticed)
{
	struct world world = slow_link();
	uint64_t began;

	run(&world, 512ULL << 20);
	cr_assert(world.adapt.packing);
	world.link = 1500.0 * MB;
	began = world.now;
	while (world.adapt.packing && world.now - began < 20 * GW_NSEC)
		run(&world, EXTENT);
	cr_assert_lt(world.now - began, 9 * GW_NSEC);
	cr_assert_gt(run(&world, 4ULL << 30), 1400.0 * MB);
}

/* The promise has to be above a tenth; what was begun may go down to a twentieth. */
Test(adapt, between_the_two_thresholds_all_stays_as_it_is)
{
	struct world world = slow_link();

	world.link = world.lz4 / 1.07;
	run(&world, 8ULL << 30);
	cr_assert_eq(world.switches, 0);

	world = slow_link();
	world.link = world.lz4 / 1.3;
	world.ratio = 4;
	run(&world, 512ULL << 20);
	cr_assert(world.adapt.packing);
	world.lz4 = world.link * 1.15;
	run(&world, 1ULL << 30);
	cr_assert(world.adapt.packing);
	cr_assert_eq(world.switches, 1);
}

/* The buffers between hide it for a while: what goes in is not what comes out. */
Test(adapt, a_slow_destination_is_not_taken_for_a_slow_link)
{
	struct world world = slow_link();
	double rate;

	world.link = 2500.0 * MB;
	world.receiver = 400.0 * MB;
	world.buffer = 36 << 20;
	run(&world, 1ULL << 30);
	cr_assert_eq(world.switches, 0);
	/* Compressed it is slower still, and stays a rare attempt. */
	world.lz4 = 300.0 * MB;
	rate = run(&world, 32ULL << 30);
	cr_assert_gt(rate, 0.98 * world.receiver, "%.1f MB/s", rate / MB);
}

Test(adapt, what_compressing_in_vain_costs_is_bounded)
{
	struct world world = slow_link();
	double rate;

	/* Promises twice the rate, and then everything takes longer. */
	world.link = 200.0 * MB;
	world.ratio = 2;
	run(&world, 8ULL << 20);
	for (int i = 0; i < 4096; i++) {
		world.lz4 = (world.adapt.packing ? 150.0 : 900.0) * MB;
		run(&world, EXTENT);
	}
	rate = (double)world.raw * GW_NSEC / (double)world.now;
	cr_assert_gt(world.switches, 2);
	cr_assert_gt(rate, 0.97 * world.link, "%.1f MB/s", rate / MB);
}

Test(adapt, short_bursts_into_an_empty_buffer_say_nothing_of_the_link)
{
	struct world world = slow_link();

	run(&world, 512ULL << 20);
	cr_assert(world.adapt.packing);
	for (int i = 0; i < 50; i++) {
		world.queued = 0;
		gw_adapt_begin(&world.adapt);
		run(&world, 2 * EXTENT);
	}
	cr_assert(world.adapt.packing);

	world = slow_link();
	for (int i = 0; i < 50; i++) {
		world.queued = 0;
		gw_adapt_begin(&world.adapt);
		run(&world, EXTENT);
	}
	cr_assert_eq(world.adapt.plain, 0);
	cr_assert_eq(world.samples, 0);
}

Test(adapt, the_first_megabytes_of_a_slow_link_delay_the_decision_but_do_not_spoil_it)
{
	struct world world = slow_link();

	while (!world.adapt.packing && world.raw < (64ULL << 20))
		run(&world, EXTENT);
	cr_assert_lt(world.raw, 20ULL << 20, "%llu bytes", (unsigned long long)world.raw);
}

Test(adapt, where_nobody_knows_what_holds_the_sender_up_it_takes_longer)
{
	struct world world = slow_link();

	/* as over a Unix socket: the same link, and no evidence */
	for (int i = 0; i < 100; i++)
		gw_adapt_sent(&world.adapt, EXTENT, 34 * MS, false);
	cr_assert(gw_adapt_wants_lz4(&world.adapt));
	gw_adapt_sent_lz4(&world.adapt, SAMPLE, SAMPLE / 2, SAMPLE, 0);
	cr_assert_not(world.adapt.packing);
	for (int i = 0; i < 30; i++)
		gw_adapt_sent(&world.adapt, EXTENT, 34 * MS, false);
	gw_adapt_sent_lz4(&world.adapt, SAMPLE, SAMPLE / 2, SAMPLE, 0);
	cr_assert(world.adapt.packing);
}
