/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opening a channel: who gets in, who does not, and what each side is told. */
#include <criterion/criterion.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <string.h>

#include "base/util.h"
#include "transport/handshake.h"

#define MS	 1000000ULL
#define PATIENCE (5000 * MS)
#define SHORT	 (100 * MS)

/* ---- the destination's side, on a thread of its own ---- */

struct dest {
	pthread_t thread;
	struct gw_chan *chan, *peer; /* peer: the source's end */
	struct gw_session session;
	bool expect_control;
	uint64_t timeout_ns;
	int result;
	struct gw_err err;
	struct gw_hello hello;
};

static void *answer(void *arg)
{
	struct dest *dest = arg;

	dest->result =
		gw_handshake_answer(dest->chan, &dest->session, dest->expect_control,
				    dest->timeout_ns, &dest->err, &dest->hello);
	/* As a listener does: a channel that was refused is closed. */
	if (dest->result)
		gw_chan_shutdown(dest->chan);
	return NULL;
}

static void dest_start(struct dest *dest, bool expect_control,
		       const struct gw_session *session)
{
	*dest = (struct dest){.expect_control = expect_control, .timeout_ns = PATIENCE};
	if (session)
		dest->session = *session;
	cr_assert_eq(gw_mem_pair(4096, &dest->peer, &dest->chan), 0);
	cr_assert_eq(pthread_create(&dest->thread, NULL, answer, dest), 0);
}

static int dest_finish(struct dest *dest)
{
	pthread_join(dest->thread, NULL);
	dest->chan = gw_chan_free(dest->chan);
	dest->peer = gw_chan_free(dest->peer);
	return dest->result;
}

static struct gw_session new_session(void)
{
	struct gw_session session;

	cr_assert_eq(gw_session_init(&session, NULL), 0);
	return session;
}

static int open_chan(struct dest *dest, struct gw_session *session,
		     enum gw_chan_kind kind, uint64_t required, struct gw_err *err)
{
	*err = (struct gw_err){0};
	return gw_handshake_open(dest->peer, session, kind, 5, required, PATIENCE, err);
}

static void expect_text(const struct gw_err *err, const char *part)
{
	cr_assert(strstr(err->text, part), "no '%s' in: %s", part, err->text);
}

/* ---- who gets in ---- */

Test(handshake, a_control_channel_hands_over_the_session)
{
	struct gw_session session = new_session();
	struct dest dest;
	struct gw_err err;

	dest_start(&dest, true, NULL);
	cr_assert_eq(open_chan(&dest, &session, GW_CHAN_CONTROL, GW_FEATURE_LZ4, &err), 0,
		     "%s", err.text);
	cr_assert_eq(dest_finish(&dest), 0, "%s", dest.err.text);
	cr_assert_eq(dest.hello.kind, GW_CHAN_CONTROL);
	cr_assert_arr_eq(dest.session.id, session.id, GW_SESSION_LEN);
	cr_assert_arr_eq(dest.session.secret, session.secret, GW_SECRET_LEN);
	cr_assert_eq(session.features, GW_FEATURES_KNOWN);
	cr_assert_eq(dest.session.features, GW_FEATURES_KNOWN);
}

Test(handshake, further_channels_prove_the_secret_and_say_which_they_are)
{
	static const enum gw_chan_kind kinds[] = {GW_CHAN_BULK, GW_CHAN_URGENT};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(kinds); i++) {
		struct gw_session session = new_session();
		struct dest dest;
		struct gw_err err;

		dest_start(&dest, false, &session);
		cr_assert_eq(open_chan(&dest, &session, kinds[i], 0, &err), 0, "%s",
			     err.text);
		cr_assert_eq(dest_finish(&dest), 0, "%s", dest.err.text);
		cr_assert_eq(dest.hello.kind, kinds[i]);
		cr_assert_eq(dest.hello.index, 5);
	}
}

Test(handshake, sessions_are_random_and_named_in_hex)
{
	struct gw_session a = new_session(), b = new_session();
	char name[33], other[33];

	gw_session_name(&a, name);
	gw_session_name(&b, other);
	cr_assert_eq(strlen(name), 32);
	cr_assert_eq(strspn(name, "0123456789abcdef"), 32);
	cr_assert_str_neq(name, other);
	cr_assert_neq(memcmp(a.secret, b.secret, GW_SECRET_LEN), 0);
}

