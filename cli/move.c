/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `godwit send` and `godwit receive`.
 *
 * Happy path: the command line becomes a struct move; the control socket is
 * bound, then the guest and the source or destination are made. The migration
 * runs in a thread of its own, which only calls godwit_*_run(). The main thread
 * waits in poll() for signals, for the control socket, for log lines and for
 * the end, and shows progress between them. The thread is joined, everything is
 * freed, and last the result is told: who reads it finds nothing left behind.
 *
 * Failure modes: whatever fails before the thread starts has not touched the
 * guest. SIGINT, SIGTERM and SIGHUP ask for a cancel, each time anew, and never
 * end the process: past COMMIT the guest needs us. They are blocked before the
 * first socket is made, so none can leave one behind.
 *
 * Threads: `ended` is written by the migration's thread (release) and read by
 * the main thread (acquire); `result` and `err` are the thread's until then.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cli/args.h"
#include "cli/control.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "cli/stats.h"
#include "cli/text.h"

/* Between looks at the statistics. */
#define TICK_MS 250

#define RANGES_MAX 64

#define TOO_LATE "too late: the guest belongs to the destination already"

struct move {
	const struct args_command *command;
	enum godwit_side side;

	/* the command line */
	const char *qmp;
	int pid; /* 0: not given */
	const char *ranges[RANGES_MAX];
	size_t n_ranges;
	const char *address;
	const char *run_dir;
	char name[RUNDIR_NAME_MAX + 1];
	const char *mode;	    /* NULL: not given */
	const char *postcopy_after; /* as well */
	bool offline;
	bool json, quiet, verbose;
	godwit_options *options;

	/* running */
	struct report report;
	struct control control;
	godwit_guest *guest;
	godwit_source *source; /* one of these two */
	godwit_dest *dest;
	int signal_fd;
	int wake_fd; /* written for log lines and at the end */
	pthread_t thread;
	atomic_bool ended;
	int result;
	godwit_error *err;
};

/* ---- the command line ---- */

static int pid_take(struct move *move, const char *value)
{
	if (!args_pid(value, &move->pid))
		return 0;
	return args_complain(move->command, "--pid: '%s' is no process id", value);
}

static int range_take(struct move *move, const char *value)
{
	if (move->n_ranges == RANGES_MAX)
		return args_complain(move->command, "--range: at most %d can be given",
				     RANGES_MAX);
	move->ranges[move->n_ranges++] = value;
	return 0;
}

static int name_take(struct move *move, const char *value)
{
	if (!rundir_name_valid(value))
		return args_complain(
			move->command,
			"--name: '%s' is not of 1 to %d letters, digits, '.', "
			"'_' and '-', starting with a letter or digit",
			value, RUNDIR_NAME_MAX);
	snprintf(move->name, sizeof(move->name), "%s", value);
	return 0;
}

static int option_take(struct move *move, const char *name, const char *value)
{
	const struct {
		const char *name;
		const char **text;
		bool *flag;
	} plain[] = {
		{"qmp", &move->qmp, NULL},	   {"to", &move->address, NULL},
		{"listen", &move->address, NULL},  {"run-dir", &move->run_dir, NULL},
		{"offline", NULL, &move->offline}, {"json", NULL, &move->json},
		{"quiet", NULL, &move->quiet},	   {"verbose", NULL, &move->verbose},
	};

	if (!strcmp(name, "pid"))
		return pid_take(move, value);
	if (!strcmp(name, "range"))
		return range_take(move, value);
	if (!strcmp(name, "name"))
		return name_take(move, value);
	for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
		if (strcmp(plain[i].name, name) != 0)
			continue;
		if (plain[i].text)
			*plain[i].text = value;
		else
			*plain[i].flag = true;
	}
	return 0;
}

static int library_take(struct move *move, const char *name, const char *value)
{
	godwit_error *err;
	int r;

	if (!strcmp(name, "mode"))
		move->mode = value;
	if (!strcmp(name, "postcopy-after"))
		move->postcopy_after = value;
	err = godwit_error_new();
	r = godwit_options_set(move->options, name, value, err);
	if (r < 0)
		r = args_complain(move->command, "--%s",
				  err ? godwit_error_text(err) : name);
	godwit_error_free(err);
	return r;
}

