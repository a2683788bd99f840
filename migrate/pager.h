/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest memory at the destination: lands pages during pre-copy, drops what is
 * named missing at the switch, and from then on is the page-fault server.
 */
#pragma once

#include "base/hist.h"
#include "base/log.h"
#include "multifd/memory.h"
#include "multifd/receiver.h"
#include "transport/chan.h"
#include "userfault/attach.h"
#include "wire/message.h"

struct gw_pager;

struct gw_pager_config {
	const struct gw_memory *memory;
	pid_t pid;		  /* of the guest's process */
	const struct gw_log *log; /* borrowed */
	/* Called from the fault thread when it cannot go on. */
	void (*failed)(void *opaque, const struct gw_err *err);
	/* Called from page threads when the last missing page has come. */
	void (*complete)(void *opaque);
	void *opaque;
};

int gw_pager_new(const struct gw_pager_config *config, struct gw_err *err,
		 struct gw_pager **ret);

/*
 * Gets the userfaultfd that faults will come from; before channels are opened,
 * since this is where permissions show. The guest's process keeps a reference.
 */
int gw_pager_attach(struct gw_pager *pager, struct gw_err *err);
/* Where page requests go; borrowed, outlives the fault thread. */
void gw_pager_set_urgent(struct gw_pager *pager, struct gw_chan *urgent);

/* The sink's functions: see struct gw_sink. Safe from all channels' threads at once. */
int gw_pager_place(struct gw_pager *pager, unsigned int region, uint64_t unit,
		   uint64_t count, void **ret);
int gw_pager_install(struct gw_pager *pager, unsigned int region, uint64_t unit,
		     uint64_t count, const void *data, bool urgent);
int gw_pager_zero(struct gw_pager *pager, unsigned int region, uint64_t unit,
		  uint64_t count, bool urgent);

/*
 * Units of @region that will come after the switch: whatever is there now goes
 * when they are armed. Driver, with no round under way.
 */
int gw_pager_drop(struct gw_pager *pager, unsigned int region, uint64_t unit,
		  uint64_t count, struct gw_err *err);
/*
 * Registers and empties what was dropped; again after each naming. From here on
 * who touches it waits. At most @data_units of what is missing in all will need
 * memory: -ENOSPC when the file system has less.
 */
int gw_pager_arm(struct gw_pager *pager, uint64_t data_units, struct gw_err *err);
/*
 * Starts to ask the source for what is touched: not before the source's guest
 * has stopped and everything is named, since answers are final.
 */
int gw_pager_serve(struct gw_pager *pager, struct gw_err *err);

uint64_t gw_pager_missing(struct gw_pager *pager);
void gw_pager_progress(struct gw_pager *pager, struct gw_progress *ret);
uint64_t gw_pager_bitmap_bytes(const struct gw_pager *pager);

/* Ends the fault thread; the urgent channel has been shut down. */
void gw_pager_stop(struct gw_pager *pager);
/*
 * After gw_pager_stop(), while pages are missing: lets the guest have all others
 * without anybody who serves it. Threads that touch a missing page wait.
 */
void gw_pager_open(struct gw_pager *pager);
/*
 * After gw_pager_stop(): nothing waits for pages any more, because all have
 * come or because the guest never ran. Registration and the descriptor the
 * guest's process kept go. Without it they stay, and faulting threads wait.
 */
void gw_pager_release(struct gw_pager *pager);
/*
 * Before COMMIT, when pages will not come: lets a VMM that loads its device
 * state go on, so that it can be told to stop. Any thread.
 */
void gw_pager_let_go(struct gw_pager *pager);
/* Takes NULL, returns NULL. */
struct gw_pager *gw_pager_free(struct gw_pager *pager);
