/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Command lines. getopt_long() is not used: it takes abbreviations, which turn
 * into another option when one is added, and its complaints name no remedy.
 */
#include "cli/args.h"

#include <ctype.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/text.h"

/* Of the help text beside an option. */
#define HELP_COLUMN 26U
/* Longest option name for which a similar one is looked for. */
#define NAME_MAX_LEN 31U

static const struct args_option help_option = {.name = "help",
					       .help = "print this and exit"};

int args_complain(const struct args_command *command, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	text_clean(line);
	fprintf(stderr, "godwit %s: %s\n", command->name, line);
	return -EINVAL;
}

int args_pid(const char *text, int *ret)
{
	unsigned long value;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || *end || !value || value > INT_MAX)
		return -EINVAL;
	*ret = (int)value;
	return 0;
}

static bool takes(const struct args_command *command, unsigned int sides)
{
	return !sides || sides & command->sides;
}

/* ---- help ---- */

static void help_line(const char *name, const char *value, const char *help,
		      const char *initial)
{
	char text[512];
	int column = printf("  --%s%s%s", name, value ? " " : "", value ?: "");

	/* at least two blanks between the two */
	if (column + 2 > (int)HELP_COLUMN) {
		putchar('\n');
		column = 0;
	}
	printf("%*s", (int)HELP_COLUMN - column, "");
	snprintf(text, sizeof(text), "%s%s%s%s", help, initial ? " (default: " : "",
		 initial ?: "", initial ? ")" : "");
	text_wrap(stdout, HELP_COLUMN, HELP_COLUMN, text);
}

static void help_print(const struct args_command *command)
{
	const struct godwit_option *option;

	for (size_t i = 0; command->usage[i]; i++)
		printf("%s godwit %s %s\n", i ? "      " : "Usage:", command->name,
		       command->usage[i]);
	putchar('\n');
	text_wrap(stdout, 0, 0, command->summary);
	printf("\nOptions:\n");
	for (const struct args_option *o = command->options; o->name; o++)
		if (takes(command, o->sides))
			help_line(o->name, o->value, o->help, NULL);
	help_line(help_option.name, NULL, help_option.help, NULL);
	for (size_t i = 0; command->sides && (option = godwit_option_at(i)); i++) {
		if (i == 0)
			printf("\nOptions of the migration:\n");
		if (takes(command, option->sides))
			help_line(option->name, option->value, option->help,
				  option->initial);
	}
	if (command->epilog)
		command->epilog();
}

/* ---- unknown names ---- */

/* How many letters must change to make @a of @b; both at most NAME_MAX_LEN. */
static unsigned int distance(const char *a, const char *b)
{
	size_t n = strlen(b);
	unsigned int row[NAME_MAX_LEN + 1];

	for (unsigned int j = 0; j <= n; j++)
		row[j] = j;
	for (unsigned int i = 1; a[i - 1]; i++) {
		unsigned int diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= n; j++) {
			unsigned int best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			best = row[j] + 1 < best ? row[j] + 1 : best;
			row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
		}
	}
	return row[n];
}

struct nearest {
	const char *wanted;
	const char *name; /* NULL: none is near enough */
	unsigned int distance;
};

static void nearest_try(struct nearest *nearest, const char *name)
{
	unsigned int d;

	if (strlen(nearest->wanted) > NAME_MAX_LEN || strlen(name) > NAME_MAX_LEN)
		return;
	d = distance(nearest->wanted, name);
	if (d >= nearest->distance)
		return;
	nearest->distance = d;
	nearest->name = name;
}

/* An option of the other side may have been meant for it. */
static int name_try(const struct args_command *command, struct nearest *nearest,
		    const char *name, unsigned int sides)
{
	if (takes(command, sides))
		return nearest_try(nearest, name), 0;
	if (!command->sides || strcmp(nearest->wanted, name) != 0)
		return 0;
	return args_complain(command, "--%s is an option of godwit %s", name,
			     sides & GODWIT_SOURCE ? "send" : "receive");
}

static int unknown(const struct args_command *command, const char *name)
{
	/* more than two wrong letters are no slip of the finger */
	struct nearest nearest = {.wanted = name, .distance = 3};
	const struct godwit_option *option;
	int r = 0;

	for (size_t i = 0; !r && (option = godwit_option_at(i)); i++)
		r = name_try(command, &nearest, option->name, option->sides);
	for (const struct args_option *o = command->options; !r && o->name; o++)
		r = name_try(command, &nearest, o->name, o->sides);
	if (r < 0)
		return r;
	if (nearest.name)
		return args_complain(command,
				     "there is no option --%s: did you mean --%s?", name,
				     nearest.name);
	return args_complain(command,
			     "there is no option --%s: godwit %s --help lists them", name,
			     command->name);
}

