/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command `godwit`: a table of subcommands. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct subcommand {
	const char *name;
	enum cli_status (*run)(int argc, char **argv);
	const char *summary;
} subcommands[] = {
	{"send", cli_send, "move a guest of this host to another one"},
	{"receive", cli_receive, "wait for a guest and take it over"},
	{"status", cli_list, "show the migrations of this host"},
	{"cancel", cli_cancel, "call a migration off"},
	{"switch", cli_switch, "switch a migration to post-copy now"},
	{"set", cli_set, "change a limit of a migration under way"},
	{"bench", cli_bench, "measure how fast memory moves here, without a guest"},
};

static void help_print(FILE *out)
{
	fputs("Usage: godwit SUBCOMMAND [OPTION…]\n"
	      "\n"
	      "Moves a running guest to another host, from beside its VMM.\n"
	      "\n"
	      "Subcommands:\n",
	      out);
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		fprintf(out, "  %-10s %s\n", subcommands[i].name, subcommands[i].summary);
	fputs("\n"
	      "godwit SUBCOMMAND --help tells more about each; godwit --version prints\n"
	      "the version. Exit statuses are listed in godwit(1) and by send --help.\n",
	      out);
}

static enum cli_status dispatch(int argc, char **argv)
{
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		if (!strcmp(argv[1], subcommands[i].name))
			return subcommands[i].run(argc - 2, argv + 2);
	fprintf(stderr, "godwit: there is no subcommand '%s': godwit --help lists them\n",
		argv[1]);
	return CLI_USAGE;
}

int main(int argc, char **argv)
{
	/* a reader that has gone away must not end a migration */
	signal(SIGPIPE, SIG_IGN);
	if (argc < 2) {
		fputs("godwit: name a subcommand: godwit --help lists them\n", stderr);
		return CLI_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		help_print(stdout);
		return CLI_DONE;
	}
	if (!strcmp(argv[1], "--version")) {
		printf("godwit %s\n", godwit_version());
		return CLI_DONE;
	}
	return (int)dispatch(argc, argv);
}
