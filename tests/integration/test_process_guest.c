/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A process as a guest: real children with real mappings. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/util.h"
#include "migrate/guest.h"
#include "userfault/attach.h"

#define SIZE (16 * GW_UNIT_SIZE)

static char path[64];
static pid_t child;

/* Our own look at the file, without a lasting mapping: that would be a writer. */
static uint64_t counter(void)
{
	GW_AUTO_CLOSE int fd = open(path, O_RDONLY);
	uint64_t value = 0;

	cr_assert_eq(pread(fd, &value, sizeof(value), 0), sizeof(value));
	return value;
}

static bool counts(void)
{
	uint64_t before = counter();

	for (int i = 0; i < 2000; i++) {
		if (counter() != before)
			return true;
		usleep(1000);
	}
	return false;
}

static bool stands(void)
{
	uint64_t before = counter();

	usleep(20000);
	return counter() == before;
}

static void *count_in_thread(void *at)
{
	for (;;)
		atomic_fetch_add((_Atomic uint64_t *)at, 1);
	return NULL;
}

static char *map_file(int flags, uint64_t size)
{
	int fd = open(path, O_RDWR);

	return mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
}

static pid_t spawn(int flags, uint64_t size)
{
	pid_t pid = fork();

	if (!pid) {
		pthread_t thread;
		char *at;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		at = map_file(flags, size);
		pthread_create(&thread, NULL, count_in_thread, at);
		for (;;)
			pause();
	}
	/* the mapping is there once it counts; a private one is given time */
	for (int i = 0; i < 1000 && !counter(); i++)
		usleep(flags == MAP_SHARED ? 1000 : 50);
	return pid;
}

