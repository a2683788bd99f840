/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Signals that end a command in good order. */
#include "cli/signals.h"

#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>

#include "cli/cli.h"

int cli_take_signals(godwit_error *err, int *ret_fd)
{
	static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action;
	sigset_t set;
	int fd;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		sigaction(numbers[i], NULL, &action);
		if (numbers[i] == SIGTERM || action.sa_handler != SIG_IGN)
			sigaddset(&set, numbers[i]);
	}
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return godwit_error_set(err, -errno, "signalfd: %s", strerror(errno));
	*ret_fd = fd;
	return 0;
}