static int take(void *opaque, enum args_kind kind, const char *name, const char *value)
{
	if (kind == ARGS_LIBRARY)
		return library_take(opaque, name, value);
	return option_take(opaque, name, value);
}

/* Whether what was given makes a whole. */
static int check(struct move *move)
{
	const struct args_command *command = move->command;
	bool source = move->side == GODWIT_SOURCE;

	if (move->qmp && move->n_ranges)
		return args_complain(command,
				     "--qmp and --range exclude each other: QEMU "
				     "names its memory itself, leave out --range");
	if (!move->qmp && move->n_ranges && !move->pid)
		return args_complain(command,
				     "--range needs the process that has the file "
				     "mapped: add --pid PID");
	if (!move->qmp && !move->n_ranges && move->pid)
		return args_complain(command,
				     "--pid alone does not say what to move: add "
				     "--range FILE, or --qmp PATH for a QEMU");
	if (!move->qmp && !move->n_ranges)
		return args_complain(command,
				     "no guest is named: add --qmp PATH, or --pid "
				     "PID --range FILE");
	if (!move->address)
		return source ? args_complain(command, "no destination is named: add "
						       "--to HOST:PORT")
			      : args_complain(command,
					      "no address is named: add --listen "
					      "HOST:PORT");
	if (move->quiet && move->verbose)
		return args_complain(command, "--quiet and --verbose exclude each other: "
					      "leave one out");
	if (move->postcopy_after && move->mode && strcmp(move->mode, "hybrid") != 0)
		return args_complain(
			command,
			"--postcopy-after is for --mode hybrid and not for %s: "
			"leave one out",
			move->mode);
	if (move->mode && !strcmp(move->mode, "offline"))
		move->offline = true;
	return 0;
}

/* ---- either side ---- */

static int move_run(struct move *move)
{
	if (move->source)
		return godwit_source_run(move->source, move->address, move->err);
	return godwit_dest_run(move->dest, move->err);
}

static int move_cancel(struct move *move)
{
	return move->source ? godwit_source_cancel(move->source)
			    : godwit_dest_cancel(move->dest);
}

/* All zero (state PREPARE) before there is a source or destination. */
static void move_stats(const struct move *move, struct godwit_stats *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (move->source)
		godwit_source_stats(move->source, ret, sizeof(*ret));
	else if (move->dest)
		godwit_dest_stats(move->dest, ret, sizeof(*ret));
}

static size_t move_histogram(const struct move *move, struct godwit_bucket *ret)
{
	if (move->source)
		return godwit_source_histogram(move->source, GODWIT_HISTOGRAM_FAULT, ret,
					       GODWIT_BUCKETS_MAX);
	if (move->dest)
		return godwit_dest_histogram(move->dest, GODWIT_HISTOGRAM_FAULT, ret,
					     GODWIT_BUCKETS_MAX);
	return 0;
}

/*
 * Statistics and histogram of one moment: two calls, and now and then both
 * sides of an update.
 */
static void move_all_stats(const struct move *move, struct stats_all *ret)
{
	for (int tries = 0; tries < 3; tries++) {
		uint64_t counted = 0;

		move_stats(move, &ret->stats);
		ret->n_faults = move_histogram(move, ret->faults);
		for (size_t i = 0; i < ret->n_faults; i++)
			counted += ret->faults[i].count;
		if (counted == ret->stats.faults)
			break;
	}
}

/* ---- the control socket ---- */

static json_t *answer_plain(int r)
{
	if (r == -EBUSY)
		return control_refusal(TOO_LATE);
	if (r < 0)
		return control_refusal("%s", strerror(-r));
	return json_pack("{s:b}", "ok", 1);
}

static json_t *command_status(struct move *move)
{
	struct stats_all all;

	move_all_stats(move, &all);
	return json_pack("{s:b, s:s, s:s, s:i, s:o, s:o}", "ok", 1, "name", move->name,
			 "side", move->command->name, "pid", (int)getpid(), "address",
			 stats_text_json(move->dest ? godwit_dest_address(move->dest)
						    : move->address),
			 "stats", stats_all_to_json(&all));
}

