/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Log lines go to the caller's callback; the library never prints. */
#pragma once

#include "godwit/godwit.h"

struct gw_log {
	godwit_log_fn fn; /* NULL: nobody listens */
	void *opaque;
	enum godwit_log_level level; /* lines above it are dropped */
};

/* Formats a line and hands it to @log's callback (@log may be NULL). */
void gw_log(const struct gw_log *log, enum godwit_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define gw_warn(log, ...)  gw_log(log, GODWIT_LOG_WARNING, __VA_ARGS__)
#define gw_info(log, ...)  gw_log(log, GODWIT_LOG_INFO, __VA_ARGS__)
#define gw_debug(log, ...) gw_log(log, GODWIT_LOG_DEBUG, __VA_ARGS__)
