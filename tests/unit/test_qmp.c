/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The QMP client against a scripted peer: what a real QEMU will not do on demand. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/event.h"
#include "base/util.h"
#include "vmm/qmp.h"

#define GREETING                                                                          \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}," \
	" \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"
#define OK(id)	 "{\"return\": {}, \"id\": " #id "}\r\n"
#define SHORT_NS (200 * 1000 * 1000ULL)
#define LONG_NS	 (20 * GW_NSEC)

/* A peer that answers each command line with the next piece of its script. */
struct peer {
	int fd;
	const char *const *script; /* NULL-ended; "" says nothing */
	size_t step_bytes;	   /* sends in pieces of so many; 0: at once */
	int got_fd;		   /* the last one that came along */
	char last[512];		   /* the last line that came */
	pthread_t thread;
};

static void peer_say(struct peer *peer, const char *text)
{
	size_t left = strlen(text);

	while (left) {
		size_t n = peer->step_bytes ? GW_MIN(peer->step_bytes, left) : left;

		if (send(peer->fd, text, n, MSG_NOSIGNAL) != (ssize_t)n)
			return;
		text += n;
		left -= n;
		if (peer->step_bytes)
			usleep(200);
	}
}

static bool peer_hear(struct peer *peer)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {peer->last, sizeof(peer->last) - 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(peer->fd, &msg, 0);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;

	if (n <= 0)
		return false;
	peer->last[n] = '\0';
	if (c)
		memcpy(&peer->got_fd, CMSG_DATA(c), sizeof(int));
	return true;
}

static void *peer_main(void *opaque)
{
	struct peer *peer = opaque;

	peer_say(peer, peer->script[0]);
	for (size_t i = 1; peer->script[i] && peer_hear(peer); i++)
		peer_say(peer, peer->script[i]);
	shutdown(peer->fd, SHUT_RDWR);
	return NULL;
}

static int peer_start(struct peer *peer, const char *const *script)
{
	int pair[2];

	cr_assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	peer->fd = pair[0];
	peer->script = script;
	peer->got_fd = -1;
	cr_assert(!pthread_create(&peer->thread, NULL, peer_main, peer));
	return pair[1];
}

static void peer_stop(struct peer *peer)
{
	shutdown(peer->fd, SHUT_RDWR);
	pthread_join(peer->thread, NULL);
	close(peer->fd);
}

static int adopt(struct peer *peer, const char *const *script, uint64_t timeout,
		 struct gw_err *err, struct gw_qmp **ret)
{
	return gw_qmp_adopt(peer_start(peer, script), timeout, err, ret);
}

static struct gw_qmp *connected(struct peer *peer, const char *const *script)
{
	struct gw_err err = {0};
	struct gw_qmp *qmp = NULL;

	cr_assert_eq(adopt(peer, script, LONG_NS, &err, &qmp), 0, "%s", err.text);
	return qmp;
}

#define has(err, words) cr_assert(strstr((err).text, words), "'%s'", (err).text)

