/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A cursor over a buffer with the bytes that are left: how everything on the
 * wire is written and read. Little-endian throughout. Running past the end
 * sets `bad` and reads zeroes; whoever decodes checks it once, at the end.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct gw_writer {
	uint8_t *at;
	size_t left;
	bool bad;
};

struct gw_reader {
	const uint8_t *at;
	size_t left;
	bool bad;
};

static inline struct gw_writer gw_writer_of(void *buf, size_t len)
{
	return (struct gw_writer){.at = buf, .left = len};
}

static inline struct gw_reader gw_reader_of(const void *buf, size_t len)
{
	return (struct gw_reader){.at = buf, .left = len};
}

static inline void gw_put_bytes(struct gw_writer *w, const void *src, size_t len)
{
	if (w->bad || len > w->left) {
		w->bad = true;
		return;
	}
	memcpy(w->at, src, len);
	w->at += len;
	w->left -= len;
}

static inline void gw_get_bytes(struct gw_reader *r, void *dst, size_t len)
{
	if (r->bad || len > r->left) {
		r->bad = true;
		memset(dst, 0, len);
		return;
	}
	memcpy(dst, r->at, len);
	r->at += len;
	r->left -= len;
}

static inline void gw_skip(struct gw_reader *r, size_t len)
{
	if (r->bad || len > r->left) {
		r->bad = true;
		return;
	}
	r->at += len;
	r->left -= len;
}

static inline void gw_put_uint(struct gw_writer *w, uint64_t value, unsigned int bytes)
{
	uint8_t buf[8];

	for (unsigned int i = 0; i < bytes; i++)
		buf[i] = (uint8_t)(value >> (8 * i));
	gw_put_bytes(w, buf, bytes);
}

static inline uint64_t gw_get_uint(struct gw_reader *r, unsigned int bytes)
{
	uint8_t buf[8];
	uint64_t value = 0;

	gw_get_bytes(r, buf, bytes);
	for (unsigned int i = 0; i < bytes; i++)
		value |= (uint64_t)buf[i] << (8 * i);
	return value;
}

#define gw_put_u8(w, v)	 gw_put_uint(w, v, 1)
#define gw_put_u16(w, v) gw_put_uint(w, v, 2)
#define gw_put_u32(w, v) gw_put_uint(w, v, 4)
#define gw_put_u64(w, v) gw_put_uint(w, v, 8)
#define gw_get_u8(r)	 ((uint8_t)gw_get_uint(r, 1))
#define gw_get_u16(r)	 ((uint16_t)gw_get_uint(r, 2))
#define gw_get_u32(r)	 ((uint32_t)gw_get_uint(r, 4))
#define gw_get_u64(r)	 gw_get_uint(r, 8)

/* Seven bits a byte, low first, the top bit says "more": at most 10 bytes. */
static inline void gw_put_varint(struct gw_writer *w, uint64_t value)
{
	while (value >= 0x80) {
		gw_put_u8(w, (value & 0x7f) | 0x80);
		value >>= 7;
	}
	gw_put_u8(w, value);
}

static inline uint64_t gw_get_varint(struct gw_reader *r)
{
	uint64_t value = 0;

	for (unsigned int shift = 0; shift < 64; shift += 7) {
		uint8_t byte = gw_get_u8(r);

		/* The tenth byte has room for one bit: more would be lost. */
		if (r->bad || (shift == 63 && byte > 1))
			break;
		value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return value;
	}
	r->bad = true;
	return 0;
}

/* Makes of every byte of @text a '?' that is not UTF-8 or that a terminal would obey. */
void gw_text_defuse(char *text);

/* Text of a fixed field: always ends, never holds what a terminal would obey. */
static inline void gw_get_text(struct gw_reader *r, char *dst, size_t len)
{
	gw_get_bytes(r, dst, len);
	dst[len - 1] = '\0';
	gw_text_defuse(dst);
}

static inline void gw_put_text(struct gw_writer *w, const char *text, size_t len)
{
	char buf[512] = {0};

	memcpy(buf, text, strnlen(text, (len < sizeof(buf) ? len : sizeof(buf)) - 1));
	gw_put_bytes(w, buf, len);
}
