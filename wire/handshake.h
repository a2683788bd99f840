/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The first bytes of every channel. Four messages of fixed size:
 *
 *     source                       destination
 *       HELLO    ------------------>
 *                <------------------ WELCOME   or a refusal, then the end
 *       PROOF    ------------------>
 *                <------------------ ACCEPT    or a refusal, then the end
 *
 * The control channel's PROOF carries the session's secret; every further
 * channel's carries HMAC-SHA256(secret, "source" | HELLO | WELCOME), and ACCEPT
 * answers HMAC-SHA256(secret, "destination" | HELLO | WELCOME). Both nonces are
 * in there, so neither can be replayed.
 */
#pragma once

#include <stdint.h>

#define GW_WIRE_MAGIC	"GODWIT\r\n" /* 8 bytes; a text-mode transfer spoils it */
#define GW_WIRE_VERSION 1
#define GW_WIRE_OLDEST	1 /* the oldest version this one can talk to */

#define GW_NONCE_LEN   32
#define GW_SECRET_LEN  32
#define GW_SESSION_LEN 16
#define GW_REASON_LEN  160

#define GW_HELLO_LEN   80
#define GW_WELCOME_LEN 216
#define GW_PROOF_LEN   32
#define GW_ACCEPT_LEN  200

enum gw_chan_kind {
	GW_CHAN_CONTROL = 1, /* the session's messages; opened first */
	GW_CHAN_BULK = 2,    /* pages, source to destination */
	GW_CHAN_URGENT = 3,  /* page requests and their answers */
};

/* A required bit that the other side does not know is refused. */
enum gw_feature {
	GW_FEATURE_LZ4 = 1 << 0,
	GW_FEATURE_POSTCOPY = 1 << 1,
};
#define GW_FEATURES_KNOWN ((uint64_t)(GW_FEATURE_LZ4 | GW_FEATURE_POSTCOPY))

enum gw_status {
	GW_STATUS_OK = 0,
	GW_STATUS_VERSION = 1, /* no common version */
	GW_STATUS_FEATURE = 2, /* a required feature is unknown or unavailable */
	GW_STATUS_SESSION = 3, /* another session is served, or none is known */
	GW_STATUS_PROOF = 4,   /* the secret was not proven */
	GW_STATUS_CHANNEL = 5, /* kind or index not expected now */
	GW_N_STATUSES,
};

const char *gw_status_name(enum gw_status status);

struct gw_hello {
	uint16_t version, oldest;
	uint8_t kind; /* enum gw_chan_kind */
	uint16_t index;
	uint64_t required, offered; /* features */
	uint8_t session[GW_SESSION_LEN];
	uint8_t nonce[GW_NONCE_LEN];
};

struct gw_welcome {
	uint16_t version; /* the one to speak */
	uint16_t status;  /* enum gw_status; not OK: the end */
	uint64_t features;
	uint8_t nonce[GW_NONCE_LEN];
	char reason[GW_REASON_LEN];
};

struct gw_accept {
	uint16_t status;
	uint8_t mac[GW_PROOF_LEN];
	char reason[GW_REASON_LEN];
};

/*
 * Decoders return 0, -EPROTO (not this message) or, hello and welcome alone,
 * -EPROTONOSUPPORT (ours, of a version we cannot talk to).
 */
void gw_hello_encode(const struct gw_hello *hello, uint8_t buf[GW_HELLO_LEN]);
int gw_hello_decode(const uint8_t buf[GW_HELLO_LEN], struct gw_hello *ret);
void gw_welcome_encode(const struct gw_welcome *welcome, uint8_t buf[GW_WELCOME_LEN]);
int gw_welcome_decode(const uint8_t buf[GW_WELCOME_LEN], struct gw_welcome *ret);
void gw_accept_encode(const struct gw_accept *accept, uint8_t buf[GW_ACCEPT_LEN]);
int gw_accept_decode(const uint8_t buf[GW_ACCEPT_LEN], struct gw_accept *ret);
