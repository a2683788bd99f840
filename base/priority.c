/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who goes first when threads outnumber processors.
 *
 * Urgent threads stay ordinary ones, with more weight and a short time slice. A
 * real-time priority gets them the processor as soon, but it moves each wake-up
 * to another processor than the waker's: that costs more than it gains.
 */
#include "base/priority.h"

#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Nine times the weight of a thread at 0. Needs CAP_SYS_NICE. */
#define NICE_URGENT (-10)
/* A fifth of it. Needs nothing. */
#define NICE_BACKGROUND 7
/*
 * ns; the least the kernel takes. Who wants little runs early (Linux 6.12; older
 * ones ignore it).
 */
#define SLICE_URGENT 100000

/* The kernel's ABI: glibc 2.36 has no declaration of it. */
struct attributes {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t deadline;
	uint64_t period;
};

static int set_attributes(int nice)
{
	struct attributes attributes = {
		.size = sizeof(attributes),
		.policy = SCHED_OTHER,
		.nice = nice,
		.runtime = SLICE_URGENT,
	};

	return (int)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

void gw_priority_raise(void)
{
	if (set_attributes(NICE_URGENT))
		(void)set_attributes(0);
}

void gw_priority_lower(void)
{
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE_BACKGROUND);
}
