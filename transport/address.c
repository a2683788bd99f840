/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Addresses as people write them, and the socket addresses they stand for. */
#include "transport/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#include "base/parse.h"
#include "base/util.h"

#define UNIX_PREFIX "unix:"

/* Every refusal shows what came, what is wrong with it and what would do. */
static int refuse(struct gw_err *err, const char *text, const char *why)
{
	return gw_err_set(err, -EINVAL,
			  "address \"%.160s\": %s; expected HOST:PORT, [IPV6]:PORT or "
			  "unix:PATH, for example 192.0.2.2:49152",
			  text, why);
}

static int parse_unix(const char *text, struct gw_err *err, struct gw_address *ret)
{
	const char *path = text + strlen(UNIX_PREFIX);
	char why[80];

	if (!*path)
		return refuse(err, text, "the path is empty");
	if (strlen(path) > GW_ADDRESS_PATH_MAX) {
		snprintf(why, sizeof(why), "the path is longer than a socket's %zu bytes",
			 GW_ADDRESS_PATH_MAX);
		return refuse(err, text, why);
	}
	strcpy(ret->path, path);
	return 0;
}

/* What inet_pton() takes, and optionally a scope: "fe80::1%eth0". */
static bool is_v6(const char *host)
{
	size_t len = strcspn(host, "%");
	char bare[INET6_ADDRSTRLEN];
	struct in6_addr in6;

	if (len >= sizeof(bare) || (host[len] && !host[len + 1]))
		return false;
	memcpy(bare, host, len);
	bare[len] = '\0';
	return inet_pton(AF_INET6, bare, &in6) == 1;
}

static bool is_host(const char *host)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
				      "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

	return *host && host[0] != '-' && !host[strspn(host, allowed)];
}

/* Splits at the last colon: 0, or why not. */
static const char *split_port(const char *text, char *host, size_t size, uint16_t *ret)
{
	const char *colon = strrchr(text, ':');
	uint64_t port;

	if (!colon)
		return "no port is given";
	if ((size_t)(colon - text) >= size)
		return "the host name is too long";
	if (gw_parse_number(colon + 1, 0, 65535, &port))
		return "the port is not a number from 0 to 65535";
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = '\0';
	*ret = (uint16_t)port;
	return NULL;
}

static int parse_host_port(const char *text, struct gw_err *err, struct gw_address *ret)
{
	char host[GW_ADDRESS_HOST_MAX + 3];
	const char *why = split_port(text, host, sizeof(host), &ret->port);
	size_t len;

	/* Before the port: an address without brackets makes a strange "port". */
	if (text[0] != '[' && strchr(text, ':') != strrchr(text, ':'))
		return refuse(err, text, "an IPv6 address needs brackets around it");
	if (why)
		return refuse(err, text, why);
	len = strlen(host);
	if (host[0] == '[') {
		if (host[len - 1] != ']')
			return refuse(err, text, "the closing bracket is missing");
		host[len - 1] = '\0';
		memmove(host, host + 1, len - 1);
		if (!is_v6(host))
			return refuse(err, text, "no IPv6 address is in the brackets");
	} else if (!is_host(host)) {
		return refuse(err, text, "the host is not a name or an IPv4 address");
	}
	if (strlen(host) > GW_ADDRESS_HOST_MAX)
		return refuse(err, text, "the host name is too long");
	strcpy(ret->host, host);
	return 0;
}

int gw_address_parse(const char *text, struct gw_err *err, struct gw_address *ret)
{
	struct gw_address address = {0};
	int r;

	if (!strncmp(text, UNIX_PREFIX, strlen(UNIX_PREFIX)))
		r = parse_unix(text, err, &address);
	else
		r = parse_host_port(text, err, &address);
	if (r)
		return r;
	*ret = address;
	return 0;
}

static int resolve_error(int gai, const char *host, struct gw_err *err)
{
	int code = -EHOSTUNREACH;

	if (gai == EAI_SYSTEM)
		return gw_err_errno(err, -errno, "cannot resolve host \"%s\"", host);
	if (gai == EAI_MEMORY)
		code = -ENOMEM;
	else if (gai == EAI_AGAIN)
		code = -EAGAIN;
	return gw_err_set(
		err, code,
		"cannot resolve host \"%s\": %s: check the spelling and the name "
		"service, or give the address in numbers",
		host, gai_strerror(gai));
}

static void resolve_unix(const struct gw_address *address, struct gw_endpoints *ret)
{
	struct gw_endpoint *endpoint = &ret->list[0];

	*endpoint = (struct gw_endpoint){.len = sizeof(endpoint->u.local)};
	endpoint->u.local.sun_family = AF_UNIX;
	strcpy(endpoint->u.local.sun_path, address->path);
	ret->n = 1;
}

int gw_address_resolve(const struct gw_address *address, bool passive, struct gw_err *err,
		       struct gw_endpoints *ret)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0)};
	struct addrinfo *found, *ai;
	char port[8];
	int gai;

	if (!address->host[0]) {
		resolve_unix(address, ret);
		return 0;
	}
	snprintf(port, sizeof(port), "%u", (unsigned int)address->port);
	gai = getaddrinfo(address->host, port, &hints, &found);
	if (gai)
		return resolve_error(gai, address->host, err);
	ret->n = 0;
	for (ai = found; ai && ret->n < GW_ADDRESS_ENDPOINTS_MAX; ai = ai->ai_next) {
		struct gw_endpoint *endpoint = &ret->list[ret->n];

		if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
			continue;
		*endpoint = (struct gw_endpoint){.len = ai->ai_addrlen};
		memcpy(&endpoint->u, ai->ai_addr, ai->ai_addrlen);
		ret->n++;
	}
	freeaddrinfo(found);
	return ret->n ? 0 : resolve_error(EAI_NONAME, address->host, err);
}

void gw_endpoint_unmap(struct gw_endpoint *endpoint)
{
	struct sockaddr_in6 v6 = endpoint->u.v6;

	if (v6.sin6_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr))
		return;
	*endpoint = (struct gw_endpoint){.len = sizeof(endpoint->u.v4)};
	endpoint->u.v4.sin_family = AF_INET;
	endpoint->u.v4.sin_port = v6.sin6_port;
	memcpy(&endpoint->u.v4.sin_addr, &v6.sin6_addr.s6_addr[12], 4);
}

void gw_endpoint_format(const struct gw_endpoint *endpoint, char *buf, size_t size)
{
	struct gw_endpoint plain = *endpoint;
	char host[INET6_ADDRSTRLEN + 20], port[8];

	if (endpoint->u.any.sa_family == AF_UNIX) {
		snprintf(buf, size, UNIX_PREFIX "%s", endpoint->u.local.sun_path);
		return;
	}
	gw_endpoint_unmap(&plain);
	if (getnameinfo(&plain.u.any, plain.len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(buf, size, "unknown address");
	else if (plain.u.any.sa_family == AF_INET6)
		snprintf(buf, size, "[%s]:%s", host, port);
	else
		snprintf(buf, size, "%s:%s", host, port);
}
