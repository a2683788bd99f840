/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `godwit bench`.
 *
 * The measuring is bench/'s and runs in a thread of its own. The main thread
 * waits for its end or for a signal. A signal ends the process at once, after
 * the two things that outlive a process are removed: the folder for Unix sockets
 * and a file for JSON that was made here. Memory, threads that wait for a page
 * and connections are the kernel's to clear away.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "bench/bench.h"
#include "cli/args.h"
#include "cli/bench_table.h"
#include "cli/cli.h"
#include "cli/signals.h"
#include "cli/text.h"

struct measuring {
	const struct args_command *command;
	struct bench_config config;
	bool loopback;
	const char *json;  /* NULL: no file */
	int json_fd;	   /* -1: none */
	bool json_created; /* by us: it goes when nothing comes of it */
	char line[1024];   /* the command as it was typed */

	struct bench_host host;
	struct bench_results results;
	godwit_error *err;
	pthread_t thread;
	int result;  /* the thread's until it has ended */
	int wake_fd; /* written by the thread at its end */
	int signal_fd;
};

/* ---- the command line ---- */

static int option_take(struct measuring *measuring, const char *name, const char *value)
{
	struct bench_config *config = &measuring->config;
	const struct {
		const char *name;
		const char **text;
		bool *flag;
	} plain[] = {
		{"to", &config->to, NULL},
		{"listen", &config->listen, NULL},
		{"ram", &config->ram, NULL},
		{"json", &measuring->json, NULL},
		{"loopback", NULL, &measuring->loopback},
		{"cold", NULL, &config->cold},
		{"quick", NULL, &config->quick},
	};

	for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
		if (strcmp(plain[i].name, name) != 0)
			continue;
		if (plain[i].text)
			*plain[i].text = value;
		else
			*plain[i].flag = true;
		return 0;
	}
	return bench_config_set(config, name, value, measuring->err);
}

static int take(void *opaque, enum args_kind kind, const char *name, const char *value)
{
	struct measuring *measuring = opaque;
	int r = kind == ARGS_OPERAND ? bench_config_set(&measuring->config, NULL, value,
							measuring->err)
				     : option_take(measuring, name, value);

	if (r < 0)
		args_complain(measuring->command, "%s",
			      godwit_error_text(measuring->err));
	return r;
}

static int check_listen(const struct measuring *measuring)
{
	const struct bench_config *config = &measuring->config;

	if (config->subjects || config->pages || config->transports ||
	    config->n_channels || config->repeat || config->seed || config->cold ||
	    config->quick || measuring->json)
		return args_complain(measuring->command,
				     "what is measured, and how, is said on the --to "
				     "side: --listen takes --size and --ram alone");
	return 0;
}

static int check(struct measuring *measuring)
{
	struct bench_config *config = &measuring->config;
	int r = 0;

	if (measuring->loopback + !!config->to + !!config->listen != 1)
		return args_complain(
			measuring->command,
			"say where the other side is: --loopback, or --listen "
			"ADDRESS on one host and --to ADDRESS on the other");
	if (config->listen)
		r = check_listen(measuring);
	else if (!config->seed)
		config->seed = 1;
	if (!r && bench_config_finish(config, measuring->err)) {
		args_complain(measuring->command, "%s",
			      godwit_error_text(measuring->err));
		r = -EINVAL;
	}
	return r;
}

/* As it was typed, but for quotes. */
static void line_make(struct measuring *measuring, char **argv)
{
	size_t used = (size_t)snprintf(measuring->line, sizeof(measuring->line),
				       "godwit bench");

	for (; *argv && used < sizeof(measuring->line); argv++)
		used += (size_t)snprintf(measuring->line + used,
					 sizeof(measuring->line) - used, " %s", *argv);
	text_clean(measuring->line);
}

/* ---- what outlives a process ---- */

/* Now rather than after an hour of measuring. */
static int json_open(struct measuring *measuring)
{
	int flags = O_WRONLY | O_CLOEXEC;

	if (!measuring->json)
		return 0;
	measuring->json_fd = open(measuring->json, flags | O_CREAT | O_EXCL, 0666);
	measuring->json_created = measuring->json_fd >= 0;
	if (measuring->json_fd < 0)
		measuring->json_fd = open(measuring->json, flags);
	if (measuring->json_fd >= 0)
		return 0;
	return godwit_error_set(measuring->err, -errno, "cannot write to '%s': %s",
				measuring->json, strerror(errno));
}