static json_t *command_switch(struct move *move)
{
	struct godwit_stats stats;
	int r;

	if (!move->source)
		return control_refusal("only the source can be told to switch");
	r = godwit_source_switch(move->source);
	move_stats(move, &stats);
	if (r == -EINVAL && !strcmp(stats.mode, "postcopy"))
		return control_refusal("the mode postcopy switches by itself");
	if (r == -EINVAL)
		return control_refusal("the mode %s has no post-copy", stats.mode);
	if (r == -EBUSY)
		return control_refusal("too late: the state is %s",
				       godwit_state_name(stats.state));
	return answer_plain(r);
}

static json_t *command_set(struct move *move, const struct control_request *request)
{
	godwit_error *err;
	json_t *answer;
	int r;

	if (!move->source)
		return control_refusal("limits are set at the source");
	err = godwit_error_new();
	r = godwit_source_set(move->source, request->name, request->value, err);
	if (r < 0 && err && godwit_error_text(err)[0])
		answer = control_refusal("%s", godwit_error_text(err));
	else
		answer = answer_plain(r);
	godwit_error_free(err);
	return answer;
}

static json_t *command(void *opaque, const struct control_request *request)
{
	struct move *move = opaque;

	if (!strcmp(request->command, "status"))
		return command_status(move);
	if (!strcmp(request->command, "cancel"))
		return answer_plain(move_cancel(move));
	if (!strcmp(request->command, "switch"))
		return command_switch(move);
	if (!strcmp(request->command, "set"))
		return command_set(move, request);
	return control_refusal("there is no command '%.40s'", request->command);
}

/* ---- set-up ---- */

static int guest_make(struct move *move)
{
	const struct godwit_qemu qemu = {
		.qmp_path = move->qmp,
		.pid = move->pid,
		.side = move->side,
		.offline = move->offline,
		.log = report_log,
		.log_opaque = &move->report,
	};
	const struct godwit_process process = {
		.pid = move->pid,
		.ranges = move->ranges,
		.n_ranges = move->n_ranges,
		.side = move->side,
		.offline = move->offline,
	};

	if (move->qmp)
		return godwit_guest_new_qemu(&qemu, move->err, &move->guest);
	return godwit_guest_new_process(&process, move->err, &move->guest);
}

static int side_make(struct move *move)
{
	int r;

	if (move->side == GODWIT_SOURCE)
		return godwit_source_new(move->guest, move->options, move->err,
					 &move->source);
	r = godwit_dest_new(move->guest, move->options, move->err, &move->dest);
	if (!r)
		r = godwit_dest_listen(move->dest, move->address, move->err);
	if (!r)
		report_listening(&move->report, godwit_dest_address(move->dest));
	return r;
}

/* ---- running ---- */

static void *thread_main(void *opaque)
{
	struct move *move = opaque;
	uint64_t one = 1;

	move->result = move_run(move);
	atomic_store_explicit(&move->ended, true, memory_order_release);
	/* EAGAIN: the main thread is about to look anyway */
	if (write(move->wake_fd, &one, sizeof(one)) < 0)
		return NULL;
	return NULL;
}

