/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The speed of the network link that a channel leaves by.
 *
 * Only links with a device behind them count: virtual ones (veth, tun,
 * bridges) report made-up figures, and a guess is worse than "unknown".
 */
#include "transport/net.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "transport/address.h"

#define CLASS_DIR "/sys/class/net"

uint64_t gw_link_speed_at(const char *class_dir, const char *name)
{
	char path[256];
	long speed = 0;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s/device", class_dir, name);
	if (access(path, F_OK))
		return 0;
	snprintf(path, sizeof(path), "%s/%s/speed", class_dir, name);
	file = fopen(path, "re");
	if (!file)
		return 0;
	/* -1: the driver does not know; no number at all: EINVAL while it is down. */
	if (fscanf(file, "%ld", &speed) != 1 || speed < 0)
		speed = 0;
	fclose(file);
	return (uint64_t)speed;
}

static bool same_host(const struct gw_endpoint *here, const struct sockaddr *other)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)other;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)other;

	if (!other || other->sa_family != here->u.any.sa_family)
		return false;
	if (other->sa_family == AF_INET)
		return v4->sin_addr.s_addr == here->u.v4.sin_addr.s_addr;
	if (other->sa_family != AF_INET6 ||
	    memcmp(&v6->sin6_addr, &here->u.v6.sin6_addr, sizeof(v6->sin6_addr)))
		return false;
	/* Link-local addresses are unique within their link only. */
	return !here->u.v6.sin6_scope_id || v6->sin6_scope_id == here->u.v6.sin6_scope_id;
}

/* The interface that has the address @here. */
static bool find_link(const struct gw_endpoint *here, char name[IF_NAMESIZE])
{
	struct ifaddrs *all, *each;

	if (getifaddrs(&all))
		return false;
	for (each = all; each; each = each->ifa_next) {
		if (same_host(here, each->ifa_addr)) {
			snprintf(name, IF_NAMESIZE, "%s", each->ifa_name);
			break;
		}
	}
	freeifaddrs(all);
	return each != NULL;
}

uint64_t gw_chan_link_speed(const struct gw_chan *chan)
{
	struct gw_endpoint here = {.len = sizeof(here.u)};
	char name[IF_NAMESIZE];

	/* A channel that is no socket fails here, a Unix socket finds no link. */
	if (getsockname(chan->poll_fd, &here.u.any, &here.len))
		return 0;
	gw_endpoint_unmap(&here);
	return find_link(&here, name) ? gw_link_speed_at(CLASS_DIR, name) : 0;
}
