/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `godwit send` and `godwit receive` tell, to people or as JSON lines. */
#include "cli/report.h"

#include <assert.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "cli/text.h"

/* Between plain lines and between JSON events of progress. */
#define PLAIN_PERIOD_NS 1000000000ULL
#define JSON_PERIOD_NS	250000000ULL

static const char *const level_names[] = {
	[GODWIT_LOG_WARNING] = "warning",
	[GODWIT_LOG_INFO] = "info",
	[GODWIT_LOG_DEBUG] = "debug",
};

static const char *const status_names[] = {
	[CLI_DONE] = "done",	   [CLI_FAILED] = "failed",
	[CLI_USAGE] = "usage",	   [CLI_CANCELLED] = "cancelled",
	[CLI_TIMEOUT] = "timeout", [CLI_UNDECIDED] = "undecided",
	[CLI_PAUSED] = "paused",
};
static_assert(ARRAY_SIZE(status_names) == CLI_N_STATUSES, "a name for every status");

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

void report_init(struct report *report, enum godwit_side side, int wake_fd)
{
	*report = (struct report){
		.side = side,
		.level = GODWIT_LOG_INFO,
		.wake_fd = wake_fd,
		.terminal = isatty(STDERR_FILENO),
	};
	pthread_mutex_init(&report->lock, NULL);
}

/* Whether an event of usual size can be written without waiting. */
static bool has_room(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	return poll(&p, 1, 0) > 0;
}

/* ---- output ---- */

/* Takes @event, which may be NULL (memory is out: the event is left out). */
static void event_print(json_t *event)
{
	char *text = json_dumps(event, JSON_COMPACT);

	if (text)
		puts(text);
	fflush(stdout);
	free(text);
	json_decref(event);
}

/* Makes room for a line of its own. */
static void terminal_clear(struct report *report)
{
	if (report->shown)
		fprintf(stderr, "\r%*s\r", (int)report->shown, "");
	report->shown = 0;
}

static void terminal_show(struct report *report, const char *line)
{
	struct winsize window;
	unsigned int width = 80, len = (unsigned int)strlen(line);
	char text[1024];

	if (!ioctl(STDERR_FILENO, TIOCGWINSZ, &window) && window.ws_col > 1)
		width = window.ws_col;
	/* a full last column would move some terminals to the next line */
	if (len > width - 1)
		len = width - 1;
	/* one write, so that the line never flickers; blanks cover the old one */
	snprintf(text, sizeof(text), "\r%.*s%*s", (int)len, line,
		 (int)(report->shown > len ? report->shown - len : 0), "");
	fputs(text, stderr);
	report->shown = len;
}

static void line_print(struct report *report, const char *prefix, const char *text)
{
	char line[1024];

	snprintf(line, sizeof(line), "%s%s", prefix, text);
	text_clean(line);
	terminal_clear(report);
	fprintf(stderr, "godwit: %s\n", line);
}

void report_remark(struct report *report, const char *text)
{
	line_print(report, "", text);
}

/* ---- the log ---- */

void report_log(void *opaque, enum godwit_log_level level, const char *line)
{
	struct report *report = opaque;
	uint64_t one = 1;
	char *text;

	if (level > report->level)
		return;
	text = strdup(line);
	pthread_mutex_lock(&report->lock);
	if (text && report->used < REPORT_QUEUE_LINES) {
		size_t tail = (report->head + report->used++) % REPORT_QUEUE_LINES;

		report->queue[tail] = (struct report_line){level, text};
		text = NULL;
	} else {
		report->dropped++;
	}
	pthread_mutex_unlock(&report->lock);
	free(text);
	/* EAGAIN: woken already */
	if (write(report->wake_fd, &one, sizeof(one)) < 0)
		return;
}

static bool log_take(struct report *report, struct report_line *ret)
{
	bool taken = false;

	pthread_mutex_lock(&report->lock);
	if (report->used) {
		*ret = report->queue[report->head];
		report->head = (report->head + 1) % REPORT_QUEUE_LINES;
		report->used--;
		taken = true;
	}
	pthread_mutex_unlock(&report->lock);
	return taken;
}

void report_deinit(struct report *report)
{
	struct report_line line;

	while (log_take(report, &line))
		free(line.text);
	pthread_mutex_destroy(&report->lock);
}

static void log_print(struct report *report, enum godwit_log_level level,
		      const char *text)
{
	const char *prefix = level == GODWIT_LOG_WARNING ? "warning: " : "";

	if (report->json)
		event_print(json_pack("{s:s, s:s, s:o}", "event", "log", "level",
				      level_names[level], "text", stats_text_json(text)));
	else
		line_print(report, prefix, text);
}

