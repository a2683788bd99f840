/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Real processes for the tests of userfault/: forked, steered through pipes. */
#pragma once

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "userfault/proc.h"

#define UFFD_LINK "anon_inode:[userfaultfd]"

struct child {
	pid_t pid;
	int to, from; /* our ends of two pipes */
};

/* In the child: what it runs, with its ends of the pipes; returns its exit status. */
typedef int (*child_fn)(int in, int out, void *opaque);

static inline struct child child_start(child_fn fn, void *opaque)
{
	int down[2], up[2];
	struct child child;

	cr_assert(!pipe2(down, O_CLOEXEC) && !pipe2(up, O_CLOEXEC));
	child.pid = fork();
	cr_assert_geq(child.pid, 0);
	if (!child.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(down[1]);
		close(up[0]);
		_exit(fn(down[0], up[1], opaque));
	}
	close(down[0]);
	close(up[1]);
	child.to = down[1];
	child.from = up[0];
	return child;
}

static inline void say(int fd)
{
	cr_assert_eq(write(fd, "x", 1), 1);
}

static inline void hear(int fd)
{
	char byte;

	cr_assert_eq(read(fd, &byte, 1), 1);
}

/* The child's exit status, or 256 + signal. */
static inline int child_end(struct child *child)
{
	int status;

	cr_assert_eq(waitpid(child->pid, &status, 0), child->pid);
	close(child->to);
	close(child->from);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

static inline void child_kill(struct child *child)
{
	kill(child->pid, SIGKILL);
	cr_assert_eq(child_end(child), 256 + SIGKILL);
}

/* Waits until the thread is in @state: what a test needs to have come about. */
static inline void await_state(pid_t pid, char state)
{
	for (int i = 0; i < 5000 && gw_proc_state(pid, pid) != state; i++)
		usleep(1000);
	cr_assert_eq(gw_proc_state(pid, pid), state);
}

static inline unsigned int count_uffds(pid_t pid)
{
	char path[300], link[64];
	struct dirent *entry;
	unsigned int n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	cr_assert(dir);
	while ((entry = readdir(dir))) {
		ssize_t len;

		snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid, entry->d_name);
		len = readlink(path, link, sizeof(link) - 1);
		n += len == sizeof(UFFD_LINK) - 1 && !memcmp(link, UFFD_LINK, len);
	}
	closedir(dir);
	return n;
}

/* ---- a child that has a file mapped and does to it what it is told ---- */

enum order_kind {
	ORDER_WRITE,	/* @value into each page */
	ORDER_READ,	/* answers the sum of the pages' first words */
	ORDER_DONTNEED, /* drops page-table entries */
	ORDER_PAGEOUT,
	ORDER_LOCK, /* answers 1 when the pages are locked into memory */
	ORDER_END,
};

struct order {
	enum order_kind kind;
	uint64_t unit, count, value;
};

struct mapper {
	struct child child;
	int fd;
	uint64_t address, size;
};

/* mlock() itself: AddressSanitizer's only pretends. */
static inline int lock_memory(void *at, size_t size)
{
	return (int)syscall(SYS_mlock, at, size);
}

static inline uint64_t obey(volatile char *base, const struct order *order)
{
	char *at = (char *)base + (order->unit << GW_UNIT_SHIFT);
	uint64_t sum = 0;

	if (order->kind == ORDER_DONTNEED)
		madvise(at, order->count << GW_UNIT_SHIFT, MADV_DONTNEED);
	if (order->kind == ORDER_PAGEOUT)
		madvise(at, order->count << GW_UNIT_SHIFT, MADV_PAGEOUT);
	if (order->kind == ORDER_LOCK)
		return !lock_memory(at, order->count << GW_UNIT_SHIFT);
	for (uint64_t i = 0; i < order->count; i++) {
		volatile uint64_t *word =
			(volatile uint64_t *)(at + (i << GW_UNIT_SHIFT));

		if (order->kind == ORDER_WRITE)
			*word = order->value;
		if (order->kind == ORDER_READ)
			sum += *word;
	}
	return sum;
}

static inline int mapper_child(int in, int out, void *opaque)
{
	const struct mapper *m = opaque;
	char *base = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	uint64_t answer = (uint64_t)(uintptr_t)base;
	struct order order;

	do {
		if (write(out, &answer, sizeof(answer)) != sizeof(answer))
			return 2;
		if (read(in, &order, sizeof(order)) != sizeof(order))
			return 3;
		if (order.kind != ORDER_END)
			answer = obey(base, &order);
	} while (order.kind != ORDER_END);
	return 0;
}

static inline uint64_t mapper_answer(struct mapper *m)
{
	uint64_t answer;

	cr_assert_eq(read(m->child.from, &answer, sizeof(answer)), sizeof(answer));
	return answer;
}

static inline struct mapper mapper_start(int fd, uint64_t size)
{
	struct mapper m = {.fd = fd, .size = size};

	m.child = child_start(mapper_child, &m);
	m.address = mapper_answer(&m);
	return m;
}

static inline void mapper_order(struct mapper *m, enum order_kind kind, uint64_t unit,
				uint64_t count, uint64_t value)
{
	struct order order = {kind, unit, count, value};

	cr_assert_eq(write(m->child.to, &order, sizeof(order)), sizeof(order));
}

static inline uint64_t mapper_do(struct mapper *m, enum order_kind kind, uint64_t unit,
				 uint64_t count, uint64_t value)
{
	mapper_order(m, kind, unit, count, value);
	return mapper_answer(m);
}

static inline void mapper_end(struct mapper *m)
{
	mapper_order(m, ORDER_END, 0, 0, 0);
	cr_assert_eq(child_end(&m->child), 0);
}

static inline int memory_file(uint64_t size)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	return fd;
}
