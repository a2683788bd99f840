/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An eventfd that any thread sets and poll() sees until it is cleared. */
#include "base/event.h"

#include <sys/eventfd.h>

#include "base/util.h"

int gw_event_init(struct gw_event *event)
{
	event->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return event->fd < 0 ? -errno : 0;
}

void gw_event_deinit(struct gw_event *event)
{
	gw_close(&event->fd);
}

void gw_event_set(struct gw_event *event)
{
	uint64_t one = 1;

	/* It fails only when the counter is at its top: then it is set already. */
	if (write(event->fd, &one, sizeof(one)) < 0)
		return;
}

void gw_event_clear(struct gw_event *event)
{
	uint64_t count;

	/* EAGAIN: it was clear. */
	if (read(event->fd, &count, sizeof(count)) < 0)
		return;
}