Test(qmp, negotiates_and_learns_the_version)
{
	const char *script[] = {GREETING, OK(1), NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);

	cr_assert_eq(gw_qmp_version(qmp), 7002);
	cr_assert(strstr(peer.last, "\"qmp_capabilities\""));
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, lines_may_come_in_pieces_and_together)
{
	const char *script[] = {
		GREETING, OK(1),
		"{\"event\": \"STOP\"}\r\n{\"return\": {\"a\": 5}, \"id\": 2}\r\n"
		"{\"event\": \"RESUME\"}\r\n",
		OK(3), NULL};
	struct peer peer = {.step_bytes = 3};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_qmp_event event;
	struct gw_err err = {0};
	json_t *answer = NULL;

	cr_assert_eq(gw_qmp_execute(qmp, "x", NULL, -1, &err, &answer), 0, "%s",
		     err.text);
	cr_assert_eq(json_integer_value(json_object_get(answer, "a")), 5);
	json_decref(answer);
	cr_assert(gw_qmp_take_event(qmp, "STOP", &event));
	gw_qmp_event_deinit(&event);
	cr_assert_eq(gw_qmp_execute(qmp, "y", NULL, -1, &err, NULL), 0, "%s", err.text);
	cr_assert(gw_qmp_take_event(qmp, "RESUME", &event));
	gw_qmp_event_deinit(&event);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, keeps_wanted_events_with_their_time_and_data)
{
	const char *script[] = {
		GREETING, OK(1),
		"{\"event\": \"NIC_RX_FILTER_CHANGED\"}\r\n"
		"{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 250000},"
		" \"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\r\n" OK(
			2),
		NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_qmp_event event;

	cr_assert_eq(gw_qmp_execute(qmp, "x", NULL, -1, NULL, NULL), 0);
	cr_assert_not(gw_qmp_take_event(qmp, "NIC_RX_FILTER_CHANGED", &event));
	cr_assert(gw_qmp_take_event(qmp, "MIGRATION", &event));
	cr_assert_eq(event.realtime_ns, 1700000000250000000ULL);
	cr_assert_str_eq(json_string_value(json_object_get(event.data, "status")),
			 "active");
	gw_qmp_event_deinit(&event);
	cr_assert_not(gw_qmp_take_event(qmp, "MIGRATION", &event));
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, odd_event_times_count_as_none)
{
	const char *script[] = {
		GREETING, OK(1),
		"{\"timestamp\": {\"seconds\": -1, \"microseconds\": -1}, \"event\": \"STOP\"}\r\n"
		"{\"timestamp\": {\"seconds\": 9223372036854775807, \"microseconds\": 5},"
		" \"event\": \"STOP\"}\r\n" OK(2),
		NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_qmp_event event;

	cr_assert_eq(gw_qmp_execute(qmp, "x", NULL, -1, NULL, NULL), 0);
	for (int i = 0; i < 2; i++) {
		cr_assert(gw_qmp_take_event(qmp, "STOP", &event));
		cr_assert_eq(event.realtime_ns, 0);
		gw_qmp_event_deinit(&event);
	}
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, of_too_many_events_the_newest_stay)
{
	static char flood[GW_QMP_EVENTS_MAX * 80 + 1000];
	const char *script[] = {GREETING, OK(1), flood, NULL};
	struct peer peer = {0};
	struct gw_qmp_event event;
	struct gw_qmp *qmp;
	unsigned int n = 0;
	char *p = flood;

	for (unsigned int i = 0; i < GW_QMP_EVENTS_MAX + 5; i++)
		p += sprintf(p, "{\"event\": \"MIGRATION\", \"data\": {\"n\": %u}}\r\n",
			     i);
	strcpy(p, OK(2));
	qmp = connected(&peer, script);
	cr_assert_eq(gw_qmp_execute(qmp, "x", NULL, -1, NULL, NULL), 0);
	while (gw_qmp_take_event(qmp, "MIGRATION", &event)) {
		cr_assert_eq(json_integer_value(json_object_get(event.data, "n")), n + 5);
		gw_qmp_event_deinit(&event);
		n++;
	}
	cr_assert_eq(n, GW_QMP_EVENTS_MAX);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, a_refusal_names_the_command_and_qemus_words)
{
	const char *script[] = {
		GREETING,
		OK(1),
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such luck\"}, \"id\": 2}\r\n",
		"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"what?\"}, \"id\": 3}\r\n",
		OK(4),
		NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_err err = {0};

	cr_assert_eq(gw_qmp_execute(qmp, "migrate", NULL, -1, &err, NULL), -EREMOTEIO);
	cr_assert_str_eq(err.text, "QEMU refused 'migrate': no such luck");
	cr_assert_eq(gw_qmp_execute(qmp, "frob", NULL, -1, &err, NULL), -EOPNOTSUPP);
	/* a refusal is no end of the connection */
	cr_assert_eq(gw_qmp_execute(qmp, "x", NULL, -1, &err, NULL), 0);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, an_answer_that_comes_too_late_is_not_taken_for_the_next)
{
	const char *script[] = {GREETING, OK(1), "",
				"{\"return\": {\"late\": 1}, \"id\": 2}\r\n"
				"{\"return\": {\"late\": 0}, \"id\": 3}\r\n",
				NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_err err = {0};
	json_t *answer = NULL;

	gw_qmp_set_timeout(qmp, SHORT_NS);
	cr_assert_eq(gw_qmp_execute(qmp, "slow", NULL, -1, &err, NULL), -ETIMEDOUT);
	has(err, "did not answer 'slow'");
	gw_qmp_set_timeout(qmp, LONG_NS);
	cr_assert_eq(gw_qmp_execute(qmp, "next", NULL, -1, &err, &answer), 0, "%s",
		     err.text);
	cr_assert_eq(json_integer_value(json_object_get(answer, "late")), 0);
	json_decref(answer);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, arguments_and_a_descriptor_go_with_the_command)
{
	const char *script[] = {GREETING, OK(1), OK(2), NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct stat ours, theirs;

	cr_assert_eq(gw_qmp_execute(qmp, "getfd", json_pack("{s:s}", "fdname", "x"),
				    STDIN_FILENO, NULL, NULL),
		     0);
	cr_assert(strstr(peer.last, "\"arguments\":{\"fdname\":\"x\"}"), "%s", peer.last);
	cr_assert_geq(peer.got_fd, 0);
	cr_assert(!fstat(STDIN_FILENO, &ours) && !fstat(peer.got_fd, &theirs));
	cr_assert_eq(ours.st_ino, theirs.st_ino);
	close(peer.got_fd);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

static int refusal(const char *first, const char *second, uint64_t timeout,
		   struct gw_err *err)
{
	const char *script[] = {first, second, NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = NULL;
	int r = adopt(&peer, script, timeout, err, &qmp);

	cr_assert_null(qmp);
	peer_stop(&peer);
	return r;
}

Test(qmp, a_monitor_that_does_not_greet_is_in_use)
{
	const char *script[] = {"", "", NULL};
	struct gw_err err = {0};
	struct gw_qmp *qmp = NULL;
	struct peer peer = {0};

	cr_assert_eq(adopt(&peer, script, SHORT_NS, &err, &qmp), -EBUSY);
	has(err, "-qmp of its own");
	peer_stop(&peer);
}

Test(qmp, garbage_instead_of_a_greeting_is_refused)
{
	struct gw_err err = {0};

	cr_assert_eq(refusal("QEMU 7.2.0 monitor - type 'help'\r\n", "", LONG_NS, &err),
		     -EPROTO);
	has(err, "no QMP monitor");
	cr_assert_eq(refusal("[1, 2]\r\n", "", LONG_NS, &err), -EPROTO);
	cr_assert_eq(refusal("{}\r\n", "", LONG_NS, &err), -EPROTO);
	cr_assert_eq(refusal("{\"QMP\": {\"version\": 5}}\r\n", "", LONG_NS, &err),
		     -EPROTO);
	cr_assert_eq(refusal("\r\n", "", LONG_NS, &err), -EPROTO);
}

Test(qmp, an_answer_without_a_result_is_refused)
{
	struct gw_err err = {0};

	cr_assert_eq(refusal(GREETING, "{\"id\": 1}\r\n", LONG_NS, &err), -EPROTO);
	has(err, "neither return nor error");
}

Test(qmp, an_end_of_the_stream_is_told_and_remembered)
{
	const char *script[] = {GREETING, OK(1), "{\"return\": ", NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_err err = {0};

	for (int i = 0; i < 2; i++) {
		memset(&err, 0, sizeof(err));
		cr_assert_eq(gw_qmp_execute(qmp, "x", NULL, -1, &err, NULL), -ECONNRESET);
		has(err, "closed its monitor");
	}
	cr_assert_eq(gw_qmp_receive(qmp, &err), -ECONNRESET);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, a_line_without_end_is_refused)
{
	static char line[GW_QMP_LINE_MAX + 4096];
	const char *script[] = {GREETING, OK(1), line, NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_err err = {0};

	memset(line, ' ', sizeof(line) - 1);
	cr_assert_eq(gw_qmp_execute(qmp, "x", NULL, -1, &err, NULL), -EPROTO);
	has(err, "no QMP");
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, a_long_answer_is_taken)
{
	static char line[GW_QMP_LINE_MAX / 2];
	const char *script[] = {GREETING, OK(1), line, NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_err err = {0};
	int n = sprintf(line, "{\"id\": 2, \"return\": \"");
	json_t *answer = NULL;

	memset(line + n, 'x', sizeof(line) - n - 1);
	strcpy(line + sizeof(line) - 5, "\"}\r\n");
	cr_assert_eq(gw_qmp_execute(qmp, "x", NULL, -1, &err, &answer), 0, "%s",
		     err.text);
	cr_assert_eq(json_string_length(answer), sizeof(line) - 5 - n);
	json_decref(answer);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, waiting_for_an_event_has_an_end)
{
	const char *script[] = {GREETING, OK(1), "", NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_qmp_event event;
	struct gw_err err = {0};
	uint64_t start = gw_now();

	cr_assert_eq(gw_qmp_wait_event(qmp, "STOP", start + SHORT_NS, &err, &event),
		     GW_QMP_TIMEOUT);
	cr_assert_geq(gw_now() - start, SHORT_NS);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, an_event_is_waited_for_across_others)
{
	const char *script[] = {
		GREETING,
		OK(1) "{\"event\": \"RESUME\"}\r\n{\"event\": \"VSERPORT\"}\r\n"
		      "{\"event\": \"STOP\"}\r\n",
		"", NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_qmp_event event;

	cr_assert_eq(gw_qmp_wait_event(qmp, "STOP", gw_now() + LONG_NS, NULL, &event), 0);
	gw_qmp_event_deinit(&event);
	cr_assert(gw_qmp_take_event(qmp, "RESUME", &event));
	gw_qmp_event_deinit(&event);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, a_wake_ends_a_wait)
{
	const char *script[] = {GREETING, OK(1), "", NULL};
	struct peer peer = {0};
	struct gw_qmp *qmp = connected(&peer, script);
	struct gw_err err = {0};
	struct gw_event wake;

	cr_assert(!gw_event_init(&wake));
	gw_event_set(&wake);
	gw_qmp_set_wake(qmp, wake.fd);
	cr_assert_eq(gw_qmp_execute(qmp, "x", NULL, -1, &err, NULL), -ECANCELED);
	gw_event_deinit(&wake);
	gw_qmp_free(qmp);
	peer_stop(&peer);
}

Test(qmp, a_socket_that_nobody_serves_is_told_with_the_option)
{
	struct gw_err err = {0};
	struct gw_qmp *qmp = NULL;
	char path[200];

	cr_assert_eq(gw_qmp_connect("/nonexistent/qmp", LONG_NS, &err, &qmp), -ENOENT);
	has(err, "-qmp unix:/nonexistent/qmp");
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	cr_assert_eq(gw_qmp_connect(path, LONG_NS, &err, &qmp), -ENAMETOOLONG);
}