static void signals_serve(struct move *move)
{
	struct signalfd_siginfo info;
	int r;

	while (read(move->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		r = move_cancel(move);
		if (r == -EBUSY)
			report_remark(&move->report, TOO_LATE);
		else if (!move->quiet)
			report_remark(&move->report, "cancelling");
	}
}

static void wait_for_end(struct move *move)
{
	struct pollfd fds[] = {
		{.fd = move->signal_fd, .events = POLLIN},
		{.fd = move->wake_fd, .events = POLLIN},
		{.fd = move->control.epoll_fd, .events = POLLIN},
	};
	struct godwit_stats stats;
	uint64_t count;

	while (!atomic_load_explicit(&move->ended, memory_order_acquire)) {
		poll(fds, ARRAY_SIZE(fds), TICK_MS);
		/* EAGAIN: nobody has woken us */
		if (read(move->wake_fd, &count, sizeof(count)) < 0)
			count = 0;
		signals_serve(move);
		control_serve(&move->control);
		report_flush(&move->report, false);
		move_stats(move, &stats);
		report_progress(&move->report, &stats);
	}
}

/* Everything between the set-up and the result. */
static int migrate(struct move *move)
{
	int r = guest_make(move);

	if (!r)
		r = side_make(move);
	if (r < 0)
		return r;
	r = -pthread_create(&move->thread, NULL, thread_main, move);
	if (r < 0)
		return godwit_error_set(move->err, r, "a thread: %s", strerror(-r));
	wait_for_end(move);
	pthread_join(move->thread, NULL);
	return move->result;
}

/* ---- the end ---- */

static enum cli_status status_of(const struct move *move, int r,
				 const struct godwit_stats *stats)
{
	if (r >= 0)
		return CLI_DONE;
	switch (stats->state) {
	case GODWIT_STATE_UNDECIDED:
		return CLI_UNDECIDED;
	/* past COMMIT there is no failure, only memory that is still missing */
	case GODWIT_STATE_POSTCOPY:
	case GODWIT_STATE_PAUSED:
		return CLI_PAUSED;
	case GODWIT_STATE_CANCELLED:
		return CLI_CANCELLED;
	default:
		break;
	}
	/* a peer that fell silent gives the same code, but it had a session */
	if (r == -ETIMEDOUT && move->dest && !stats->session[0])
		return CLI_TIMEOUT;
	return r == -ECANCELED ? CLI_CANCELLED : CLI_FAILED;
}

/* Nobody may be told that a guest runs on which has ended, or never was. */
static bool guest_gone(const struct move *move)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	bool gone;
	int fd;

	if (move->pid)
		return kill(move->pid, 0) < 0 && errno == ESRCH;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(to.sun_path, sizeof(to.sun_path), "%s", move->qmp);
	gone = fd >= 0 && connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0 &&
	       (errno == ECONNREFUSED || errno == ENOENT);
	cli_close(&fd);
	return gone;
}

static enum cli_status finish(struct move *move, int r)
{
	struct stats_all all;
	struct report_result result = {.all = &all};

	move_all_stats(move, &all);
	result.status = status_of(move, r, &all.stats);
	if (r < 0)
		result.error = godwit_error_text(move->err)[0]
				       ? godwit_error_text(move->err)
				       : strerror(-r);
	godwit_source_free(move->source);
	godwit_dest_free(move->dest);
	godwit_guest_free(move->guest);
	control_close(&move->control);
	result.no_guest = r < 0 && guest_gone(move);
	report_result(&move->report, &result);
	report_deinit(&move->report);
	return result.status;
}

static enum cli_status move_all(struct move *move)
{
	int r;

	report_init(&move->report, move->side, move->wake_fd);
	move->report.json = move->json;
	move->report.quiet = move->quiet;
	if (move->quiet)
		move->report.level = GODWIT_LOG_WARNING;
	if (move->verbose)
		move->report.level = GODWIT_LOG_DEBUG;
	godwit_options_set_log(move->options, report_log, &move->report,
			       move->report.level);
	control_init(&move->control);
	r = cli_take_signals(move->err, &move->signal_fd);
	if (!r)
		r = control_open(&move->control, move->run_dir, move->name, command, move,
				 move->err);
	if (!r)
		r = migrate(move);
	return finish(move, r);
}

static enum cli_status move_start(struct move *move, int argc, char **argv)
{
	int r = args_parse(move->command, argc, argv, take, move);

	if (!r)
		r = check(move);
	if (r)
		return r < 0 ? CLI_USAGE : CLI_DONE;
	if (!move->name[0])
		snprintf(move->name, sizeof(move->name), "%s-%d", move->command->name,
			 (int)getpid());
	return move_all(move);
}

static enum cli_status move_main(const struct args_command *which, int argc, char **argv)
{
	struct move *move = calloc(1, sizeof(*move));
	enum cli_status status = CLI_FAILED;

