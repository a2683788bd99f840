/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Numbers as people read them, and text that is safe to print. */
#include "cli/text.h"

#include <string.h>

#include "cli/cli.h"

#define WIDTH 80U

/* Three digits that matter. */
static int decimals(double value)
{
	if (value < 9.995)
		return 2;
	return value < 99.95 ? 1 : 0;
}

struct text text_size(uint64_t bytes)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes / 1024;
	struct text text;
	size_t unit = 0;

	if (bytes < 1000) {
		snprintf(text.s, sizeof(text.s), "%u B", (unsigned int)bytes);
		return text;
	}
	/* 999.5 and not 1024: "1001 MiB" takes four digits to say "0.98 GiB" */
	for (; value >= 999.5 && unit + 1 < ARRAY_SIZE(units); unit++)
		value /= 1024;
	snprintf(text.s, sizeof(text.s), "%.*f %s", decimals(value), value, units[unit]);
	return text;
}

struct text text_rate(uint64_t bytes_per_second)
{
	struct text text = text_size(bytes_per_second);

	strcat(text.s, "/s");
	return text;
}

static struct text long_time(uint64_t seconds)
{
	struct text text;

	if (seconds < 3600)
		snprintf(text.s, sizeof(text.s), "%u min %u s",
			 (unsigned int)(seconds / 60), (unsigned int)(seconds % 60));
	else
		snprintf(text.s, sizeof(text.s), "%llu h %u min",
			 (unsigned long long)(seconds / 3600),
			 (unsigned int)(seconds / 60 % 60));
	return text;
}

struct text text_time(uint64_t ns)
{
	static const char *const units[] = {"us", "ms", "s"};
	double value = (double)ns / 1000;
	struct text text;
	size_t unit = 0;

	if (ns < 1000) {
		snprintf(text.s, sizeof(text.s), "%u ns", (unsigned int)ns);
		return text;
	}
	if (ns >= 119500000000ULL)
		return long_time(ns / 1000000000 + (ns % 1000000000 >= 500000000));
	for (; value >= 999.5 && unit + 1 < ARRAY_SIZE(units); unit++)
		value /= 1000;
	snprintf(text.s, sizeof(text.s), "%.*f %s", decimals(value), value, units[unit]);
	return text;
}

void text_clean(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			*s = '?';
}

void text_wrap(FILE *out, unsigned int column, unsigned int indent, const char *s)
{
	const char *gap = "";
	size_t len;

	while (*s) {
		len = strcspn(s, " ");
		if (*gap && column + 1 + len >= WIDTH) {
			fprintf(out, "\n%*s", (int)indent, "");
			column = indent;
			gap = "";
		}
		fprintf(out, "%s%.*s", gap, (int)len, s);
		column += (unsigned int)(strlen(gap) + len);
		gap = " ";
		s += len;
		s += *s == ' ';
	}
	fputc('\n', out);
}
