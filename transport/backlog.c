/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the kernel knows of a channel whose bytes do not get away. */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "transport/chan.h"

bool gw_chan_backlog(const struct gw_chan *chan, struct gw_chan_backlog *ret)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(chan->poll_fd, IPPROTO_TCP, TCP_INFO, &info, &len) ||
	    len < offsetof(struct tcp_info, tcpi_rwnd_limited) +
			    sizeof(info.tcpi_rwnd_limited))
		return false;
	*ret = (struct gw_chan_backlog){
		.unsent = info.tcpi_notsent_bytes,
		.peer_ns = info.tcpi_rwnd_limited * 1000,
	};
	return true;
}
