/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plain file descriptors, without their small print. */
#include "base/io.h"

#include "base/util.h"

int gw_write_all(int fd, const void *data, size_t len)
{
	const char *at = data;

	while (len) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			at += n;
			len -= (size_t)n;
		}
	}
	return 0;
}
