/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A struct godwit_stats as JSON, as one line of progress, and as a report. */
#include "cli/stats.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "cli/text.h"

/* ---- JSON ---- */

#define FIELD(name)                                                                      \
	{                                                                                \
#name, offsetof(struct godwit_stats, name),                              \
			sizeof(((struct godwit_stats *)0)->name)                         \
	}

/* All that are plain numbers, in the order of the struct. */
static const struct field {
	const char *name;
	size_t offset;
	size_t size; /* 4 or 8 */
} fields[] = {
	FIELD(channels),	 FIELD(round),
	FIELD(guest_bytes),	 FIELD(wire_bytes),
	FIELD(data_pages),	 FIELD(zero_pages),
	FIELD(remaining_bytes),	 FIELD(throughput),
	FIELD(dirty_rate),	 FIELD(postcopy_bytes),
	FIELD(elapsed_ns),	 FIELD(downtime_limit_ns),
	FIELD(bandwidth),	 FIELD(blackout_ns),
	FIELD(state_bytes),	 FIELD(faults),
	FIELD(fault_p50_ns),	 FIELD(fault_p99_ns),
	FIELD(fault_max_ns),	 FIELD(fault_mean_ns),
	FIELD(bitmap_bytes),	 FIELD(stop_ns),
	FIELD(save_ns),		 FIELD(last_pages_ns),
	FIELD(load_ns),		 FIELD(commit_ns),
	FIELD(stopped_at_ns),	 FIELD(running_at_ns),
	FIELD(resume_failed),	 FIELD(fault_p90_ns),
	FIELD(fault_p999_ns),	 FIELD(compressed_pages),
	FIELD(compressed_bytes),
};

static uint64_t field_get(const struct godwit_stats *stats, const struct field *field)
{
	const char *at = (const char *)stats + field->offset;
	uint64_t wide;
	uint32_t narrow;

	if (field->size == sizeof(narrow)) {
		memcpy(&narrow, at, sizeof(narrow));
		return narrow;
	}
	memcpy(&wide, at, sizeof(wide));
	return wide;
}

static void field_set(struct godwit_stats *stats, const struct field *field,
		      uint64_t value)
{
	char *at = (char *)stats + field->offset;
	uint32_t narrow = (uint32_t)value;

	if (field->size == sizeof(narrow))
		memcpy(at, &narrow, sizeof(narrow));
	else
		memcpy(at, &value, sizeof(value));
}

json_t *stats_text_json(const char *text)
{
	json_t *string = json_string(text);
	char *copy;

	if (string)
		return string;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *s = copy; *s; s++)
		if ((unsigned char)*s >= 0x80)
			*s = '?';
	string = json_string(copy);
	free(copy);
	return string;
}

