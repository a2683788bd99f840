/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An eventfd that any thread sets and poll() sees until it is cleared. */
#pragma once

struct gw_event {
	int fd;
};

/* 0 or negative errno (descriptors used up). */
int gw_event_init(struct gw_event *event);
void gw_event_deinit(struct gw_event *event);
void gw_event_set(struct gw_event *event);
void gw_event_clear(struct gw_event *event);
