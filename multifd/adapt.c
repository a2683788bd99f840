/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does compressing pay on this channel, now?
 *
 * Uncompressed is where everything starts. The rate at which it goes is
 * measured by windows of time; then, now and then, one piece is compressed as a
 * sample. If its speed and ratio promise to be faster than the measured rate,
 * compressing begins. From then on promises do not count: what counts is guest
 * memory moved in a second, all told, against the rate without. So whatever the
 * model does not know (a receiver that is the bottleneck, cores that are all
 * busy) ends in going uncompressed again.
 *
 * What a wrong guess costs is bounded. A sample is followed by at least a
 * hundred times its length without one, doubled each time it would not have
 * paid. Unless it is known that the network is what all wait for (and not, say,
 * a destination that is out of processor time), the guess is a doubtful one: it
 * is made only when there was a hundred times as much before it as it may cost.
 * The rest after compressing that did not pay doubles too.
 * While it pays, the rate without is measured anew at growing intervals, since
 * the link may have become faster.
 *
 * A rate is no rate while the socket's buffer fills: after a pause the first
 * megabytes say nothing, up to the first piece that had to wait.
 */
#include "multifd/adapt.h"

#include "base/util.h"

#define MS (GW_NSEC / 1000)

/* What Linux lets a socket's send buffer grow to. */
#define BURST_BYTES (4U << 20)
/* A piece that took so long has met a full buffer: at most 2 MiB take 1 ms to copy. */
#define WAITED (4 * MS)
/* Long enough to hold many pieces, short enough to be a small part of a round. */
#define WINDOW (20 * MS)
/* Compressed, a window holds many pieces on slow links too: they differ. */
#define WINDOW_BYTES (4U << 20)
/* Beyond it a link leaves LZ4 behind, whatever the data: not even samples are due. */
#define TOO_FAST 2e9
/* Less than this shrinking is not worth anybody's time. */
#define RATIO_MIN 1.1
/* A sample has to promise this much, compressing has to keep that much. */
#define PROMISE 1.1
#define KEEP	1.05

#define SAMPLE_COST   100 /* a hundredth of the time goes into samples at most */
#define SAMPLE_REST   (1 * GW_NSEC)
#define TRIAL_REST    (50 * MS)
#define DOUBTFUL_REST (4 * GW_NSEC)
#define DOUBLINGS     4
#define PROBE	      (4 * GW_NSEC)
#define PROBE_MAX     (16 * GW_NSEC)

static double rate(uint64_t bytes, uint64_t ns)
{
	return (double)bytes * (double)GW_NSEC / (double)GW_MAX(ns, 1ULL);
}

static void mix(double *average, double latest, double weight)
{
	*average = *average > 0 ? *average * (1 - weight) + latest * weight : latest;
}

static void empty_window(struct gw_adapt *adapt)
{
	adapt->raw = adapt->ns = adapt->wire = 0;
	adapt->held = true;
}

void gw_adapt_init(struct gw_adapt *adapt)
{
	*adapt = (struct gw_adapt){
		.settle = BURST_BYTES,
		.held = true,
		.probe_ns = PROBE,
	};
}

void gw_adapt_begin(struct gw_adapt *adapt)
{
	empty_window(adapt);
	adapt->settle = BURST_BYTES;
}

bool gw_adapt_wants_lz4(const struct gw_adapt *adapt)
{
	return adapt->packing || (!adapt->settle && !adapt->rest && adapt->plain > 0 &&
				  adapt->plain < TOO_FAST);
}

void gw_adapt_sent(struct gw_adapt *adapt, uint64_t raw, uint64_t ns, bool held)
{
	adapt->rest -= GW_MIN(adapt->rest, ns);
	adapt->since += ns;
	/* Huge pages between others: they tell nothing of what compressing gains. */
	if (adapt->packing)
		return;
	if (adapt->settle) {
		adapt->settle -=
			ns >= WAITED ? adapt->settle : GW_MIN(adapt->settle, raw);
		return;
	}
	adapt->raw += raw;
	adapt->ns += ns;
	adapt->held &= held;
	if (adapt->ns < WINDOW)
		return;
	adapt->network = adapt->held;
	mix(&adapt->plain, rate(adapt->raw, adapt->ns), 0.5);
	empty_window(adapt);
}

static void begin_packing(struct gw_adapt *adapt)
{
	adapt->packing = true;
	adapt->proven = false;
	adapt->since = 0;
	adapt->packed = 0;
	empty_window(adapt);
}

/* The rate without compression is measured anew, from where the buffer is full. */
static void end_packing(struct gw_adapt *adapt)
{
	adapt->packing = false;
	adapt->since = 0;
	adapt->plain = 0;
	gw_adapt_begin(adapt);
}

static void rest_after_sample(struct gw_adapt *adapt, uint64_t cost)
{
	adapt->sample_rest = GW_MIN(adapt->sample_rest * 2, SAMPLE_REST);
	adapt->sample_rest = GW_MAX(adapt->sample_rest, SAMPLE_COST * cost);
	adapt->rest = adapt->sample_rest;
}

/* How long to go without before compressing is tried. */
static uint64_t patience(const struct gw_adapt *adapt)
{
	unsigned int doublings = GW_MIN(adapt->failed, DOUBLINGS);

	if (adapt->proven)
		return 0;
	if (!adapt->network)
		return DOUBTFUL_REST << doublings;
	return adapt->failed ? TRIAL_REST << doublings : 0;
}

static void judge_sample(struct gw_adapt *adapt, uint64_t raw, uint64_t wire, uint64_t ns)
{
	double ratio = (double)raw / (double)GW_MAX(wire, 1ULL);
	double promised = GW_MIN(rate(raw, ns), ratio * adapt->plain);

	if (ratio >= RATIO_MIN && promised > adapt->plain * PROMISE &&
	    adapt->since >= patience(adapt))
		begin_packing(adapt);
	else
		rest_after_sample(adapt, ns);
}

static void judge_window(struct gw_adapt *adapt)
{
	double ratio = (double)adapt->raw / (double)GW_MAX(adapt->wire, 1ULL);

	adapt->since += adapt->ns;
	mix(&adapt->packed, rate(adapt->raw, adapt->ns), 0.25);
	empty_window(adapt);
	if (ratio < RATIO_MIN) {
		/* The data is to blame, the link is as it was: soon look at other data. */
		adapt->packing = false;
		adapt->since = 0;
		adapt->proven = adapt->packed >= adapt->plain * KEEP;
		rest_after_sample(adapt, WINDOW / SAMPLE_COST);
	} else if (adapt->packed < adapt->plain * KEEP) {
		adapt->failed++;
		end_packing(adapt);
	} else if (adapt->since >= adapt->probe_ns) {
		adapt->probe_ns = GW_MIN(adapt->probe_ns * 2, PROBE_MAX);
		adapt->failed = 0;
		adapt->proven = true;
		end_packing(adapt);
	} else {
		adapt->sample_rest = 0;
	}
}

void gw_adapt_sent_lz4(struct gw_adapt *adapt, uint64_t raw, uint64_t wire,
		       uint64_t pack_ns, uint64_t send_ns)
{
	if (!adapt->packing) {
		judge_sample(adapt, raw, wire, pack_ns);
		return;
	}
	adapt->raw += raw;
	adapt->wire += wire;
	adapt->ns += pack_ns + send_ns;
	if (adapt->ns >= WINDOW && adapt->raw >= WINDOW_BYTES)
		judge_window(adapt);
}