json_t *stats_to_json(const struct godwit_stats *stats)
{
	json_t *object = json_pack(
		"{s:s, s:o, s:o}", "state", godwit_state_name(stats->state), "mode",
		stats_text_json(stats->mode), "session", stats_text_json(stats->session));

	for (size_t i = 0; object && i < ARRAY_SIZE(fields); i++) {
		json_int_t value = (json_int_t)field_get(stats, &fields[i]);

		if (json_object_set_new(object, fields[i].name, json_integer(value)) <
		    0) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}

/* [[upper edge in ns, count], …]; *@ret_count: all together. */
static json_t *buckets_json(const struct stats_all *all, uint64_t *ret_count)
{
	json_t *array = json_array();

	*ret_count = 0;
	for (size_t i = 0; array && i < all->n_faults; i++) {
		const struct godwit_bucket *bucket = &all->faults[i];

		*ret_count += bucket->count;
		if (json_array_append_new(
			    array, json_pack("[I, I]", (json_int_t)bucket->upper_ns,
					     (json_int_t)bucket->count)) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static json_t *histogram_json(const struct stats_all *all)
{
	const struct godwit_stats *stats = &all->stats;
	uint64_t count;
	json_t *buckets = buckets_json(all, &count);

	/* json_pack() passes a buckets that is NULL on as its own failure */
	return json_pack(
		"{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "unit", "ns", "count",
		(json_int_t)count, "mean", (json_int_t)stats->fault_mean_ns, "p50",
		(json_int_t)stats->fault_p50_ns, "p90", (json_int_t)stats->fault_p90_ns,
		"p99", (json_int_t)stats->fault_p99_ns, "p99.9",
		(json_int_t)stats->fault_p999_ns, "max", (json_int_t)stats->fault_max_ns,
		"buckets", buckets);
}

json_t *stats_all_to_json(const struct stats_all *all)
{
	json_t *object = stats_to_json(&all->stats);

	if (object &&
	    json_object_set_new(object, "fault_histogram", histogram_json(all)) < 0) {
		json_decref(object);
		return NULL;
	}
	return object;
}

static void string_get(const json_t *object, const char *name, char *buf, size_t size)
{
	snprintf(buf, size, "%s", json_string_value(json_object_get(object, name)) ?: "");
	text_clean(buf);
}

int stats_from_json(const json_t *object, struct godwit_stats *ret)
{
	const char *state = json_string_value(json_object_get(object, "state"));
	struct godwit_stats stats = {0};
	unsigned int i = 0;

	if (!state)
		return -EINVAL;
	while (i < GODWIT_N_STATES &&
	       strcmp(state, godwit_state_name((enum godwit_state)i)))
		i++;
	if (i == GODWIT_N_STATES)
		return -EINVAL;
	stats.state = (enum godwit_state)i;
	string_get(object, "mode", stats.mode, sizeof(stats.mode));
	string_get(object, "session", stats.session, sizeof(stats.session));
	for (size_t f = 0; f < ARRAY_SIZE(fields); f++)
		field_set(&stats, &fields[f],
			  (uint64_t)json_integer_value(
				  json_object_get(object, fields[f].name)));
	*ret = stats;
	return 0;
}

/* ---- one line ---- */

struct line {
	char *buf;
	size_t size;
	size_t used;
};

__attribute__((format(printf, 2, 3))) static void append(struct line *line,
							 const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line->buf + line->used, line->size - line->used, fmt, ap);
	va_end(ap);
	if (n > 0)
		line->used += (size_t)n;
	if (line->used >= line->size)
		line->used = line->size - 1; /* cut */
}

/* While the guest runs at the source, what it writes has to move again. */
static uint64_t dirty_rate(const struct godwit_stats *stats)
{
	return stats->state == GODWIT_STATE_PRECOPY ? stats->dirty_rate : 0;
}

uint64_t stats_eta(const struct godwit_stats *stats)
{
	uint64_t dirty = dirty_rate(stats);
	double ns;

	/* under a hundredth of the rate the estimate says nothing any more */
	if (stats->throughput <= dirty ||
	    stats->throughput - dirty < stats->throughput / 100)
		return UINT64_MAX;
	ns = (double)stats->remaining_bytes * 1e9 / (double)(stats->throughput - dirty);
	return ns < 1e18 ? (uint64_t)ns : UINT64_MAX;
}

static double percent(const struct godwit_stats *stats)
{
	bool pulling = stats->state == GODWIT_STATE_POSTCOPY ||
		       stats->state == GODWIT_STATE_PAUSED;
	uint64_t all = pulling ? stats->postcopy_bytes : stats->guest_bytes;

	if (!all || stats->remaining_bytes >= all)
		return 0;
	return 100.0 * (double)(all - stats->remaining_bytes) / (double)all;
}

static void append_rates(struct line *line, const struct godwit_stats *stats)
{
	uint64_t eta = stats_eta(stats);

	/* nothing was measured yet */
	if (!stats->throughput && !stats->remaining_bytes)
		return;
	append(line, ": %.1f %%, %s, %s left", percent(stats),
	       text_rate(stats->throughput).s, text_size(stats->remaining_bytes).s);
	if (dirty_rate(stats))
		append(line, ", dirty %s", text_rate(stats->dirty_rate).s);
	if (!stats->throughput)
		return;
	if (eta == UINT64_MAX)
		append(line, ", no end at this rate");
	else
		append(line, ", ETA %s", text_time(eta).s);
}

void stats_line(const struct godwit_stats *stats, enum godwit_side side, char *buf,
		size_t size)
{
	struct line line = {buf, size, 0};

	switch (stats->state) {
	case GODWIT_STATE_PREPARE:
		if (stats->session[0])
			append(&line, "preparing");
		else
			append(&line, side == GODWIT_DEST ? "waiting for a source"
							  : "connecting");
		return;
	/* every migration passes here; only one that ends here is undecided */
	case GODWIT_STATE_UNDECIDED:
		append(&line, "handing over");
		return;
	case GODWIT_STATE_DONE:
	case GODWIT_STATE_CANCELLED:
	case GODWIT_STATE_FAILED:
		append(&line, "%s", godwit_state_name(stats->state));
		return;
	default:
		append(&line, "%s", godwit_state_name(stats->state));
	}
	if (stats->round && stats->state == GODWIT_STATE_PRECOPY)
		append(&line, ", round %" PRIu32, stats->round);
	append_rates(&line, stats);
}

/* ---- the report ---- */

static void print_amounts(FILE *out, const struct godwit_stats *stats)
{
	double seconds = (double)stats->elapsed_ns / 1e9;

	fprintf(out, "  guest memory   %s\n", text_size(stats->guest_bytes).s);
	fprintf(out, "  moved          %s", text_size(stats->wire_bytes).s);
	if (stats->elapsed_ns)
		fprintf(out, " in %s: %s", text_time(stats->elapsed_ns).s,
			text_rate((uint64_t)((double)stats->wire_bytes / seconds)).s);
	fprintf(out, "\n  pages          %" PRIu64 " with data, %" PRIu64 " zero\n",
		stats->data_pages, stats->zero_pages);
	if (stats->compressed_pages)
		fprintf(out, "  compressed     %" PRIu64 " of them, %s to %s\n",
			stats->compressed_pages,
			text_size(stats->compressed_pages * 4096).s,
			text_size(stats->compressed_bytes).s);
	if (stats->remaining_bytes)
		fprintf(out, "  remaining      %s\n",
			text_size(stats->remaining_bytes).s);
	if (stats->postcopy_bytes)
		fprintf(out, "  post-copy      %s were missing when the guest moved\n",
			text_size(stats->postcopy_bytes).s);
	if (stats->state_bytes)
		fprintf(out, "  device state   %s\n", text_size(stats->state_bytes).s);
}

static void print_blackout(FILE *out, const struct godwit_stats *stats)
{
	const struct {
		const char *name;
		uint64_t ns;
	} parts[] = {
		{"stop", stats->stop_ns},
		{"save", stats->save_ns},
		{"last pages", stats->last_pages_ns},
		{"load", stats->load_ns},
		{"commit", stats->commit_ns},
	};
	const char *gap = " = ";

	if (!stats->blackout_ns)
		return;
	fprintf(out, "  blackout       %s", text_time(stats->blackout_ns).s);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		if (!parts[i].ns)
			continue;
		fprintf(out, "%s%s %s", gap, parts[i].name, text_time(parts[i].ns).s);
		gap = " + ";
	}
	fputc('\n', out);
}

static void print_faults(FILE *out, const struct godwit_stats *stats)
{
	const struct {
		const char *name;
		uint64_t ns;
	} figures[] = {
		{"p50", stats->fault_p50_ns}, {"p90", stats->fault_p90_ns},
		{"p99", stats->fault_p99_ns}, {"p99.9", stats->fault_p999_ns},
		{"max", stats->fault_max_ns},
	};
	const char *gap = ": ";

	if (!stats->faults)
		return;
	fprintf(out, "  faults         %" PRIu64 " served", stats->faults);
	for (size_t i = 0; i < ARRAY_SIZE(figures); i++) {
		fprintf(out, "%s%s %s", gap, figures[i].name, text_time(figures[i].ns).s);
		gap = ", ";
	}
	fputc('\n', out);
}

void stats_print(FILE *out, const struct godwit_stats *stats)
{
	if (stats->mode[0])
		fprintf(out, "  mode           %s\n", stats->mode);
	if (stats->session[0])
		fprintf(out, "  session        %s\n", stats->session);
	if (stats->channels)
		fprintf(out, "  channels       %" PRIu32 "\n", stats->channels);
	if (stats->round)
		fprintf(out, "  rounds         %" PRIu32 "\n", stats->round);
	print_amounts(out, stats);
	print_blackout(out, stats);
	print_faults(out, stats);
	if (stats->bitmap_bytes)
		fprintf(out, "  bitmaps        %s\n", text_size(stats->bitmap_bytes).s);
}