	if (!move) {
		args_complain(which, "out of memory");
		return CLI_FAILED;
	}
	move->command = which;
	move->side = (enum godwit_side)which->sides;
	move->signal_fd = -1;
	move->options = godwit_options_new();
	move->err = godwit_error_new();
	move->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (move->options && move->err && move->wake_fd >= 0)
		status = move_start(move, argc, argv);
	else
		args_complain(which, "out of memory or descriptors");
	cli_close(&move->wake_fd);
	cli_close(&move->signal_fd);
	godwit_error_free(move->err);
	godwit_options_free(move->options);
	free(move);
	return status;
}

/* ---- the subcommands ---- */

static void epilog_print(void)
{
	fputs("\nTIME is a number with ns, us, ms, s, m or h; RATE one with K, M, G (bytes\n"
	      "a second) or kbit, mbit, gbit (bits a second).\n"
	      "\nExit status:\n"
	      "  0  done: the guest runs at the destination\n"
	      "  1  failed: the guest runs on at the source (or stands there, and the last\n"
	      "     line says so); it never ran at the destination\n"
	      "  2  the command line is wrong\n"
	      "  3  cancelled: as 1, on request\n"
	      "  4  receive: no source came within --timeout\n"
	      "  5  undecided: the link was lost in the moment of handing over; do not start\n"
	      "     the guest at the source before it is seen not to run at the destination\n"
	      "  6  post-copy paused: the guest runs at the destination, but the link is\n"
	      "     lost and pages are missing there; keep both VMMs\n",
	      stdout);
}

static const struct args_option options[] = {
	{"qmp", "PATH", "QEMU's monitor: a Unix socket that speaks QMP"},
	{"pid", "PID", "the guest's process; with --qmp it is found by itself"},
	{"range", "FILE",
	 "a file that PID has mapped shared: guest memory; several can be given, in the "
	 "same order on both hosts",
	 .repeats = true},
	{"to", "ADDRESS",
	 "where godwit receive listens: HOST:PORT, [V6]:PORT or unix:PATH",
	 .sides = GODWIT_SOURCE},
	{"listen", "ADDRESS",
	 "HOST:PORT, [V6]:PORT or unix:PATH; port 0 picks a free one, the line "
	 "\"listening on\" names it",
	 .sides = GODWIT_DEST},
	{"offline", NULL,
	 "the source comes with --mode offline: accept devices whose writes to guest "
	 "memory cannot be seen",
	 .sides = GODWIT_DEST},
	{"name", "NAME",
	 "what status, cancel, switch and set call this migration (default: the "
	 "subcommand and godwit's own pid, send-1234)"},
	{"run-dir", "DIR",
	 "where the control socket is made (default: /run/godwit for root, else "
	 "$XDG_RUNTIME_DIR/godwit)"},
	{"json", NULL, "JSON lines on stdout, no progress on stderr"},
	{"quiet", NULL, "no progress; only warnings and errors on stderr"},
	{"verbose", NULL, "debug log lines too"},
	{0},
};

enum cli_status cli_send(int argc, char **argv)
{
	static const char *const usage[] = {
		"--qmp PATH [--pid PID] --to ADDRESS [OPTION...]",
		"--pid PID --range FILE... --to ADDRESS [OPTION...]", NULL};
	static const struct args_command which = {
		.name = "send",
		.usage = usage,
		.summary = "Moves a running guest to where godwit receive waits. SIGINT "
			   "and SIGTERM call it off: the guest runs on here.",
		.options = options,
		.sides = GODWIT_SOURCE,
		.epilog = epilog_print,
	};

	return move_main(&which, argc, argv);
}

enum cli_status cli_receive(int argc, char **argv)
{
	static const char *const usage[] = {
		"--qmp PATH [--pid PID] --listen ADDRESS [OPTION...]",
		"--pid PID --range FILE... --listen ADDRESS [OPTION...]", NULL};
	static const struct args_command which = {
		.name = "receive",
		.usage = usage,
		.summary =
			"Waits for one godwit send and takes its guest over, into a "
			"QEMU started with -incoming defer. SIGINT and SIGTERM call it "
			"off.",
		.options = options,
		.sides = GODWIT_DEST,
		.epilog = epilog_print,
	};

	return move_main(&which, argc, argv);
}
