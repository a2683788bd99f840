/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fault server's hands: registration, events, atomic installation.
 *
 * Each installer is one loop over UFFDIO_COPY, UFFDIO_CONTINUE or UFFDIO_ZEROPAGE. The kernel
 * stops such a call at the first page it cannot install, reports how far it
 * came, and says why only when it is asked again from there. Pages it installs
 * it wakes; whoever waits for one that was there already is woken at the end.
 *
 * All functions may be called by several threads at once on one descriptor.
 */
#include "userfault/fault.h"

#include <sched.h>
#include <sys/mman.h>

#include "base/util.h"
#include "userfault/register.h"
#include "userfault/uapi.h"

#define READ_BATCH 64 /* events: 2 KiB of stack */

int gw_fault_register(const struct gw_uffd *uffd, uint64_t address, uint64_t size,
		      struct gw_err *err)
{
	return gw_uffd_register(uffd, address, size,
				UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
				err);
}

int gw_fault_unregister(const struct gw_uffd *uffd, uint64_t address, uint64_t size)
{
	return gw_uffd_unregister(uffd, address, size);
}

/* Takes the faults out of @n messages: how many. */
static unsigned int take_faults(const struct uffd_msg *msgs, size_t n,
				struct gw_fault *ret)
{
	unsigned int taken = 0;

	for (size_t i = 0; i < n; i++) {
		/* No other event was asked for in the handshake; none needs an answer. */
		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		ret[taken++].address =
			gw_align_down(msgs[i].arg.pagefault.address, GW_UNIT_SIZE);
	}
	return taken;
}

int gw_fault_read(const struct gw_uffd *uffd, struct gw_fault *faults, unsigned int max)
{
	struct uffd_msg msgs[READ_BATCH];
	unsigned int n = 0;

	while (n < max) {
		size_t want = GW_MIN(max - n, READ_BATCH) * sizeof(msgs[0]);
		ssize_t got = read(uffd->fd, msgs, want);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno != EAGAIN)
			return n ? (int)n : -errno;
		if (got <= 0)
			break;
		n += take_faults(msgs, (size_t)got / sizeof(msgs[0]), faults + n);
		if ((size_t)got < want)
			break;
	}
	return !n && gw_uffd_gone(uffd) ? -ESRCH : (int)n;
}

int gw_fault_wake(const struct gw_uffd *uffd, uint64_t address, uint64_t size)
{
	struct uffdio_range range = {.start = address, .len = size};

	return ioctl(uffd->fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

/* Bytes installed from @address on, or why not even the first page was. */
static int64_t copy_some(const struct gw_uffd *uffd, uint64_t address, uint64_t source,
			 uint64_t size)
{
	struct uffdio_copy copy = {.dst = address, .src = source, .len = size};

	if (!ioctl(uffd->fd, UFFDIO_COPY, &copy))
		return (int64_t)size;
	return copy.copy ? copy.copy : -errno;
}

static int64_t zero_some(const struct gw_uffd *uffd, uint64_t address, uint64_t source,
			 uint64_t size)
{
	struct uffdio_zeropage zero = {.range = {.start = address, .len = size}};

	if (!ioctl(uffd->fd, UFFDIO_ZEROPAGE, &zero))
		return (int64_t)size;
	return zero.zeropage ? zero.zeropage : -errno;
}

static int64_t continue_some(const struct gw_uffd *uffd, uint64_t address,
			     uint64_t source, uint64_t size)
{
	struct uffdio_continue cont = {.range = {.start = address, .len = size}};

	if (!ioctl(uffd->fd, UFFDIO_CONTINUE, &cont))
		return (int64_t)size;
	return cont.mapped ? cont.mapped : -errno;
}

typedef int64_t (*some_fn)(const struct gw_uffd *uffd, uint64_t address, uint64_t source,
			   uint64_t size);

/*
 * A page that is present is stepped over by 4096 bytes. On hugetlbfs that is no
 * page boundary and the kernel says EINVAL; then the step is doubled until it
 * is one, so that nobody has to tell us the page size.
 */
static int install_each(const struct gw_uffd *uffd, some_fn some, uint64_t address,
			uint64_t source, uint64_t size, bool *ret_present)
{
	uint64_t at = 0, present_at = 0, step = 0;

	while (at < size) {
		int64_t n = some(uffd, address + at, source + at, size - at);

		if (n > 0) {
			at += (uint64_t)n;
			step = 0;
		} else if (n == -EEXIST) {
			*ret_present = true;
			present_at = at;
			step = GW_UNIT_SIZE;
			at += step;
		} else if (n == -EINVAL && step) {
			step *= 2;
			at = present_at + step;
		} else if (n == -EAGAIN || n == -EINTR) {
			/* The process is changing its mappings: a moment. */
			sched_yield();
		} else {
			return n < 0 ? (int)n : -EIO;
		}
	}
	return 0;
}

static int install(const struct gw_uffd *uffd, some_fn some, uint64_t address,
		   uint64_t source, uint64_t size)
{
	bool present = false;
	int r = install_each(uffd, some, address, source, size, &present);

	if (present)
		gw_fault_wake(uffd, address, size);
	/* A full tmpfs or an empty pool of huge pages is "no memory" to the kernel. */
	if (r == -ENOMEM)
		return -ENOSPC;
	if (r < 0)
		return r;
	return present ? GW_INSTALL_PRESENT : 0;
}

int gw_fault_copy(const struct gw_uffd *uffd, uint64_t address, const void *source,
		  uint64_t size)
{
	return install(uffd, copy_some, address, (uint64_t)(uintptr_t)source, size);
}

int64_t gw_fault_fill(const struct gw_uffd *uffd, uint64_t address, const void *source,
		      uint64_t size)
{
	int64_t n;

	while ((n = copy_some(uffd, address, (uint64_t)(uintptr_t)source, size)) ==
		       -EAGAIN ||
	       n == -EINTR)
		sched_yield();
	if (n == -EEXIST)
		return 0;
	return n == -ENOMEM ? -ENOSPC : n;
}

int gw_fault_continue(const struct gw_uffd *uffd, uint64_t address, uint64_t size)
{
	return install(uffd, continue_some, address, 0, size);
}

/* For hugetlbfs, which has no zero page: a copy of memory nobody ever wrote. */
static int copy_zeroes(const struct gw_uffd *uffd, uint64_t address, uint64_t size)
{
	void *zeroes = mmap(NULL, size, PROT_READ,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int r;

	if (zeroes == MAP_FAILED)
		return -ENOMEM;
	r = gw_fault_copy(uffd, address, zeroes, size);
	munmap(zeroes, size);
	return r;
}

int gw_fault_zero(const struct gw_uffd *uffd, uint64_t address, uint64_t size)
{
	int r = install(uffd, zero_some, address, 0, size);

	return r == -EINVAL ? copy_zeroes(uffd, address, size) : r;
}