Test(handshake, a_forgotten_session_holds_no_secret)
{
	struct gw_session session = new_session();
	static const uint8_t none[GW_SECRET_LEN];

	gw_session_forget(&session);
	cr_assert_arr_eq(session.secret, none, GW_SECRET_LEN);
}

/* ---- who does not ---- */

Test(handshake, a_wrong_secret_is_refused)
{
	struct gw_session session = new_session(), wrong = session;
	struct dest dest;
	struct gw_err err;

	wrong.secret[31] ^= 1;
	dest_start(&dest, false, &session);
	cr_assert_eq(open_chan(&dest, &wrong, GW_CHAN_BULK, 0, &err), -EACCES);
	expect_text(&err, "secret was not proven");
	cr_assert_eq(dest_finish(&dest), -EACCES);
	expect_text(&dest.err, "secret was not proven");
}

Test(handshake, another_session_s_channel_is_refused)
{
	struct gw_session session = new_session(), other = new_session();
	struct dest dest;
	struct gw_err err;

	memcpy(other.secret, session.secret, GW_SECRET_LEN);
	dest_start(&dest, false, &session);
	cr_assert_eq(open_chan(&dest, &other, GW_CHAN_BULK, 0, &err), -EACCES);
	expect_text(&err, "another session");
	cr_assert_eq(dest_finish(&dest), -EACCES);
}

Test(handshake, a_second_source_learns_that_a_migration_is_under_way)
{
	struct gw_session session = new_session(), other = new_session();
	struct dest dest;
	struct gw_err err;

	dest_start(&dest, false, &session);
	cr_assert_eq(open_chan(&dest, &other, GW_CHAN_CONTROL, 0, &err), -EACCES);
	expect_text(&err, "a migration is under way");
	cr_assert_eq(dest_finish(&dest), -EACCES);
	cr_assert_arr_eq(dest.session.id, session.id, GW_SESSION_LEN);
	cr_assert_arr_eq(dest.session.secret, session.secret, GW_SECRET_LEN);
}

Test(handshake, a_bulk_channel_before_any_session_is_refused)
{
	struct gw_session session = new_session();
	struct dest dest;
	struct gw_err err;

	dest_start(&dest, true, NULL);
	cr_assert_eq(open_chan(&dest, &session, GW_CHAN_BULK, 0, &err), -EACCES);
	expect_text(&err, "no session yet");
	cr_assert_eq(dest_finish(&dest), -EACCES);
}

Test(handshake, a_channel_of_a_kind_that_does_not_exist_is_refused)
{
	static const uint8_t kinds[] = {0, GW_CHAN_URGENT + 1, 255};

	for (unsigned int i = 0; i < GW_ARRAY_SIZE(kinds); i++) {
		struct gw_session session = new_session();
		struct dest dest;
		struct gw_err err;

		dest_start(&dest, false, &session);
		cr_assert_eq(
			open_chan(&dest, &session, (enum gw_chan_kind)kinds[i], 0, &err),
			-EACCES, "kind %u", kinds[i]);
		cr_assert_eq(dest_finish(&dest), -EACCES);
	}
}

Test(handshake, a_required_feature_that_is_unknown_here_is_refused_by_number)
{
	struct gw_session session = new_session();
	struct dest dest;
	struct gw_err err;

	dest_start(&dest, true, NULL);
	cr_assert_eq(open_chan(&dest, &session, GW_CHAN_CONTROL,
			       1ULL << 40 | GW_FEATURE_LZ4, &err),
		     -EACCES);
	expect_text(&err, "features 0x10000000000 are unknown here");
	cr_assert_eq(dest_finish(&dest), -EACCES);
}

/* ---- talking to the destination by hand ---- */

static struct gw_hello plain_hello(enum gw_chan_kind kind)
{
	return (struct gw_hello){.version = GW_WIRE_VERSION,
				 .oldest = GW_WIRE_OLDEST,
				 .kind = (uint8_t)kind,
				 .offered = UINT64_MAX};
}

static void send_hello(struct dest *dest, struct gw_hello hello)
{
	uint8_t buf[GW_HELLO_LEN];

	gw_hello_encode(&hello, buf);
	cr_assert_eq(gw_chan_send(dest->peer, buf, sizeof(buf)), 0);
}

static struct gw_welcome recv_welcome(struct dest *dest)
{
	struct gw_welcome welcome = {0};
	uint8_t buf[GW_WELCOME_LEN];