static void dropped_print(struct report *report)
{
	unsigned long dropped;
	char text[64];

	pthread_mutex_lock(&report->lock);
	dropped = report->dropped;
	report->dropped = 0;
	pthread_mutex_unlock(&report->lock);
	if (!dropped)
		return;
	snprintf(text, sizeof(text), "%lu log lines were lost here", dropped);
	log_print(report, GODWIT_LOG_WARNING, text);
}

void report_flush(struct report *report, bool patient)
{
	int fd = report->json ? STDOUT_FILENO : STDERR_FILENO;
	struct report_line line;

	while ((patient || has_room(fd)) && log_take(report, &line)) {
		log_print(report, line.level, line.text);
		free(line.text);
	}
	if (patient || has_room(fd))
		dropped_print(report);
}

/* ---- events ---- */

void report_listening(struct report *report, const char *address)
{
	if (report->json) {
		event_print(json_pack("{s:s, s:o}", "event", "listening", "address",
				      stats_text_json(address)));
		return;
	}
	terminal_clear(report);
	printf("listening on %s\n", address);
	fflush(stdout);
}

static void progress_json(const struct godwit_stats *stats)
{
	json_t *event = stats_to_json(stats);

	if (event)
		json_object_set_new(event, "event", json_string("progress"));
	event_print(event);
}

/* Whether something is new and its turn has come; a new state does not wait. */
static bool progress_due(struct report *report, const struct godwit_stats *stats)
{
	uint64_t period = report->json ? JSON_PERIOD_NS : PLAIN_PERIOD_NS;
	struct godwit_stats now = *stats;
	uint64_t at = now_ns();

	now.elapsed_ns = 0; /* time alone is no news */
	if (report->last_ns && now.state == report->last.state &&
	    (at - report->last_ns < period || !memcmp(&now, &report->last, sizeof(now))))
		return false;
	report->last = now;
	report->last_ns = at;
	return true;
}

void report_progress(struct report *report, const struct godwit_stats *stats)
{
	char line[256];

	if (report->quiet || !has_room(report->json ? STDOUT_FILENO : STDERR_FILENO))
		return;
	stats_line(stats, report->side, line, sizeof(line));
	if (report->terminal && !report->json)
		terminal_show(report, line);
	else if (!progress_due(report, stats))
		return;
	else if (report->json)
		progress_json(stats);
	else
		fprintf(stderr, "%s\n", line);
}

/* ---- the result ---- */

/* Where the guest is now, and what to do or not to do. */
static const char *whereabouts(enum godwit_side side, const struct report_result *result)
{
	bool source = side == GODWIT_SOURCE;

	switch (result->status) {
	case CLI_DONE:
		return source ? "the guest runs at the destination"
			      : "the guest runs here";
	case CLI_UNDECIDED:
		return source ? "the guest is stopped here and the destination may run it: do "
				"not start it here before you have seen that it does not run "
				"there"
			      : "the guest was not started here: do not start it before you "
				"have seen that it does not run at the source";
	case CLI_PAUSED:
		return source ? "the guest runs at the destination and needs pages that only "
				"this host has: neither start nor end the VMM here"
			      : "the guest runs here and needs pages that only the source "
				"has: end the VMM neither here nor there";
	case CLI_TIMEOUT:
	case CLI_FAILED:
	case CLI_CANCELLED:
	default:
		if (source && result->no_guest)
			return "the guest's process is not running here";
		if (source && result->all->stats.resume_failed)
			return "the guest belongs here, whole, but stands still: set it "
			       "running (QMP `cont`, or SIGCONT)";
		return source ? "the guest runs on at the source, untouched"
			      : "the guest never ran here";
	}
}

static void result_json(const struct report_result *result)
{
	json_t *error = result->error ? stats_text_json(result->error) : json_null();

	event_print(json_pack("{s:s, s:s, s:i, s:o, s:o}", "event", "result", "result",
			      status_names[result->status], "exit", (int)result->status,
			      "error", error, "stats", stats_all_to_json(result->all)));
}

void report_result(struct report *report, const struct report_result *result)
{
	const char *where = whereabouts(report->side, result);

	report_flush(report, true);
	terminal_clear(report);
	if (result->status != CLI_DONE) {
		line_print(report, "", result->error ?: status_names[result->status]);
		line_print(report, "", where);
	}
	if (report->json) {
		result_json(result);
		return;
	}
	/* a migration that never met its peer has nothing to report */
	if (result->status != CLI_DONE && !result->all->stats.session[0])
		return;
	printf("%s: %s\n", status_names[result->status], where);
	stats_print(stdout, &result->all->stats);
	fflush(stdout);
}
