/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Numbers as people read them, and text that is safe to print. */
#pragma once

#include <stdint.h>
#include <stdio.h>

/* By value, so that several fit into one printf(): text_size(n).s */
struct text {
	char s[32];
};

/* "1.50 GiB": three digits, powers of 1024. */
struct text text_size(uint64_t bytes);
/* "1.50 GiB/s" */
struct text text_rate(uint64_t bytes_per_second);
/* "12.3 ms", "3 min 20 s" */
struct text text_time(uint64_t ns);

/* Control characters become '?': what a peer sent must not steer a terminal. */
void text_clean(char *s);

/*
 * Prints @s in lines that end before column 80. The first line continues at
 * @column, the others start at @indent. Ends with a newline.
 */
void text_wrap(FILE *out, unsigned int column, unsigned int indent, const char *s);
