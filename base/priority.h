/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who goes first when threads outnumber processors. Both calls are for the
 * calling thread, and where the kernel refuses (no CAP_SYS_NICE) they change
 * nothing: a matter of speed, never of correctness.
 */
#pragma once

/*
 * For a thread that a waiting guest depends on: it runs soon after it is woken,
 * whoever computes. Only for threads that work for microseconds and then sleep.
 */
void gw_priority_raise(void);
/* For a thread that pushes in the background while a guest runs beside it. */
void gw_priority_lower(void);
