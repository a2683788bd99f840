/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Error texts: what they say, and that they end where they must. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/err.h"

Test(err, setting_returns_the_code_and_keeps_the_text)
{
	struct gw_err err = {0};

	cr_assert_eq(gw_err_set(&err, -EINVAL, "region %d of %s", 3, "guest"), -EINVAL);
	cr_assert_eq(err.code, -EINVAL);
	cr_assert_str_eq(err.text, "region 3 of guest");
}

Test(err, the_meaning_of_the_code_is_appended)
{
	struct gw_err err = {0};

	cr_assert_eq(gw_err_errno(&err, -ENOENT, "opening %s", "x"), -ENOENT);
	cr_assert_str_eq(err.text, "opening x: No such file or directory");
	gw_err_errno(&err, -99999, "odd");
	cr_assert_str_eq(err.text, "odd: unknown error");
}

Test(err, a_prefix_goes_before_and_keeps_the_code)
{
	struct gw_err err = {0};

	gw_err_set(&err, -EPIPE, "it broke");
	cr_assert_eq(gw_err_prefix(&err, "channel %d", 2), -EPIPE);
	cr_assert_eq(gw_err_prefix(&err, "round %d", 7), -EPIPE);
	cr_assert_str_eq(err.text, "round 7: channel 2: it broke");
}

static void assert_cut_off(const struct gw_err *err)
{
	cr_assert_eq(strnlen(err->text, GW_ERR_TEXT_MAX), GW_ERR_TEXT_MAX - 1);
}

Test(err, long_texts_are_cut_off_not_overrun)
{
	char text[3 * GW_ERR_TEXT_MAX];
	struct gw_err err = {0};

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	cr_assert_eq(gw_err_set(&err, -EIO, "%s", text), -EIO);
	assert_cut_off(&err);
	cr_assert_eq(gw_err_errno(&err, -EIO, "%s", text), -EIO);
	assert_cut_off(&err);
	cr_assert_eq(gw_err_prefix(&err, "short"), -EIO);
	assert_cut_off(&err);
	cr_assert_eq(strncmp(err.text, "short: xxx", 10), 0);
	cr_assert_eq(gw_err_prefix(&err, "%s", text), -EIO);
	assert_cut_off(&err);
}

Test(err, nobody_has_to_listen)
{
	cr_assert_eq(gw_err_set(NULL, -EINVAL, "x"), -EINVAL);
	cr_assert_eq(gw_err_errno(NULL, -EINVAL, "x"), -EINVAL);
	cr_assert_lt(gw_err_prefix(NULL, "x"), 0);
}

Test(err, the_public_object_holds_the_same)
{
	godwit_error *err = godwit_error_new();

	cr_assert_eq(godwit_error_code(err), 0);
	cr_assert_str_empty(godwit_error_text(err));
	gw_err_set(err, -EBUSY, "busy");
	cr_assert_eq(godwit_error_code(err), -EBUSY);
	cr_assert_str_eq(godwit_error_text(err), "busy");
	cr_assert_null(godwit_error_free(err));
	cr_assert_null(godwit_error_free(NULL));
}
