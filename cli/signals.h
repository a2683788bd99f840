/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Signals that end a command in good order. */
#pragma once

#include "godwit/godwit.h"

/*
 * SIGINT, SIGTERM and SIGHUP come from *@ret_fd (signalfd, not blocking) from now
 * on; before threads are started. SIGHUP and SIGINT that somebody has made us
 * ignore stay ignored: nohup and shells with background jobs mean it. 0, or
 * negative errno with @err.
 */
int cli_take_signals(godwit_error *err, int *ret_fd);
