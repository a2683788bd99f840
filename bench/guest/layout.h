/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the benchmark's guest keeps what. The one place for it: the guest includes
 * this file, and bench/gwbench/layout.py reads the numbers out of it.
 *
 * An address of the guest is an offset into its RAM file, up to 4 GiB: page tables
 * see to it. Everything that is not named here belongs to the memory image.
 */
#ifndef BENCH_GUEST_LAYOUT_H
#define BENCH_GUEST_LAYOUT_H

#define GUEST_PAGE    0x1000
#define GUEST_CONTROL 0x200000
#define GUEST_RESULTS 0x201000
#define GUEST_BUCKETS 0x202000
/* Firmware, the guest and the pages above lie below this. */
#define GUEST_FIRST_FREE 0x400000
/* So much below the end of low memory belongs to the firmware: code and tables. */
#define FIRMWARE_TOP 0x1100000
/* QEMU's machine "pc" continues memory of 3.5 GiB and more at 4 GiB from here on. */
#define GUEST_SPLIT	0xc0000000
#define GUEST_SPLIT_MIN 0xe0000000

/* Written by the harness before the guest starts; 32-bit words unless said. */
#define CONTROL_MAGIC	  0x00
#define CONTROL_BEHAVIOUR 0x04
#define CONTROL_FIRST	  0x08 /* first page of the range to touch */
#define CONTROL_COUNT	  0x0c /* pages in it */
#define CONTROL_SKIP_FROM 0x10 /* pages that are left out: from here ... */
#define CONTROL_SKIP_TO	  0x14 /* ... to before here */
#define CONTROL_WRITE	  0x18 /* 1: write to each page too, at WRITE_AT */
#define CONTROL_ZERO_RULE 0x1c /* 1: half of the pages are zero, see page_is_zero() */
#define CONTROL_STAMP	  0x20 /* 64 bits; page N starts with this + N * STAMP_STEP */

#define BEHAVIOUR_IDLE	0
#define BEHAVIOUR_TOUCH 1

#define GUEST_MAGIC 0x31425747 /* "GWB1", in both pages */
#define STAMP_STEP  0x100000001
#define WRITE_AT    0x10 /* offset in a page */

/* The image repeats after so many pages, but for the stamps. */
#define IMAGE_PAGES 16384
/* Which runs of 1 << ZERO_SHIFT pages are zero: the top bit of number * ZERO_HASH. */
#define ZERO_SHIFT 4
#define ZERO_HASH  0x9e3779b1

/* Written by the guest; 64-bit counters unless said. */
#define RESULT_MAGIC   0x00 /* 32 bits; set once the guest runs */
#define RESULT_TOUCHES 0x08
#define RESULT_WRONG   0x10 /* pages whose stamp was not theirs */
#define RESULT_TICKS   0x18 /* the time stamp counter after the last touch */

/*
 * Ticks of one touch: below 32 a bucket each, then 32 to each power of two, so
 * that a bucket is 3 % wide.
 */
#define BUCKET_STEPS 32
#define BUCKET_COUNT 1280

#endif
