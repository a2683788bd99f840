/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plain file descriptors, without their small print. */
#pragma once

#include <stddef.h>

/* Writes all of it, through signals and short writes: 0 or negative errno. */
int gw_write_all(int fd, const void *data, size_t len);
