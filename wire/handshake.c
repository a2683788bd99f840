/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first bytes of every channel: encode and decode, no I/O. */
#include "wire/handshake.h"

#include <assert.h>
#include <errno.h>

#include "wire/cursor.h"

static const char *const status_names[] = {
	[GW_STATUS_OK] = "ok",
	[GW_STATUS_VERSION] = "no common protocol version",
	[GW_STATUS_FEATURE] = "a required feature is missing",
	[GW_STATUS_SESSION] = "another session",
	[GW_STATUS_PROOF] = "the session's secret was not proven",
	[GW_STATUS_CHANNEL] = "channel not expected",
};
static_assert(sizeof(status_names) / sizeof(status_names[0]) == GW_N_STATUSES,
	      "a name for every status");

const char *gw_status_name(enum gw_status status)
{
	return status < GW_N_STATUSES ? status_names[status] : "unknown status";
}

static int get_magic(struct gw_reader *r)
{
	char magic[8];

	gw_get_bytes(r, magic, sizeof(magic));
	return memcmp(magic, GW_WIRE_MAGIC, sizeof(magic)) ? -EPROTO : 0;
}

void gw_hello_encode(const struct gw_hello *hello, uint8_t buf[GW_HELLO_LEN])
{
	struct gw_writer w = gw_writer_of(buf, GW_HELLO_LEN);

	gw_put_bytes(&w, GW_WIRE_MAGIC, 8);
	gw_put_u16(&w, hello->version);
	gw_put_u16(&w, hello->oldest);
	gw_put_u8(&w, hello->kind);
	gw_put_u8(&w, 0);
	gw_put_u16(&w, hello->index);
	gw_put_u64(&w, hello->required);
	gw_put_u64(&w, hello->offered);
	gw_put_bytes(&w, hello->session, sizeof(hello->session));
	gw_put_bytes(&w, hello->nonce, sizeof(hello->nonce));
	assert(!w.bad && !w.left);
}

int gw_hello_decode(const uint8_t buf[GW_HELLO_LEN], struct gw_hello *ret)
{
	struct gw_reader r = gw_reader_of(buf, GW_HELLO_LEN);
	struct gw_hello hello = {0};

	if (get_magic(&r))
		return -EPROTO;
	hello.version = gw_get_u16(&r);
	hello.oldest = gw_get_u16(&r);
	hello.kind = gw_get_u8(&r);
	gw_skip(&r, 1);
	hello.index = gw_get_u16(&r);
	hello.required = gw_get_u64(&r);
	hello.offered = gw_get_u64(&r);
	gw_get_bytes(&r, hello.session, sizeof(hello.session));
	gw_get_bytes(&r, hello.nonce, sizeof(hello.nonce));
	if (r.bad || r.left || hello.oldest > hello.version)
		return -EPROTO;
	*ret = hello;
	if (hello.oldest > GW_WIRE_VERSION || hello.version < GW_WIRE_OLDEST)
		return -EPROTONOSUPPORT;
	return 0;
}

void gw_welcome_encode(const struct gw_welcome *welcome, uint8_t buf[GW_WELCOME_LEN])
{
	struct gw_writer w = gw_writer_of(buf, GW_WELCOME_LEN);

	gw_put_bytes(&w, GW_WIRE_MAGIC, 8);
	gw_put_u16(&w, welcome->version);
	gw_put_u16(&w, welcome->status);
	gw_put_u32(&w, 0);
	gw_put_u64(&w, welcome->features);
	gw_put_bytes(&w, welcome->nonce, sizeof(welcome->nonce));
	gw_put_text(&w, welcome->reason, GW_REASON_LEN);
	assert(!w.bad && !w.left);
}

int gw_welcome_decode(const uint8_t buf[GW_WELCOME_LEN], struct gw_welcome *ret)
{
	struct gw_reader r = gw_reader_of(buf, GW_WELCOME_LEN);
	struct gw_welcome welcome = {0};

	if (get_magic(&r))
		return -EPROTO;
	welcome.version = gw_get_u16(&r);
	welcome.status = gw_get_u16(&r);
	gw_skip(&r, 4);
	welcome.features = gw_get_u64(&r);
	gw_get_bytes(&r, welcome.nonce, sizeof(welcome.nonce));
	gw_get_text(&r, welcome.reason, GW_REASON_LEN);
	if (r.bad || r.left)
		return -EPROTO;
	*ret = welcome;
	if (welcome.status == GW_STATUS_OK &&
	    (welcome.version < GW_WIRE_OLDEST || welcome.version > GW_WIRE_VERSION))
		return -EPROTONOSUPPORT;
	return 0;
}

void gw_accept_encode(const struct gw_accept *accept, uint8_t buf[GW_ACCEPT_LEN])
{
	struct gw_writer w = gw_writer_of(buf, GW_ACCEPT_LEN);

	gw_put_u16(&w, accept->status);
	gw_put_u16(&w, 0);
	gw_put_u32(&w, 0);
	gw_put_bytes(&w, accept->mac, sizeof(accept->mac));
	gw_put_text(&w, accept->reason, GW_REASON_LEN);
	assert(!w.bad && !w.left);
}

int gw_accept_decode(const uint8_t buf[GW_ACCEPT_LEN], struct gw_accept *ret)
{
	struct gw_reader r = gw_reader_of(buf, GW_ACCEPT_LEN);
	struct gw_accept accept = {0};

	accept.status = gw_get_u16(&r);
	if (gw_get_u16(&r) || gw_get_u32(&r))
		return -EPROTO;
	gw_get_bytes(&r, accept.mac, sizeof(accept.mac));
	gw_get_text(&r, accept.reason, GW_REASON_LEN);
	if (r.bad || r.left)
		return -EPROTO;
	*ret = accept;
	return 0;
}
