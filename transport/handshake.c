/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a channel: version, session, and proof of the secret.
 *
 * Happy path: HELLO, WELCOME, PROOF, ACCEPT, as drawn in wire/handshake.h. The
 * first channel of a session tells the secret; every other proves it, both
 * ways, by an HMAC over both sides' first messages and nonces.
 *
 * Failure modes: silence (a deadline on the whole, so that a byte now and then
 * does not hold the listener), garbage (refused without an answer: whatever
 * talks here is not ours), another version or a missing feature (refused with a reason, which the other side shows to its user), a
 * wrong or missing proof (refused; says nothing about which byte was wrong).
 *
 * Threads: one for a channel, before anybody else knows of it.
 *
 * Ownership: nothing is taken; the caller frees the channel on failure.
 */
#include "transport/handshake.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "transport/net.h"

#define FROM_SOURCE "source"
#define FROM_DEST   "destination"

int gw_session_init(struct gw_session *session, struct gw_err *err)
{
	*session = (struct gw_session){0};
	if (gnutls_rnd(GNUTLS_RND_NONCE, session->id, sizeof(session->id)) ||
	    gnutls_rnd(GNUTLS_RND_KEY, session->secret, sizeof(session->secret)))
		return gw_err_set(err, -EIO, "the system gives no random numbers");
	return 0;
}

void gw_session_forget(struct gw_session *session)
{
	gnutls_memset(session->secret, 0, sizeof(session->secret));
}

void gw_session_name(const struct gw_session *session, char ret[33])
{
	for (unsigned int i = 0; i < GW_SESSION_LEN; i++)
		snprintf(ret + 2 * i, 3, "%02x", session->id[i]);
}

static int fill_nonce(uint8_t nonce[GW_NONCE_LEN], struct gw_err *err)
{
	if (gnutls_rnd(GNUTLS_RND_NONCE, nonce, GW_NONCE_LEN))
		return gw_err_set(err, -EIO, "the system gives no random numbers");
	return 0;
}

static int make_mac(const struct gw_session *session, const char *from,
		    const uint8_t hello[GW_HELLO_LEN],
		    const uint8_t welcome[GW_WELCOME_LEN], uint8_t ret[GW_PROOF_LEN],
		    struct gw_err *err)
{
	uint8_t text[16 + GW_HELLO_LEN + GW_WELCOME_LEN] = {0};

	memcpy(text, from, strlen(from));
	memcpy(text + 16, hello, GW_HELLO_LEN);
	memcpy(text + 16 + GW_HELLO_LEN, welcome, GW_WELCOME_LEN);
	if (gnutls_hmac_fast(GNUTLS_MAC_SHA256, session->secret, GW_SECRET_LEN, text,
			     sizeof(text), ret))
		return gw_err_set(err, -EIO, "GnuTLS cannot compute HMAC-SHA256");
	return 0;
}

/* 0 is "no limit", as for gw_chan_set_timeout(). */
static uint64_t deadline_of(uint64_t timeout_ns)
{
	return timeout_ns ? gw_net_deadline(timeout_ns) : UINT64_MAX;
}

static int send_step(struct gw_chan *chan, const void *buf, size_t len, const char *what,
		     struct gw_err *err)
{
	int r = gw_chan_send(chan, buf, len);

	return r ? gw_err_errno(err, r, "%s: sending %s", chan->name, what) : 0;
}

static int recv_step(struct gw_chan *chan, void *buf, size_t len, uint64_t deadline,
		     const char *what, struct gw_err *err)
{
	int r = gw_chan_recv_by(chan, buf, len, deadline);

	if (r == GW_CHAN_EOF || r == -EPIPE)
		return gw_err_set(err, -ECONNRESET,
				  "%s: the peer closed the connection before its %s: is "
				  "the other end a godwit that waits for a migration?",
				  chan->name, what);
	if (r == -ETIMEDOUT)
		return gw_err_set(err, r,
				  "%s: no %s from the peer in time: is the other end a "
				  "godwit that waits for a migration?",
				  chan->name, what);
	return r ? gw_err_errno(err, r, "%s: receiving %s", chan->name, what) : 0;
}

/* ---- the source's side ---- */

static int check_welcome(const struct gw_chan *chan, int decoded,
			 const struct gw_welcome *welcome, struct gw_err *err)
{
	if (decoded == -EPROTO)
		return gw_err_set(err, -EPROTO,
				  "%s: what answers there is not a godwit destination",
				  chan->name);
	if (welcome->status == GW_STATUS_VERSION || decoded == -EPROTONOSUPPORT)
		return gw_err_set(err, -EPROTONOSUPPORT,
				  "%s: no common protocol version (ours %d to %d): %s; "
				  "install the same godwit on both hosts",
				  chan->name, GW_WIRE_OLDEST, GW_WIRE_VERSION,
				  welcome->reason);
	if (welcome->status != GW_STATUS_OK)
		return gw_err_set(err, -EACCES, "%s: the destination refused: %s%s%s",
				  chan->name, gw_status_name(welcome->status),
				  welcome->reason[0] ? ": " : "", welcome->reason);
	return 0;
}

