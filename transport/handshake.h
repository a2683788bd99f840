/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a channel: who is there, which version, which session, and proof that
 * the peer knows its secret. See wire/handshake.h for the messages.
 */
#pragma once

#include "base/err.h"
#include "transport/chan.h"
#include "wire/handshake.h"

/* What both ends of one migration know. Wiped by gw_session_forget(). */
struct gw_session {
	uint8_t id[GW_SESSION_LEN];
	uint8_t secret[GW_SECRET_LEN];
	uint64_t features; /* agreed on by the control channel's handshake */
};

/* A random session; -EIO when the system has no random numbers. */
int gw_session_init(struct gw_session *session, struct gw_err *err);
void gw_session_forget(struct gw_session *session);
/* 32 hex digits and the end. */
void gw_session_name(const struct gw_session *session, char ret[33]);

/*
 * The source's side of a handshake on @chan, within @timeout_ns. @required
 * features must be known to the peer. -EPROTO (no godwit there),
 * -EPROTONOSUPPORT (version), -EACCES (refused: with the peer's reason), or the
 * channel's own error; @err names the channel and what to do.
 */
int gw_handshake_open(struct gw_chan *chan, struct gw_session *session,
		      enum gw_chan_kind kind, uint16_t index, uint64_t required,
		      uint64_t timeout_ns, struct gw_err *err);

/*
 * The destination's side. With @expect_control it takes a control channel and
 * fills @session from it; without, a channel of @session that proves the
 * secret. A refusal is sent to the peer and returned as -EACCES, garbage as
 * -EPROTO: neither harms the listener, which goes on.
 */
int gw_handshake_answer(struct gw_chan *chan, struct gw_session *session,
			bool expect_control, uint64_t timeout_ns, struct gw_err *err,
			struct gw_hello *ret);
