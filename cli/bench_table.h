/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a benchmark found, for people. */
#pragma once

#include <jansson.h>
#include <stdio.h>

/* @document: of the form "godwit-bench/1". */
void bench_table_print(FILE *out, const json_t *document);