static void clear_away(struct measuring *measuring)
{
	bench_scratch_remove(&measuring->config);
	if (measuring->json_created)
		unlink(measuring->json);
	measuring->json_created = false;
}

static int json_write(struct measuring *measuring, const json_t *document)
{
	if (measuring->json_fd < 0)
		return 0;
	/* a pipe or a terminal cannot be cut short, and need not be */
	if (ftruncate(measuring->json_fd, 0) && errno != EINVAL)
		return -errno;
	if (json_dumpfd(document, measuring->json_fd, JSON_INDENT(1)) ||
	    write(measuring->json_fd, "\n", 1) != 1)
		return errno ? -errno : -EIO;
	measuring->json_created = false;
	return 0;
}

/* ---- running ---- */

static void progress_print(void *opaque, const char *line)
{
	fprintf(stderr, "\r\033[K%s", line);
}

/* After it the progress line, if there is one, begins anew. */
static void failed_print(void *opaque, const char *line)
{
	struct measuring *measuring = opaque;

	if (measuring->config.progress)
		fputs("\r\033[K", stderr);
	args_complain(measuring->command, "%s", line);
}

static void ready_print(const char *address)
{
	printf("listening on %s\n", address);
	fflush(stdout);
}

static void *thread_main(void *opaque)
{
	struct measuring *measuring = opaque;
	uint64_t one = 1;

	measuring->result =
		measuring->config.listen
			? bench_serve(&measuring->config, ready_print, measuring->err)
			: bench_run(&measuring->config, &measuring->results,
				    measuring->err);
	/* an eventfd that nobody has written to takes it */
	if (write(measuring->wake_fd, &one, sizeof(one)) < 0)
		return NULL;
	return NULL;
}

/* Returns when the thread has ended; a signal is not returned from. */
static void wait_for_end(struct measuring *measuring)
{
	struct pollfd fds[] = {
		{.fd = measuring->signal_fd, .events = POLLIN},
		{.fd = measuring->wake_fd, .events = POLLIN},
	};

	while (!fds[1].revents) {
		if (poll(fds, ARRAY_SIZE(fds), -1) < 0)
			continue;
		if (!fds[0].revents || fds[1].revents)
			continue;
		clear_away(measuring);
		fprintf(stderr, "%sgodwit bench: cancelled\n",
			measuring->config.progress ? "\n" : "");
		_exit(CLI_CANCELLED);
	}
	pthread_join(measuring->thread, NULL);
}

static int run(struct measuring *measuring)
{
	int r = cli_take_signals(measuring->err, &measuring->signal_fd);

	measuring->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (!r && measuring->wake_fd < 0)
		r = godwit_error_set(measuring->err, -errno, "eventfd: %s",
				     strerror(errno));
	if (!r)
		r = json_open(measuring);
	if (!r && !measuring->config.listen)
		r = bench_scratch_make(&measuring->config, measuring->err);
	if (r)
		return r;
	bench_host_init(&measuring->host);
	r = -pthread_create(&measuring->thread, NULL, thread_main, measuring);
	if (r)
		return godwit_error_set(measuring->err, r, "a thread: %s", strerror(-r));
	wait_for_end(measuring);
	return measuring->result;
}

static int tell(struct measuring *measuring)
{
	json_t *document =
		bench_results_document(&measuring->results, &measuring->host,
				       measuring->line, measuring->config.seed);
	int r;

	if (!document)
		return args_complain(measuring->command, "out of memory");
	bench_table_print(stdout, document);
	r = json_write(measuring, document);
	json_decref(document);
	if (r)
		args_complain(measuring->command, "cannot write to '%s': %s",
			      measuring->json, strerror(-r));
	return r;
}

static enum cli_status measure(struct measuring *measuring)
{
	int r;

