/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One error: a negative errno and one line of text a user can act on.
 *
 * Every function that may fail for a reason a user can cause takes a
 * `struct gw_err *`, fills it once, where the error is decided, and returns
 * the code. Callers pass it up unchanged or prefix it with what they did.
 */
#pragma once

#include "godwit/godwit.h"

#define GW_ERR_TEXT_MAX 512

struct godwit_error {
	int code; /* 0, or a negative errno */
	char text[GW_ERR_TEXT_MAX];
};
#define gw_err godwit_error

/* Fills @err (may be NULL) and returns @code, which must be negative. */
int gw_err_set(struct gw_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As gw_err_set(), with ": " and the meaning of @code appended. */
int gw_err_errno(struct gw_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "@fmt: " before the text @err already has; returns its code. */
int gw_err_prefix(struct gw_err *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