	cr_assert_eq(gw_chan_recv(dest->peer, buf, sizeof(buf)), 0);
	cr_assert_eq(gw_welcome_decode(buf, &welcome), 0);
	return welcome;
}

Test(handshake, a_source_of_another_version_is_told_both_ranges)
{
	struct gw_hello hello = plain_hello(GW_CHAN_CONTROL);
	struct gw_welcome welcome;
	struct dest dest;

	hello.version = GW_WIRE_VERSION + 9;
	hello.oldest = GW_WIRE_VERSION + 1;
	dest_start(&dest, true, NULL);
	send_hello(&dest, hello);
	welcome = recv_welcome(&dest);
	cr_assert_eq(welcome.status, GW_STATUS_VERSION);
	cr_assert_str_eq(welcome.reason,
			 "the source speaks 2 to 10, this destination 1 to 1");
	cr_assert_eq(dest_finish(&dest), -EACCES);
}

Test(handshake, a_newer_source_that_speaks_our_version_is_answered_in_it)
{
	struct gw_hello hello = plain_hello(GW_CHAN_CONTROL);
	struct gw_welcome welcome;
	struct dest dest;

	hello.version = GW_WIRE_VERSION + 9;
	dest_start(&dest, true, NULL);
	send_hello(&dest, hello);
	welcome = recv_welcome(&dest);
	cr_assert_eq(welcome.status, GW_STATUS_OK);
	cr_assert_eq(welcome.version, GW_WIRE_VERSION);
	cr_assert_eq(welcome.features, GW_FEATURES_KNOWN,
		     "offered or not, no more than known");
	gw_chan_shutdown(dest.peer);
	cr_assert_lt(dest_finish(&dest), 0);
}

Test(handshake, garbage_is_dropped_without_an_answer)
{
	struct dest dest;
	char garbage[GW_HELLO_LEN], byte;

	memset(garbage, 'x', sizeof(garbage));
	dest_start(&dest, true, NULL);
	cr_assert_eq(gw_chan_send(dest.peer, garbage, sizeof(garbage)), 0);
	cr_assert_neq(gw_chan_recv(dest.peer, &byte, 1), 0);
	cr_assert_eq(dest_finish(&dest), -EPROTO);
	expect_text(&dest.err, "not a godwit handshake");
}

Test(handshake, a_peer_that_closes_before_or_within_its_hello_is_reported)
{
	for (unsigned int len = 0; len < 2; len++) {
		struct dest dest;

		dest_start(&dest, true, NULL);
		cr_assert_eq(gw_chan_send(dest.peer, "G", len), 0);
		gw_chan_shutdown(dest.peer);
		cr_assert_eq(dest_finish(&dest), -ECONNRESET);
		expect_text(&dest.err, "closed the connection before its HELLO");
	}
}

Test(handshake, silence_ends_in_a_timeout)
{
	struct dest dest = {.expect_control = true, .timeout_ns = SHORT};
	uint64_t begun = gw_now(), took;

	cr_assert_eq(gw_mem_pair(4096, &dest.peer, &dest.chan), 0);
	answer(&dest);
	took = gw_now() - begun;
	cr_assert_eq(dest.result, -ETIMEDOUT);
	expect_text(&dest.err, "no HELLO");
	cr_assert(took >= SHORT / 2 && took < SHORT + 2000 * MS, "%llu ms",
		  (unsigned long long)(took / MS));
	gw_chan_free(dest.chan);
	gw_chan_free(dest.peer);
}

struct dripper {
	pthread_t thread;
	struct gw_chan *chan;
	unsigned int sent;
};

/* A byte every 20 ms: each attempt of the receiver succeeds. */
static void *drip(void *arg)
{
	struct dripper *dripper = arg;

	while (dripper->sent < 200 && !gw_chan_send(dripper->chan, GW_WIRE_MAGIC, 1)) {
		dripper->sent++;
		nanosleep(&(struct timespec){.tv_nsec = 20 * MS}, NULL);
	}
	return NULL;
}

