/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text from the wire ends up in logs and on terminals. */
#include "wire/cursor.h"

static bool is_continued(const unsigned char *at, unsigned int n)
{
	for (unsigned int i = 1; i <= n; i++)
		if ((at[i] & 0xc0) != 0x80)
			return false;
	return true;
}

/*
 * The length of the printable character at @at, which is not the end; 0: it is
 * none. Overlong forms, surrogates, control characters of either set and what
 * lies beyond Unicode are none. Never looks past the end, which is no
 * continuation.
 */
static unsigned int char_len(const unsigned char *at)
{
	unsigned char c = at[0];

	if (c < 0x80)
		return c >= 0x20 && c != 0x7f;
	if (c >= 0xc2 && c <= 0xdf && is_continued(at, 1))
		return c == 0xc2 && at[1] < 0xa0 ? 0 : 2;
	if ((c & 0xf0) == 0xe0 && is_continued(at, 2))
		return (c == 0xe0 && at[1] < 0xa0) || (c == 0xed && at[1] >= 0xa0) ? 0
										   : 3;
	if (c >= 0xf0 && c <= 0xf4 && is_continued(at, 3))
		return (c == 0xf0 && at[1] < 0x90) || (c == 0xf4 && at[1] >= 0x90) ? 0
										   : 4;
	return 0;
}

void gw_text_defuse(char *text)
{
	while (*text) {
		unsigned int len = char_len((const unsigned char *)text);

		if (!len)
			*text = '?';
		text += len ? len : 1;
	}
}