static int open_steps(struct gw_chan *chan, struct gw_session *session,
		      struct gw_hello *hello, uint64_t deadline, struct gw_err *err)
{
	uint8_t hello_buf[GW_HELLO_LEN], welcome_buf[GW_WELCOME_LEN];
	uint8_t proof[GW_PROOF_LEN], expected[GW_PROOF_LEN], accept_buf[GW_ACCEPT_LEN];
	struct gw_welcome welcome = {0};
	struct gw_accept accept;
	int r;

	gw_hello_encode(hello, hello_buf);
	r = send_step(chan, hello_buf, sizeof(hello_buf), "HELLO", err);
	if (!r)
		r = recv_step(chan, welcome_buf, sizeof(welcome_buf), deadline, "WELCOME",
			      err);
	if (r)
		return r;
	r = check_welcome(chan, gw_welcome_decode(welcome_buf, &welcome), &welcome, err);
	if (r)
		return r;
	if (hello->required & ~welcome.features)
		return gw_err_set(
			err, -EPROTONOSUPPORT,
			"%s: the destination lacks features 0x%llx", chan->name,
			(unsigned long long)(hello->required & ~welcome.features));

	if (hello->kind == GW_CHAN_CONTROL)
		memcpy(proof, session->secret, sizeof(proof));
	else
		r = make_mac(session, FROM_SOURCE, hello_buf, welcome_buf, proof, err);
	if (!r)
		r = send_step(chan, proof, sizeof(proof), "PROOF", err);
	gnutls_memset(proof, 0, sizeof(proof));
	if (!r)
		r = recv_step(chan, accept_buf, sizeof(accept_buf), deadline, "ACCEPT",
			      err);
	if (!r)
		r = make_mac(session, FROM_DEST, hello_buf, welcome_buf, expected, err);
	if (r)
		return r;
	if (gw_accept_decode(accept_buf, &accept))
		return gw_err_set(err, -EPROTO, "%s: malformed ACCEPT", chan->name);
	if (accept.status != GW_STATUS_OK)
		return gw_err_set(err, -EACCES, "%s: the destination refused: %s%s%s",
				  chan->name, gw_status_name(accept.status),
				  accept.reason[0] ? ": " : "", accept.reason);
	if (gnutls_memcmp(accept.mac, expected, sizeof(expected)))
		return gw_err_set(err, -EACCES,
				  "%s: the peer does not know the session's secret",
				  chan->name);
	if (hello->kind == GW_CHAN_CONTROL)
		session->features = welcome.features & hello->offered;
	return 0;
}

int gw_handshake_open(struct gw_chan *chan, struct gw_session *session,
		      enum gw_chan_kind kind, uint16_t index, uint64_t required,
		      uint64_t timeout_ns, struct gw_err *err)
{
	struct gw_hello hello = {
		.version = GW_WIRE_VERSION,
		.oldest = GW_WIRE_OLDEST,
		.kind = (uint8_t)kind,
		.index = index,
		.required = required,
		.offered = GW_FEATURES_KNOWN,
	};
	int r;

	memcpy(hello.session, session->id, sizeof(hello.session));
	r = fill_nonce(hello.nonce, err);
	if (r)
		return r;
	gw_chan_set_timeout(chan, timeout_ns);
	r = open_steps(chan, session, &hello, deadline_of(timeout_ns), err);
	gw_chan_set_timeout(chan, 0);
	return r;
}

/* ---- the destination's side ---- */

/* Best effort: a peer that hangs up on a refusal has understood it. */
static int refuse_hello(struct gw_chan *chan, enum gw_status status, const char *reason,
			struct gw_err *err)
{
	struct gw_welcome welcome = {.version = GW_WIRE_VERSION, .status = status};
	uint8_t buf[GW_WELCOME_LEN];

	snprintf(welcome.reason, sizeof(welcome.reason), "%s", reason);
	gw_welcome_encode(&welcome, buf);
	(void)gw_chan_send(chan, buf, sizeof(buf));
	return gw_err_set(err, -EACCES, "%s: refused: %s: %s", chan->name,
			  gw_status_name(status), reason);
}

static int refuse_proof(struct gw_chan *chan, struct gw_err *err)
{
	struct gw_accept accept = {.status = GW_STATUS_PROOF};
	uint8_t buf[GW_ACCEPT_LEN];

	gw_accept_encode(&accept, buf);
	(void)gw_chan_send(chan, buf, sizeof(buf));
	return gw_err_set(err, -EACCES, "%s: refused: %s", chan->name,
			  gw_status_name(GW_STATUS_PROOF));
}

static int judge_hello(struct gw_chan *chan, const struct gw_session *session,
		       bool expect_control, int decoded, const struct gw_hello *hello,
		       struct gw_err *err)
{
	char reason[GW_REASON_LEN];

