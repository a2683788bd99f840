/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The side that memory comes to: asked for one thing after the other in lines
 * of JSON, {"do": …}. Each answer has "ok": true, or false and an "error".
 *
 *     hello   "format"              first; else the connection is dropped
 *     memory  "size"                makes it, or keeps what it has
 *     drop                          gives it back to the kernel: cold
 *     raw     "transport", "streams"  answers where to connect to and a "token"
 *                                   that each stream starts with; {"ready"};
 *                                   at the end "cpu" seconds
 *     echo    "spin"                as raw with one stream: 4096 bytes for each 16
 *     stream  "transport"           a destination: where; at the end "cpu"
 *     fault   "touches", "seed"     as stream, with a guest that touches missing
 *                                   pages; {"touched"} when it has had its fill;
 *                                   at the end "cpu" and the histograms "guest"
 *                                   (what the touches took) and "engine" (its own)
 *     bye                           the end
 *
 * "where" is "port", on the host that was connected to, or for a client in the
 * same process "address".
 */
#pragma once

#include "bench/bench.h"
#include "bench/net.h"

#define BENCH_FORMAT "godwit-bench/1"

/* What each plain connection starts with: the token in hex, its index in 4 bytes. */
#define BENCH_TOKEN_LEN 32U
struct bench_preamble {
	char token[BENCH_TOKEN_LEN];
	uint8_t index[4]; /* big-endian */
};

#define BENCH_ECHO_REQUEST 16U
#define BENCH_ECHO_ANSWER  4096U

/* Below what a firewall or a slow host needs, above what a user waits for. */
#define BENCH_PATIENCE (30 * 1000000000ULL)

/*
 * Serves the client at the other end of @fd (taken), which runs in this
 * process: it may ask for Unix sockets.
 */
int bench_serve_local(const struct bench_config *config, int fd, godwit_error *err);

/* "unix:PATH" of the socket in the folder. */
void bench_scratch_socket(const struct bench_config *config, char *buf, size_t size);
/* Removes what a listener that was closed left there. */
void bench_scratch_clear(const struct bench_config *config);
