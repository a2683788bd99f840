/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Command lines: a table of options for each subcommand, joined by the
 * library's own table, from which both parsing and --help follow.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct args_option {
	const char *name;
	const char *value; /* the form of its value; NULL: it takes none */
	const char *help;
	unsigned int sides; /* of the command that takes it; 0: any */
	bool repeats;	    /* may be given more than once */
};

/* What a command is given, one at a time; see args_fn. */
enum args_kind {
	ARGS_OPTION, /* of the command's table */
	ARGS_LIBRARY, /* of godwit_option_at(): @name and @value for godwit_options_set() */
	ARGS_OPERAND, /* @name is NULL */
};

struct args_command {
	const char *name;
	const char *const *usage; /* what follows "godwit NAME ", up to NULL */
	const char *summary;
	const struct args_option *options; /* up to one without a name */
	unsigned int sides; /* a side: the library's options for it are taken too */
	size_t max_operands;
	/* NULL, or prints what comes after the options in --help */
	void (*epilog)(void);
};

/* 0, or a negative errno after args_complain(). */
typedef int args_fn(void *opaque, enum args_kind kind, const char *name,
		    const char *value);

/* --help was asked for and has been printed. */
#define ARGS_HELPED 1

/*
 * Hands each word to @take. 0, ARGS_HELPED, or a negative errno after one line
 * on stderr that says what is wrong and what to do.
 */
int args_parse(const struct args_command *command, int argc, char **argv, args_fn *take,
	       void *opaque);

/* Prints "godwit COMMAND: …" to stderr; returns -EINVAL. */
int args_complain(const struct args_command *command, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* A positive number that a pid may have: 0 or -EINVAL. */
int args_pid(const char *text, int *ret);