	if (decoded == -EPROTO)
		return gw_err_set(err, -EPROTO,
				  "%s: dropped: what it sent is not a godwit handshake",
				  chan->name);
	if (decoded == -EPROTONOSUPPORT) {
		snprintf(reason, sizeof(reason),
			 "the source speaks %u to %u, this destination %d to %d",
			 hello->oldest, hello->version, GW_WIRE_OLDEST, GW_WIRE_VERSION);
		return refuse_hello(chan, GW_STATUS_VERSION, reason, err);
	}
	if (hello->required & ~GW_FEATURES_KNOWN) {
		snprintf(reason, sizeof(reason), "features 0x%llx are unknown here",
			 (unsigned long long)(hello->required & ~GW_FEATURES_KNOWN));
		return refuse_hello(chan, GW_STATUS_FEATURE, reason, err);
	}
	if (hello->kind < GW_CHAN_CONTROL || hello->kind > GW_CHAN_URGENT)
		return refuse_hello(chan, GW_STATUS_CHANNEL, "unknown kind of channel",
				    err);
	if ((hello->kind == GW_CHAN_CONTROL) != expect_control)
		return refuse_hello(chan, GW_STATUS_CHANNEL,
				    expect_control ? "no session yet"
						   : "a migration is under way",
				    err);
	if (!expect_control && memcmp(hello->session, session->id, GW_SESSION_LEN))
		return refuse_hello(chan, GW_STATUS_SESSION, "a migration is under way",
				    err);
	return 0;
}

/* What both sides have said so far: the proofs are computed over it. */
struct opening {
	uint8_t hello[GW_HELLO_LEN];
	uint8_t welcome[GW_WELCOME_LEN];
};

/* HELLO and WELCOME. */
static int greet(struct gw_chan *chan, const struct gw_session *session,
		 bool expect_control, uint64_t deadline, struct gw_err *err,
		 struct opening *opening, struct gw_hello *hello)
{
	struct gw_welcome welcome = {.version = GW_WIRE_VERSION};
	int r;

	r = recv_step(chan, opening->hello, GW_HELLO_LEN, deadline, "HELLO", err);
	if (!r)
		r = judge_hello(chan, session, expect_control,
				gw_hello_decode(opening->hello, hello), hello, err);
	if (!r)
		r = fill_nonce(welcome.nonce, err);
	if (r)
		return r;
	welcome.version = GW_MIN(hello->version, (uint16_t)GW_WIRE_VERSION);
	welcome.features = hello->offered & GW_FEATURES_KNOWN;
	gw_welcome_encode(&welcome, opening->welcome);
	return send_step(chan, opening->welcome, GW_WELCOME_LEN, "WELCOME", err);
}

static int check_proof(struct gw_chan *chan, const struct gw_session *session,
		       const struct opening *opening, const uint8_t proof[GW_PROOF_LEN],
		       struct gw_err *err)
{
	uint8_t expected[GW_PROOF_LEN];
	int r = make_mac(session, FROM_SOURCE, opening->hello, opening->welcome, expected,
			 err);

	if (!r && gnutls_memcmp(proof, expected, GW_PROOF_LEN))
		r = refuse_proof(chan, err);
	return r;
}

static int send_accept(struct gw_chan *chan, const struct gw_session *session,
		       const struct opening *opening, struct gw_err *err)
{
	struct gw_accept accept = {.status = GW_STATUS_OK};
	uint8_t buf[GW_ACCEPT_LEN];
	int r = make_mac(session, FROM_DEST, opening->hello, opening->welcome, accept.mac,
			 err);

	if (r)
		return r;
	gw_accept_encode(&accept, buf);
	return send_step(chan, buf, sizeof(buf), "ACCEPT", err);
}

static int answer_steps(struct gw_chan *chan, struct gw_session *session,
			bool expect_control, uint64_t deadline, struct gw_err *err,
			struct gw_hello *ret)
{
	struct gw_session fresh = {0};
	struct gw_hello hello = {0};
	uint8_t proof[GW_PROOF_LEN];
	struct opening opening;
	int r;

	r = greet(chan, session, expect_control, deadline, err, &opening, &hello);
	if (!r)
		r = recv_step(chan, proof, sizeof(proof), deadline, "PROOF", err);
	if (r)
		return r;
	if (expect_control) {
		memcpy(fresh.id, hello.session, sizeof(fresh.id));
		memcpy(fresh.secret, proof, sizeof(fresh.secret));
		fresh.features = hello.offered & GW_FEATURES_KNOWN;
		r = send_accept(chan, &fresh, &opening, err);
	} else {
		r = check_proof(chan, session, &opening, proof, err);
		if (!r)
			r = send_accept(chan, session, &opening, err);
	}
	gnutls_memset(proof, 0, sizeof(proof));
	if (!r && expect_control)
		*session = fresh;
	gw_session_forget(&fresh);
	if (!r)
		*ret = hello;
	return r;
}

int gw_handshake_answer(struct gw_chan *chan, struct gw_session *session,
			bool expect_control, uint64_t timeout_ns, struct gw_err *err,
			struct gw_hello *ret)
{
	int r;

	gw_chan_set_timeout(chan, timeout_ns);
	r = answer_steps(chan, session, expect_control, deadline_of(timeout_ns), err,
			 ret);
	gw_chan_set_timeout(chan, 0);
	return r;
}
