/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory that stands for a guest's: a shared mapping of a file. */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "godwit/godwit.h"

struct bench_memory {
	int fd; /* -1: none */
	uint64_t size;
	uint8_t *map;
};

enum bench_memory_use {
	BENCH_MEMORY_RAM,     /* the file that the user named, if it is one */
	BENCH_MEMORY_SCRATCH, /* a nameless one beside it, of the same kind */
};

/*
 * @size bytes, a multiple of 2 MiB, all of it there and warm. @ram: NULL (a
 * memfd), a folder, or a file, in a tmpfs or hugetlbfs. A file is made if it is
 * not there, and then has no name any more when this returns; one that is there
 * is made as large as it has to be, and stays.
 */
int bench_memory_init(struct bench_memory *memory, const char *ram,
		      enum bench_memory_use use, uint64_t size, struct gw_err *err);
/* Also on one that is all zero but for fd = -1. */
void bench_memory_deinit(struct bench_memory *memory);

/* Gives all of it back to the kernel: a hole, which reads as zeroes. */
int bench_memory_drop(struct bench_memory *memory, struct gw_err *err);

/* A guest of the library that has it as its only region; borrows @memory. */
int bench_memory_guest(const struct bench_memory *memory,
		       const struct godwit_guest_ops *ops, void *opaque,
		       godwit_error *err, godwit_guest **ret);
