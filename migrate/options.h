/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options by name: what a user may set, checked when it is set. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/log.h"
#include "multifd/adapt.h"

enum gw_mode {
	GW_MODE_PRECOPY = 1,  /* rounds until the rest fits the downtime limit */
	GW_MODE_POSTCOPY = 2, /* switch at once */
	GW_MODE_HYBRID = 3,   /* pre-copy, and post-copy when that does not get there */
	GW_MODE_OFFLINE = 4,  /* stop first, then everything */
	GW_N_MODES,
};

const char *gw_mode_name(enum gw_mode mode);
/* Whether a migration in this mode may end in post-copy. */
bool gw_mode_may_postcopy(enum gw_mode mode);

#define GW_CHANNELS_MAX	    64
#define GW_CHANNELS_DEFAULT 2 /* where the link's speed is unknown */

struct godwit_options {
	enum gw_mode mode;
	unsigned int channels; /* 0: by the link's speed */
	enum gw_compress compress;
	uint64_t max_downtime_ns;
	uint64_t bandwidth;	    /* bytes a second; 0: no limit */
	uint64_t postcopy_after_ns; /* 0: no such limit */
	uint64_t max_rounds;	    /* 0: the mode's own */
	uint64_t connect_timeout_ns;
	uint64_t peer_timeout_ns;
	uint64_t timeout_ns; /* receive: for a source to come; 0: for ever */
	struct gw_log log;
};

void gw_options_init(struct godwit_options *options);
