/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What `godwit send` and `godwit receive` tell: log lines, progress, the result;
 * for people or, with --json, as JSON lines on stdout.
 *
 * The library's threads must never wait for whoever reads our output: their
 * log lines go into a bounded queue, and the main thread alone prints. Progress
 * is left out while the reader lags behind.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "cli/stats.h"

/* Log lines that wait to be printed; more are dropped and counted. */
#define REPORT_QUEUE_LINES 256

struct report_line {
	enum godwit_log_level level;
	char *text; /* owned */
};

struct report {
	enum godwit_side side;
	bool json, quiet;
	enum godwit_log_level level; /* log lines up to it are printed */
	int wake_fd;		     /* borrowed eventfd: written when a line is queued */

	/* the terminal's line and the last words of progress; main thread */
	bool terminal;
	unsigned int shown;	  /* columns of the line that stands there */
	struct godwit_stats last; /* told, with elapsed_ns 0 */
	uint64_t last_ns;	  /* when; 0: never */

	pthread_mutex_t lock; /* a leaf; of what follows */
	struct report_line queue[REPORT_QUEUE_LINES];
	size_t head, used;
	unsigned long dropped;
};

/* What came of it: a status and why. */
struct report_result {
	enum cli_status status;
	const char *error; /* NULL: nothing failed */
	const struct stats_all *all;
	bool no_guest; /* its process is not there (any more) */
};

void report_init(struct report *report, enum godwit_side side, int wake_fd);
void report_deinit(struct report *report);

/* A godwit_log_fn; @opaque is the report. Never waits. */
void report_log(void *opaque, enum godwit_log_level level, const char *line);
/* Prints what was queued. @patient: also when the reader lags behind. */
void report_flush(struct report *report, bool patient);

/* receive: the address for the source, at once. */
void report_listening(struct report *report, const char *address);
/* Every quarter of a second or so; shows as much as is due. */
void report_progress(struct report *report, const struct godwit_stats *stats);
/* A remark to the user, on stderr. */
void report_remark(struct report *report, const char *text);
void report_result(struct report *report, const struct report_result *result);