/* ---- parsing ---- */

struct parser {
	const struct args_command *command;
	args_fn *take;
	void *opaque;
	char **next;	     /* the next word, NULL-terminated like argv */
	unsigned long given; /* bit N: option N of the table */
	size_t operands;
};

/* The value is what follows '=' or the next word. */
static int value_take(struct parser *parser, const char *name, const char *form,
		      const char *attached, const char **ret)
{
	const char *next = *parser->next;

	if (attached) {
		*ret = attached;
		return 0;
	}
	/* a forgotten value must not swallow the option that follows */
	if (!next || !strncmp(next, "--", 2))
		return args_complain(parser->command, "--%s needs a value: --%s %s", name,
				     name, form);
	parser->next++;
	*ret = next;
	return 0;
}

static int flag_check(const struct parser *parser, const char *name, const char *attached)
{
	if (!attached)
		return 0;
	return args_complain(parser->command, "--%s takes no value: leave out '=%s'",
			     name, attached);
}

static int own_option(struct parser *parser, size_t index, const char *attached)
{
	const struct args_option *option = &parser->command->options[index];
	unsigned long bit = 1UL << index;
	const char *value = NULL;
	int r;

	if (parser->given & bit && !option->repeats && option->value)
		return args_complain(parser->command,
				     "--%s is given twice: leave one out", option->name);
	parser->given |= bit;
	r = option->value
		    ? value_take(parser, option->name, option->value, attached, &value)
		    : flag_check(parser, option->name, attached);
	if (r < 0)
		return r;
	return parser->take(parser->opaque, ARGS_OPTION, option->name, value);
}

static const struct godwit_option *library_find(const struct args_command *command,
						const char *name)
{
	const struct godwit_option *option;

	for (size_t i = 0; command->sides && (option = godwit_option_at(i)); i++)
		if (takes(command, option->sides) && !strcmp(option->name, name))
			return option;
	return NULL;
}

static int option_take(struct parser *parser, const char *name, const char *attached)
{
	const struct args_command *command = parser->command;
	const struct godwit_option *option;
	const char *value;
	int r;

	if (!strcmp(name, help_option.name)) {
		r = flag_check(parser, name, attached);
		if (r < 0)
			return r;
		help_print(command);
		return ARGS_HELPED;
	}
	for (size_t i = 0; command->options[i].name; i++)
		if (takes(command, command->options[i].sides) &&
		    !strcmp(command->options[i].name, name))
			return own_option(parser, i, attached);
	option = library_find(command, name);
	if (!option)
		return unknown(command, name);
	r = value_take(parser, option->name, option->value, attached, &value);
	if (r < 0)
		return r;
	return parser->take(parser->opaque, ARGS_LIBRARY, option->name, value);
}

static int operand_take(struct parser *parser, const char *word)
{
	if (parser->operands++ >= parser->command->max_operands)
		return args_complain(parser->command,
				     "'%s' is one word too many: see godwit %s --help",
				     word, parser->command->name);
	return parser->take(parser->opaque, ARGS_OPERAND, NULL, word);
}

/* Splits "name=value"; the name is copied. */
static int word_take(struct parser *parser, const char *word)
{
	const char *equals;
	char name[128];
	size_t len;

	if (!strcmp(word, "-h"))
		return option_take(parser, help_option.name, NULL);
	if (word[0] != '-' || !word[1])
		return operand_take(parser, word);
	if (word[1] != '-')
		return args_complain(parser->command,
				     "'%s' is no option: they start with two dashes",
				     word);
	equals = strchr(word, '=');
	len = (equals ? (size_t)(equals - word) : strlen(word)) - 2;
	if (len >= sizeof(name))
		len = sizeof(name) - 1; /* none has such a name */
	memcpy(name, word + 2, len);
	name[len] = '\0';
	return option_take(parser, name, equals ? equals + 1 : NULL);
}

int args_parse(const struct args_command *command, int argc, char **argv, args_fn *take,
	       void *opaque)
{
	struct parser parser = {
		.command = command,
		.take = take,
		.opaque = opaque,
		.next = argv,
	};
	bool options_end = false;
	const char *word;
	int r = 0;

	(void)argc; /* argv ends with NULL */
	while (!r && (word = *parser.next)) {
		parser.next++;
		if (options_end)
			r = operand_take(&parser, word);
		else if (!strcmp(word, "--"))
			options_end = true;
		else
			r = word_take(&parser, word);
	}
	return r;
}
