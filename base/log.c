/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Log lines go to the caller's callback; the library never prints. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void gw_log(const struct gw_log *log, enum godwit_log_level level, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	if (!log || !log->fn || level > log->level)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	log->fn(log->opaque, level, line);
}