	if (isatty(STDERR_FILENO))
		measuring->config.progress = progress_print;
	measuring->config.failed = failed_print;
	measuring->config.opaque = measuring;
	r = run(measuring);
	if (measuring->config.progress)
		fputs("\r\033[K", stderr);
	if (r)
		args_complain(measuring->command, "%s",
			      godwit_error_text(measuring->err));
	if (!measuring->config.listen &&
	    (!r || json_array_size(measuring->results.results)))
		r = tell(measuring) ? -EIO : r;
	clear_away(measuring);
	return r ? CLI_FAILED : CLI_DONE;
}

/* ---- the subcommand ---- */

static const struct args_option options[] = {
	{"loopback", NULL, "both sides are this process"},
	{"listen", "ADDRESS",
	 "be the other side of one godwit bench --to: HOST:PORT or [V6]:PORT; port 0 "
	 "picks a free one, the line \"listening on\" names it"},
	{"to", "ADDRESS", "where godwit bench --listen runs"},
	{"size", "SIZE",
	 "of the memory that is moved, and of what else is measured (default: 1G); with "
	 "--listen the most that is lent"},
	{"channels", "N,...", "numbers of channels to measure (default: 1,2,4)"},
	{"pages", "KIND,...", "random, zero, half, text, real (default: all)"},
	{"transport", "NAME,...",
	 "tcp, unix (default: both; with --to, tcp is all there is)"},
	{"repeat", "N", "runs of each measurement (default: 5)"},
	{"seed", "N", "for contents and for the order of touches (default: 1)"},
	{"ram", "FILE",
	 "take the receiving memory from FILE, in a tmpfs or hugetlbfs, and other memory "
	 "from beside it; its contents are lost. A folder will do"},
	{"cold", NULL, "raw, stream: receiving memory is fresh in each run"},
	{"json", "FILE", "write all figures to FILE too"},
	{"quick", NULL, "little of everything, to see that it functions"},
	{0},
};

static void epilog_print(void)
{
	fputs("\nSubjects (all without any):\n"
	      "  raw       plain sockets and nothing else: the ceiling\n"
	      "  stream    the engine, memory to memory\n"
	      "  fault     post-copy: how long a thread waits for a missing page\n"
	      "  zero      looking for zero pages\n"
	      "  lz4       compression on one core\n"
	      "  dirty     finding 0.1 % of written pages\n"
	      "  install   putting missing pages in place\n"
	      "  register  userfaultfd registration, second mappings\n"
	      "\nExit status: 0 done, 1 failed, 2 the command line is wrong, 3 cancelled.\n",
	      stdout);
}

static enum cli_status start(struct measuring *measuring, int argc, char **argv)
{
	int r = args_parse(measuring->command, argc, argv, take, measuring);

	if (!r)
		r = check(measuring);
	if (r)
		return r < 0 ? CLI_USAGE : CLI_DONE;
	line_make(measuring, argv);
	return measure(measuring);
}

enum cli_status cli_bench(int argc, char **argv)
{
	static const char *const usage[] = {"[SUBJECT...] --loopback [OPTION...]",
					    "[SUBJECT...] --to ADDRESS [OPTION...]",
					    "--listen ADDRESS [--size SIZE] [--ram FILE]",
					    NULL};
	static const struct args_command command = {
		.name = "bench",
		.usage = usage,
		.summary =
			"Measures how fast this host, or this host to another one, moves "
			"memory, without any guest. Each figure comes with the median and "
			"range of its runs and with what bare sockets or memory reach in "
			"the same minute.",
		.options = options,
		.max_operands = 16,
		.epilog = epilog_print,
	};
	struct measuring measuring = {
		.command = &command,
		.json_fd = -1,
		.signal_fd = -1,
		.wake_fd = -1,
		.err = godwit_error_new(),
	};
	enum cli_status status = CLI_FAILED;

	if (measuring.err && !bench_results_init(&measuring.results))
		status = start(&measuring, argc, argv);
	else
		args_complain(&command, "out of memory");
	bench_results_deinit(&measuring.results);
	cli_close(&measuring.json_fd);
	cli_close(&measuring.signal_fd);
	cli_close(&measuring.wake_fd);
	godwit_error_free(measuring.err);
	return status;
}