static void set_up(void)
{
	int fd;

	snprintf(path, sizeof(path), "/dev/shm/godwit-test-%d", getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	cr_assert(!ftruncate(fd, SIZE));
	close(fd);
}

static void end(pid_t pid)
{
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static void tear_down(void)
{
	end(child);
	unlink(path);
}

static int make(enum godwit_side side, int offline, struct gw_err *err,
		godwit_guest **ret)
{
	const char *const ranges[] = {path};
	const struct godwit_process process = {.pid = child,
					       .ranges = ranges,
					       .n_ranges = 1,
					       .side = side,
					       .offline = offline};

	return godwit_guest_new_process(&process, err, ret);
}

static void refused(int code, const char *words)
{
	struct gw_err err = {0};
	godwit_guest *guest = NULL;

	cr_assert_eq(make(GODWIT_SOURCE, 0, &err, &guest), code, "%s", err.text);
	cr_assert(strstr(err.text, words), "%s", err.text);
}

TestSuite(process_guest, .init = set_up, .fini = tear_down);

Test(process_guest, a_source_stops_and_resumes)
{
	struct gw_err err = {0};
	godwit_guest *guest;

	child = spawn(MAP_SHARED, SIZE);
	cr_assert_eq(make(GODWIT_SOURCE, 0, &err, &guest), 0, "%s", err.text);
	cr_assert_str_eq(guest->regions[0].name, "range-0");
	cr_assert_eq(guest->regions[0].size, SIZE);
	cr_assert(counts());
	for (int i = 0; i < 20; i++) {
		cr_assert_eq(guest->ops.stop(guest->opaque, &err), 0, "%s", err.text);
		cr_assert(i % 5 || stands());
		cr_assert_eq(guest->ops.resume(guest->opaque, &err), 0, "%s", err.text);
	}
	cr_assert(counts());
	cr_assert_null(guest->ops.save);
	godwit_guest_free(guest);
	cr_assert(counts());
}

Test(process_guest, one_that_somebody_else_set_running_is_told)
{
	struct gw_err err = {0};
	godwit_guest *guest;

	child = spawn(MAP_SHARED, SIZE);
	cr_assert_eq(make(GODWIT_SOURCE, 0, &err, &guest), 0, "%s", err.text);
	cr_assert_eq(guest->ops.stop(guest->opaque, &err), 0, "%s", err.text);
	cr_assert_eq(guest->ops.check_stopped(guest->opaque, &err), 0, "%s", err.text);
	kill(child, SIGCONT);
	cr_assert(counts());
	cr_assert_eq(guest->ops.check_stopped(guest->opaque, &err), -EBUSY);
	cr_assert(strstr(err.text, "SIGCONT"), "%s", err.text);
	godwit_guest_free(guest);
}

Test(process_guest, a_destination_stands_from_the_start_until_run)
{
	struct gw_err err = {0};
	godwit_guest *guest;

	child = spawn(MAP_SHARED, SIZE);
	cr_assert_eq(make(GODWIT_DEST, 0, &err, &guest), 0, "%s", err.text);
	cr_assert(stands());
	cr_assert_eq(guest->ops.run(guest->opaque, &err), 0, "%s", err.text);
	cr_assert(counts());
	godwit_guest_free(guest);
}

Test(process_guest, a_destination_stands_through_an_attach)
{
	struct gw_err err = {0};
	struct gw_uffd uffd;
	godwit_guest *guest;
	int r;

	child = spawn(MAP_SHARED, SIZE);
	cr_assert_eq(make(GODWIT_DEST, 0, &err, &guest), 0, "%s", err.text);
	r = gw_uffd_attach(child, GW_UFFD_FAULTS, true, NULL, &err, &uffd);
	if (r == -EPERM || r == -ENOSYS)
		cr_skip_test("%s", err.text);
	cr_assert_eq(r, 0, "%s", err.text);
	cr_assert(stands());
	cr_assert_eq(gw_uffd_release(&uffd, &err), 0, "%s", err.text);
	cr_assert(stands());
	cr_assert_eq(guest->ops.run(guest->opaque, &err), 0, "%s", err.text);
	cr_assert(counts());
	godwit_guest_free(guest);
}

Test(process_guest, one_that_somebody_else_stopped_stays_stopped)
{
	struct gw_err err = {0};
	godwit_guest *guest;

	child = spawn(MAP_SHARED, SIZE);
	kill(child, SIGSTOP);
	waitpid(child, NULL, WUNTRACED);
	cr_assert_eq(make(GODWIT_SOURCE, 0, &err, &guest), 0, "%s", err.text);
	cr_assert_eq(guest->ops.stop(guest->opaque, &err), 0, "%s", err.text);
	cr_assert_eq(guest->ops.resume(guest->opaque, &err), 0, "%s", err.text);
	cr_assert(stands());
	godwit_guest_free(guest);
}

Test(process_guest, an_end_of_the_process_is_told)
{
	struct gw_err err = {0};
	godwit_guest *guest;

	child = spawn(MAP_SHARED, SIZE);
	cr_assert_eq(make(GODWIT_SOURCE, 0, &err, &guest), 0, "%s", err.text);
	end(child);
	cr_assert_eq(guest->ops.stop(guest->opaque, &err), -ESRCH);
	cr_assert(strstr(err.text, "has ended"), "%s", err.text);
	child = 0;
	godwit_guest_free(guest);
}

Test(process_guest, a_process_that_is_not_there_is_refused)
{
	child = fork();
	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
	refused(-ESRCH, "no process");
	child = 0;
	refused(-EINVAL, "no process id");
	child = getpid();
	refused(-EINVAL, "itself");
	child = 0;
}

Test(process_guest, the_way_in_which_a_file_is_not_mapped_is_named)
{
	child = spawn(MAP_PRIVATE, SIZE);
	refused(-ENXIO, "privately or read-only");
	end(child);
	child = spawn(MAP_SHARED, SIZE / 2);
	refused(-ENXIO, "32768 of the 65536 bytes");
	end(child);
	child = fork();
	if (!child)
		for (;;)
			pause();
	refused(-ENXIO, "does not have");
	unlink(path);
	refused(-ENOENT, path);
}

Test(process_guest, direct_io_makes_it_unfit_for_precopy)
{
	char disk[] = "/var/tmp/godwit-direct-XXXXXX";
	struct gw_err err = {0};
	godwit_guest *guest;
	int fd = mkstemp(disk), direct;

	cr_assert_geq(fd, 0);
	direct = open(disk, O_RDONLY | O_DIRECT); /* the child inherits it */
	unlink(disk);
	close(fd);
	if (direct < 0)
		cr_skip_test("/var/tmp is on a file system without direct I/O");
	child = spawn(MAP_SHARED, SIZE);
	close(direct);
	cr_assert_eq(make(GODWIT_SOURCE, 0, &err, &guest), 0, "%s", err.text);
	cr_assert(strstr(guest->untracked, "O_DIRECT"), "'%s'", guest->untracked);
	godwit_guest_free(guest);
}

Test(process_guest, another_writer_is_accepted_only_offline)
{
	struct gw_err err = {0};
	godwit_guest *guest = NULL;
	char words[64];
	pid_t writer;

	child = spawn(MAP_SHARED, SIZE);
	writer = spawn(MAP_SHARED, SIZE);
	usleep(100000); /* the second counts with the first: nothing to see it by */
	snprintf(words, sizeof(words), "process %d", writer);
	refused(-EOPNOTSUPP, words);
	cr_assert_eq(make(GODWIT_SOURCE, 1, &err, &guest), 0, "%s", err.text);
	godwit_guest_free(guest);
	end(writer);
}
