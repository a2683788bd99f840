/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sizes, rates and durations as people write them: "64M", "2.5G", "10Gbit",
 * "300MB", "10ms", "2.5s". Each returns 0 or -EINVAL (not such a value,
 * negative, or too large for 64 bits) and sets its result only on success.
 */
#pragma once

#include <stdint.h>

/* Bytes: a number and K, M, G or T (powers of 1024), optionally followed by B or iB. */
int gw_parse_size(const char *text, uint64_t *ret_bytes);
/*
 * Bytes a second: a size, optionally with /s, or a number with kbit, mbit,
 * gbit (powers of 1000, bits). 0 and "unlimited" mean no limit.
 */
int gw_parse_rate(const char *text, uint64_t *ret_bytes_per_second);
/* Nanoseconds: a number and ns, us, ms, s, m or h; without a unit seconds. */
int gw_parse_duration(const char *text, uint64_t *ret_ns);
/* A whole number between @min and @max. */
int gw_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value);
