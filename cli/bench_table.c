/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a benchmark found, for people: a heading, and a table for each subject. */
#include "cli/bench_table.h"

#include <stdbool.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/text.h"

enum column { LABELS, FIGURE, MEDIAN, RANGE, RATIO, CEILING, N_COLUMNS };

#define CELL_MAX 96

struct row {
	char cells[N_COLUMNS][CELL_MAX];
};

static const struct row heading = {
	.cells = {"", "", "median", "range", "ratio", "to"},
};

static const char *string_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key)) ?: "";
}

static double number_of(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static struct text value_text(double value, const char *unit)
{
	struct text text;

	if (!strcmp(unit, "bytes/s"))
		return text_rate((uint64_t)value);
	if (!strcmp(unit, "ns"))
		return text_time((uint64_t)value);
	if (!strcmp(unit, "s"))
		return text_time((uint64_t)(value * 1e9));
	if (!strcmp(unit, "s/GiB")) {
		text = text_time((uint64_t)(value * 1e9));
		strcat(text.s, "/GiB");
		return text;
	}
	if (!strcmp(unit, "pages/s"))
		snprintf(text.s, sizeof(text.s), "%.0f pages/s", value);
	else
		snprintf(text.s, sizeof(text.s), "%.2f", value);
	return text;
}

static void label_append(char *cell, const char *name, const json_t *value)
{
	size_t used = strlen(cell);
	const char *gap = used ? ", " : "";

	if (json_is_string(value))
		snprintf(cell + used, CELL_MAX - used, "%s%s %s", gap, name,
			 json_string_value(value));
	else
		snprintf(cell + used, CELL_MAX - used, "%s%s %g", gap, name,
			 json_number_value(value));
}

static void row_fill(struct row *row, const json_t *result)
{
	const json_t *ceiling = json_object_get(result, "ceiling"), *value;
	const char *unit = string_of(result, "unit"), *name;

	*row = (struct row){0};
	json_object_foreach(json_object_get(result, "labels"), name, value)
		label_append(row->cells[LABELS], name, value);
	snprintf(row->cells[FIGURE], CELL_MAX, "%s", string_of(result, "figure"));
	snprintf(row->cells[MEDIAN], CELL_MAX, "%s",
		 value_text(number_of(result, "median"), unit).s);
	snprintf(row->cells[RANGE], CELL_MAX, "%s to %s",
		 value_text(number_of(result, "min"), unit).s,
		 value_text(number_of(result, "max"), unit).s);
	if (!json_is_object(ceiling))
		return;
	snprintf(row->cells[RATIO], CELL_MAX, "%.2f", number_of(ceiling, "ratio"));
	snprintf(row->cells[CEILING], CELL_MAX, "%s: %s", string_of(ceiling, "what"),
		 value_text(number_of(ceiling, "median"), unit).s);
}

static void row_print(FILE *out, const struct row *row, const size_t *widths)
{
	size_t last = N_COLUMNS - 1;

	while (last && !row->cells[last][0])
		last--;
	for (size_t i = 0; i <= last; i++)
		fprintf(out, "  %-*s", i < last ? (int)widths[i] : 0, row->cells[i]);
	fputc('\n', out);
}

static void widths_grow(size_t *widths, const struct row *row)
{
	for (size_t i = 0; i < N_COLUMNS; i++)
		if (strlen(row->cells[i]) > widths[i])
			widths[i] = strlen(row->cells[i]);
}

/* The results of the subject that begins at @from: where the next begins. */
static size_t subject_print(FILE *out, const json_t *results, size_t from)
{
	const char *subject = string_of(json_array_get(results, from), "subject");
	size_t widths[N_COLUMNS] = {0}, to = from;
	struct row row;

	widths_grow(widths, &heading);
	for (; to < json_array_size(results); to++) {
		if (strcmp(string_of(json_array_get(results, to), "subject"), subject))
			break;
		row_fill(&row, json_array_get(results, to));
		widths_grow(widths, &row);
	}
	fprintf(out, "\n%s\n", subject);
	row_print(out, &heading, widths);
	for (size_t i = from; i < to; i++) {
		row_fill(&row, json_array_get(results, i));
		row_print(out, &row, widths);
	}
	return to;
}

static void head_print(FILE *out, const json_t *document)
{
	const json_t *machine = json_object_get(document, "machine");
	const json_t *quiet = json_object_get(document, "quiet");
	uint64_t mib = (uint64_t)number_of(machine, "memory_mib");

	fprintf(out, "Machine  %s, %.0f CPUs, %s\n", string_of(machine, "cpu"),
		number_of(machine, "cpus"), text_size(mib << 20).s);
	fprintf(out, "Kernel   Linux %s\n", string_of(machine, "kernel"));
	fprintf(out, "Command  %s\n", string_of(document, "command"));
	fprintf(out, "Seed     %.0f\n", number_of(document, "seed"));
	if (!json_is_true(json_object_get(quiet, "ok")))
		fprintf(out, "Not quiet: %s\n", string_of(quiet, "why"));
}

void bench_table_print(FILE *out, const json_t *document)
{
	const json_t *results = json_object_get(document, "results");
	size_t at = 0;

	head_print(out, document);
	while (at < json_array_size(results))
		at = subject_print(out, results, at);
}