Test(handshake, a_peer_that_drips_does_not_get_more_time)
{
	struct dest dest = {.expect_control = true, .timeout_ns = SHORT};
	struct dripper dripper = {0};
	uint64_t begun = gw_now(), took;

	cr_assert_eq(gw_mem_pair(4096, &dest.peer, &dest.chan), 0);
	dripper.chan = dest.peer;
	pthread_create(&dripper.thread, NULL, drip, &dripper);
	answer(&dest);
	took = gw_now() - begun;
	pthread_join(dripper.thread, NULL);
	cr_assert_eq(dest.result, -ETIMEDOUT, "%s", dest.err.text);
	cr_assert_lt(took, 10 * SHORT, "%llu ms", (unsigned long long)(took / MS));
	gw_chan_free(dest.chan);
	gw_chan_free(dest.peer);
}

Test(handshake, a_failed_control_channel_leaves_no_session_behind)
{
	struct gw_session session = new_session();
	static const struct gw_session none;
	uint8_t hello_buf[GW_HELLO_LEN];
	struct gw_hello hello = plain_hello(GW_CHAN_CONTROL);
	struct dest dest;

	/* The link dies as the destination sends ACCEPT. */
	dest = (struct dest){.expect_control = true, .timeout_ns = PATIENCE};
	cr_assert_eq(gw_mem_pair(4096, &dest.peer, &dest.chan), 0);
	gw_mem_cut_after(dest.chan, GW_WELCOME_LEN + 1);
	gw_hello_encode(&hello, hello_buf);
	cr_assert_eq(gw_chan_send(dest.peer, hello_buf, sizeof(hello_buf)), 0);
	cr_assert_eq(gw_chan_send(dest.peer, session.secret, GW_SECRET_LEN), 0);
	answer(&dest);
	cr_assert_lt(dest.result, 0);
	cr_assert_eq(memcmp(&dest.session, &none, sizeof(none)), 0);
	gw_chan_free(dest.chan);
	gw_chan_free(dest.peer);
}

Test(handshake, a_proof_cannot_be_replayed)
{
	struct gw_session session = new_session();
	struct gw_hello hello = plain_hello(GW_CHAN_BULK);
	uint8_t nonces[2][GW_NONCE_LEN];

	memcpy(hello.session, session.id, GW_SESSION_LEN);
	for (unsigned int i = 0; i < 2; i++) {
		struct dest dest;

		dest_start(&dest, false, &session);
		send_hello(&dest, hello);
		memcpy(nonces[i], recv_welcome(&dest).nonce, GW_NONCE_LEN);
		gw_chan_shutdown(dest.peer);
		cr_assert_lt(dest_finish(&dest), 0);
	}
	cr_assert_neq(memcmp(nonces[0], nonces[1], GW_NONCE_LEN), 0);
}

/* ---- talking to the source by hand ---- */

struct source {
	pthread_t thread;
	struct gw_chan *chan, *peer;
	struct gw_session session;
	enum gw_chan_kind kind;
	uint64_t required;
	uint8_t hello[GW_HELLO_LEN];
	int result;
	struct gw_err err;
};

static void *open_main(void *arg)
{
	struct source *source = arg;

	source->result = gw_handshake_open(source->chan, &source->session, source->kind,
					   0, source->required, PATIENCE, &source->err);
	return NULL;
}

static void source_start(struct source *source, enum gw_chan_kind kind)
{
	*source = (struct source){.kind = kind, .required = GW_FEATURE_POSTCOPY};
	source->session = new_session();
	cr_assert_eq(gw_mem_pair(4096, &source->chan, &source->peer), 0);
	cr_assert_eq(pthread_create(&source->thread, NULL, open_main, source), 0);
	cr_assert_eq(gw_chan_recv(source->peer, source->hello, GW_HELLO_LEN), 0);
}

static void send_welcome(struct source *source, struct gw_welcome welcome)
{
	uint8_t buf[GW_WELCOME_LEN];

	gw_welcome_encode(&welcome, buf);
	cr_assert_eq(gw_chan_send(source->peer, buf, sizeof(buf)), 0);
}

static int source_finish(struct source *source)
{
	pthread_join(source->thread, NULL);
	gw_chan_free(source->chan);
	gw_chan_free(source->peer);
	return source->result;
}

Test(handshake, the_source_says_what_answers_there_is_no_godwit)
{
	struct source source;
	char banner[GW_WELCOME_LEN] = "SSH-2.0-OpenSSH_9.2p1\r\n";

	source_start(&source, GW_CHAN_CONTROL);
	cr_assert_eq(gw_chan_send(source.peer, banner, sizeof(banner)), 0);
	cr_assert_eq(source_finish(&source), -EPROTO);
	expect_text(&source.err, "not a godwit destination");
}

