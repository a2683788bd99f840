/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The handful of macros and tiny helpers that every folder uses. */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* The unit of bitmaps and of the wire, whatever the size of the guest's pages. */
#define GW_UNIT_SHIFT 12
#define GW_UNIT_SIZE  (1UL << GW_UNIT_SHIFT)
/* An extent: what a worker takes at a time. One bit a unit makes 64 bytes of mask. */
#define GW_EXTENT_UNITS 512U
#define GW_EXTENT_SIZE	(GW_EXTENT_UNITS * GW_UNIT_SIZE)

#define GW_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define GW_MIN(a, b)	 ((a) < (b) ? (a) : (b))
#define GW_MAX(a, b)	 ((a) > (b) ? (a) : (b))
#define GW_DIV_UP(n, d)	 (((n) + (d)-1) / (d))
#define GW_NSEC		 1000000000ULL

static inline uint64_t gw_align_down(uint64_t value, uint64_t power_of_two)
{
	return value & ~(power_of_two - 1);
}

static inline uint64_t gw_align_up(uint64_t value, uint64_t power_of_two)
{
	return gw_align_down(value + power_of_two - 1, power_of_two);
}

/* Monotonic time in nanoseconds. */
static inline uint64_t gw_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * GW_NSEC + (uint64_t)ts.tv_nsec;
}

/* Time of day in nanoseconds since 1970: for people and for other hosts. */
static inline uint64_t gw_realtime(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * GW_NSEC + (uint64_t)ts.tv_nsec;
}

/* Closes *@fd once: a descriptor at rest is -1. */
static inline void gw_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static inline void gw_free_ptr(void *p)
{
	free(*(void **)p);
}

/* Function-local resources that end with their scope. */
#define GW_AUTO_FREE  __attribute__((cleanup(gw_free_ptr)))
#define GW_AUTO_CLOSE __attribute__((cleanup(gw_close)))
