/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For tests of the state machines: another way to connect than by an address.
 * Both functions take the object over.
 */
#pragma once

#include "godwit/godwit.h"

struct gw_dialer;
struct gw_listener;

/* godwit_source_run() then ignores its address. */
void gw_source_use_dialer(godwit_source *source, struct gw_dialer *dialer);
/* Instead of godwit_dest_listen(). */
void gw_dest_use_listener(godwit_dest *dest, struct gw_listener *listener);