Test(handshake, the_source_says_which_version_the_destination_lacks)
{
	struct source source;

	source_start(&source, GW_CHAN_CONTROL);
	send_welcome(&source, (struct gw_welcome){.version = 7,
						  .status = GW_STATUS_VERSION,
						  .reason = "I speak 7"});
	cr_assert_eq(source_finish(&source), -EPROTONOSUPPORT);
	expect_text(&source.err, "ours 1 to 1");
	expect_text(&source.err, "I speak 7");
}

Test(handshake, the_source_refuses_a_destination_without_a_required_feature)
{
	struct source source;

	source_start(&source, GW_CHAN_CONTROL);
	send_welcome(&source, (struct gw_welcome){.version = GW_WIRE_VERSION,
						  .features = GW_FEATURE_LZ4});
	cr_assert_eq(source_finish(&source), -EPROTONOSUPPORT);
	expect_text(&source.err, "lacks features 0x2");
}

static const struct gw_welcome plain_welcome = {.version = GW_WIRE_VERSION,
						.features = GW_FEATURES_KNOWN};

/* Plays the rest of the destination. */
static void send_accept(struct source *source, struct gw_welcome welcome,
			struct gw_accept accept)
{
	uint8_t buf[GW_ACCEPT_LEN], proof[GW_PROOF_LEN];

	send_welcome(source, welcome);
	cr_assert_eq(gw_chan_recv(source->peer, proof, sizeof(proof)), 0);
	if (source->kind == GW_CHAN_BULK)
		cr_assert_neq(memcmp(proof, source->session.secret, GW_SECRET_LEN), 0,
			      "the secret itself crosses on the control channel alone");
	gw_accept_encode(&accept, buf);
	cr_assert_eq(gw_chan_send(source->peer, buf, sizeof(buf)), 0);
}

Test(handshake, the_source_refuses_a_destination_that_does_not_know_the_secret)
{
	struct source source;

	source_start(&source, GW_CHAN_BULK);
	send_accept(&source, plain_welcome, (struct gw_accept){.status = GW_STATUS_OK});
	cr_assert_eq(source_finish(&source), -EACCES);
	expect_text(&source.err, "does not know the session's secret");
}

Test(handshake, the_source_shows_the_reason_of_a_refusal)
{
	struct source source;

	source_start(&source, GW_CHAN_BULK);
	send_accept(&source, plain_welcome,
		    (struct gw_accept){.status = GW_STATUS_CHANNEL,
				       .reason = "not today\x1b"});
	cr_assert_eq(source_finish(&source), -EACCES);
	expect_text(&source.err, "channel not expected: not today?");
}

/* What a destination that knows the secret answers to @welcome. */
static struct gw_accept true_accept(const struct source *source,
				    const struct gw_welcome *welcome)
{
	uint8_t text[16 + GW_HELLO_LEN + GW_WELCOME_LEN] = "destination";
	struct gw_accept accept = {.status = GW_STATUS_OK};

	memcpy(text + 16, source->hello, GW_HELLO_LEN);
	gw_welcome_encode(welcome, text + 16 + GW_HELLO_LEN);
	cr_assert_eq(gnutls_hmac_fast(GNUTLS_MAC_SHA256, source->session.secret,
				      GW_SECRET_LEN, text, sizeof(text), accept.mac),
		     0);
	return accept;
}

Test(handshake, the_proofs_are_those_of_the_documented_format)
{
	const struct gw_welcome welcome = {.version = GW_WIRE_VERSION,
					   .features = GW_FEATURES_KNOWN};
	struct source source;

	source_start(&source, GW_CHAN_BULK);
	send_accept(&source, welcome, true_accept(&source, &welcome));
	cr_assert_eq(source_finish(&source), 0, "%s", source.err.text);
}

Test(handshake, features_that_were_not_offered_are_not_agreed_on)
{
	const struct gw_welcome welcome = {.version = GW_WIRE_VERSION,
					   .features = UINT64_MAX};
	struct source source;

	source_start(&source, GW_CHAN_CONTROL);
	send_accept(&source, welcome, true_accept(&source, &welcome));
	cr_assert_eq(source_finish(&source), 0, "%s", source.err.text);
	cr_assert_eq(source.session.features, GW_FEATURES_KNOWN);
}
