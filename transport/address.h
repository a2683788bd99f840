/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Addresses as people write them, and the socket addresses they stand for. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/err.h"

/* The longest name the DNS allows. */
#define GW_ADDRESS_HOST_MAX 253
/* A path that is not terminated confuses other programs: one byte is for that. */
#define GW_ADDRESS_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)
/* A name with more addresses than that is cut short. */
#define GW_ADDRESS_ENDPOINTS_MAX 16

struct gw_address {
	char host[GW_ADDRESS_HOST_MAX + 1]; /* "": a Unix socket */
	uint16_t port;
	char path[GW_ADDRESS_PATH_MAX + 1];
};

/* One socket address. */
struct gw_endpoint {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr_un local;
		struct sockaddr_storage room;
	} u;
	socklen_t len;
};

struct gw_endpoints {
	unsigned int n;
	struct gw_endpoint list[GW_ADDRESS_ENDPOINTS_MAX];
};

/* "HOST:PORT", "[V6]:PORT" or "unix:PATH"; anything else is -EINVAL with a reason. */
int gw_address_parse(const char *text, struct gw_err *err, struct gw_address *ret);
/* Resolves names; may wait for the name service. At least one endpoint, or an error. */
int gw_address_resolve(const struct gw_address *address, bool passive, struct gw_err *err,
		       struct gw_endpoints *ret);
/* In the form gw_address_parse() takes; an IPv4 address mapped into IPv6 as IPv4. */
void gw_endpoint_format(const struct gw_endpoint *endpoint, char *buf, size_t size);
/* Turns an IPv4 address mapped into IPv6 into plain IPv4. */
void gw_endpoint_unmap(struct gw_endpoint *endpoint);
