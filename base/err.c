/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors: a code and one line of text, filled where the error is decided. */
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static __attribute__((format(printf, 3, 0))) void fill(struct gw_err *err, int code,
						       const char *fmt, va_list ap)
{
	assert(code < 0);
	if (!err)
		return;
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
}

int gw_err_set(struct gw_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(err, code, fmt, ap);
	va_end(ap);
	return code;
}

int gw_err_errno(struct gw_err *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t used;

	va_start(ap, fmt);
	fill(err, code, fmt, ap);
	va_end(ap);
	if (!err)
		return code;
	used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, ": %s",
		 strerrordesc_np(-code) ?: "unknown error");
	return code;
}

int gw_err_prefix(struct gw_err *err, const char *fmt, ...)
{
	char old[GW_ERR_TEXT_MAX];
	va_list ap;
	size_t used;

	if (!err)
		return -EIO;
	memcpy(old, err->text, sizeof(old));
	va_start(ap, fmt);
	fill(err, err->code, fmt, ap);
	va_end(ap);
	used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, ": %s", old);
	return err->code;
}

godwit_error *godwit_error_new(void)
{
	return calloc(1, sizeof(struct gw_err));
}

godwit_error *godwit_error_free(godwit_error *err)
{
	free(err);
	return NULL;
}

int godwit_error_code(const godwit_error *err)
{
	return err->code;
}

const char *godwit_error_text(const godwit_error *err)
{
	return err->text;
}

int godwit_error_set(godwit_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(err, code, fmt, ap);
	va_end(ap);
	return code;
}
