/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU as a guest, with a real QEMU (TCG, firmware only) on both sides. The
 * variable GODWIT_QEMU names another binary than the installed one; with
 * GODWIT_TIMES set the full cycle prints how long its steps took.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/util.h"
#include "migrate/guest.h"
#include "vmm/qmp.h"

#define RAM	 (128UL << 20)
#define LONG_NS	 (20 * GW_NSEC)
#define ARGS_MAX 64

static char dir[64];
static pid_t qemus[8];
static unsigned int n_qemus;
static struct gw_qmp *monitors[8];
static unsigned int n_monitors;

struct vm {
	pid_t pid;
	char qmp[96], side[96], ram[96];
	struct gw_qmp *monitor; /* ours; godwit has the other */
};

/* ---- QEMU ---- */

static const char *binary(void)
{
	return getenv("GODWIT_QEMU") ?: "/usr/bin/qemu-system-x86_64";
}

static void set_up(void)
{
	n_qemus = 0;
	n_monitors = 0;
	snprintf(dir, sizeof(dir), "/dev/shm/godwit-test-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	if (access(binary(), X_OK))
		cr_skip_test("there is no %s (GODWIT_QEMU names another)", binary());
}

static void tear_down(void)
{
	char command[128];

	for (unsigned int i = 0; i < n_qemus; i++) {
		kill(qemus[i], SIGKILL);
		waitpid(qemus[i], NULL, 0);
	}
	for (unsigned int i = 0; i < n_monitors; i++)
		gw_qmp_free(monitors[i]);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(qemu_guest, .init = set_up, .fini = tear_down, .timeout = 120);

static pid_t launch(const char *const *args)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!getenv("GODWIT_TIMES"))
			freopen("/dev/null", "w", stderr);
		execv(binary(), (char *const *)args);
		_exit(127);
	}
	qemus[n_qemus++] = pid;
	return pid;
}

static struct gw_qmp *monitor_open(pid_t pid, const char *path)
{
	struct gw_qmp *qmp = NULL;
	struct gw_err err = {0};

	for (int i = 0; i < 500; i++) {
		if (!gw_qmp_connect(path, LONG_NS, &err, &qmp))
			return qmp;
		if (waitpid(pid, NULL, WNOHANG))
			break;
		usleep(20000);
	}
	cr_assert_fail("%s", err.text);
	return NULL;
}

#define FILE_RAM                                                                         \
	"-object", "memory-backend-file,id=ram,size=128M,share=on,mem-path=%s",          \
		"-machine", "q35,memory-backend=ram"

/* Every "%s" in @extra becomes the RAM file's path. */
static struct vm vm_start(const char *name, const char *const *extra)
{
	static const char *const common[] = {
		"-accel",
		"tcg",
		"-m",
		"128",
		"-nodefaults",
		"-display",
		"none",
		"-serial",
		"null",
		"-device",
		"virtio-net-pci,netdev=n0",
		"-netdev",
		"hubport,id=n0,hubid=0",
		"-device",
		"virtio-rng-pci",
		"-device",
		"virtio-serial-pci",
		"-device",
		"virtio-blk-pci,drive=d0",
		"-blockdev",
		"null-co,node-name=d0,read-zeroes=on,size=1048576"};
	const char *args[ARGS_MAX] = {binary()};
	char options[2][128], filled[4][192];
	unsigned int n = 1, n_filled = 0;
	struct vm vm = {0};

	snprintf(vm.qmp, sizeof(vm.qmp), "%s/%s.qmp", dir, name);
	snprintf(vm.side, sizeof(vm.side), "%s/%s.side", dir, name);
	snprintf(vm.ram, sizeof(vm.ram), "%s/%s.ram", dir, name);
	snprintf(options[0], sizeof(options[0]), "unix:%s,server=on,wait=off", vm.qmp);
	snprintf(options[1], sizeof(options[1]), "unix:%s,server=on,wait=off", vm.side);
	for (size_t i = 0; i < GW_ARRAY_SIZE(common); i++)
		args[n++] = common[i];
	for (int i = 0; i < 2; i++) {
		args[n++] = "-qmp";
		args[n++] = options[i];
	}
	for (; *extra; extra++) {
		const char *at = strstr(*extra, "%s");

		args[n++] = *extra;
		if (at) {
			snprintf(filled[n_filled], sizeof(filled[0]), "%.*s%s%s",
				 (int)(at - *extra), *extra, vm.ram, at + 2);
			args[n - 1] = filled[n_filled++];
		}
	}
	vm.pid = launch(args);
	vm.monitor = monitor_open(vm.pid, vm.side);
	monitors[n_monitors++] = vm.monitor;
	return vm;
}

static struct vm source_start(void)
{
	return vm_start("a", (const char *[]){FILE_RAM, NULL});
}

static struct vm dest_start(void)
{
	return vm_start("b", (const char *[]){FILE_RAM, "-incoming", "defer", NULL});
}

static json_t *ask(struct vm *vm, const char *command, json_t *args)
{
	struct gw_err err = {0};
	json_t *answer = NULL;

	cr_assert_eq(gw_qmp_execute(vm->monitor, command, args, -1, &err, &answer), 0,
		     "%s", err.text);
	return answer;
}

static void expect_status(struct vm *vm, const char *status)
{
	json_t *answer = ask(vm, "query-status", NULL);

	cr_assert_str_eq(json_string_value(json_object_get(answer, "status")), status);
	json_decref(answer);
}

static char *registers(struct vm *vm)
{
	json_t *answer = ask(vm, "human-monitor-command",
			     json_pack("{s:s}", "command-line", "info registers"));
	char *text = strdup(json_string_value(answer));

	json_decref(answer);
	return text;
}

static json_t *settings(struct vm *vm)
{
	return json_pack("{s:o, s:o}", "caps",
			 ask(vm, "query-migrate-capabilities", NULL), "params",
			 ask(vm, "query-migrate-parameters", NULL));
}

/* ---- the guest ---- */

static void log_line(void *opaque, enum godwit_log_level level, const char *line)
{
	char *all = opaque;

	if (strlen(all) + strlen(line) + 2 < 4096)
		strcat(strcat(all, line), "\n");
}

static char logged[4096];

static int make(struct vm *vm, enum godwit_side side, int offline, struct gw_err *err,
		godwit_guest **ret)
{
	const struct godwit_qemu qemu = {.qmp_path = vm->qmp,
					 .side = side,
					 .offline = offline,
					 .log = log_line,
					 .log_opaque = logged};

	return godwit_guest_new_qemu(&qemu, err, ret);
}

static godwit_guest *made(struct vm *vm, enum godwit_side side)
{
	struct gw_err err = {0};
	godwit_guest *guest = NULL;

	cr_assert_eq(make(vm, side, 0, &err, &guest), 0, "%s", err.text);
	return guest;
}

static void refused(struct vm *vm, enum godwit_side side, int code, const char *words)
{
	struct gw_err err = {0};
	godwit_guest *guest = NULL;
	json_t *before = settings(vm), *after;
	int r = make(vm, side, 0, &err, &guest);

	cr_assert_eq(r, code, "%d %s", r, err.text);
	cr_assert(strstr(err.text, words), "%s", err.text);
	cr_assert_null(guest);
	after = settings(vm);
	cr_assert(json_equal(before, after), "a refusal changed QEMU's settings");
	json_decref(before);
	json_decref(after);
}

#define op(guest, name)                                                                  \
	do {                                                                             \
		struct gw_err op_err = {0};                                              \
		cr_assert_eq((guest)->ops.name((guest)->opaque, &op_err), 0, "%s",       \
			     op_err.text);                                               \
	} while (0)

static int state_file(void)
{
	int fd = memfd_create("state", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	return fd;
}

static uint64_t saved(godwit_guest *guest, int fd)
{
	struct gw_err err = {0};
	struct stat st;

	cr_assert(!ftruncate(fd, 0));
	lseek(fd, 0, SEEK_SET);
	cr_assert_eq(guest->ops.save(guest->opaque, fd, &err), 0, "%s", err.text);
	cr_assert(!fstat(fd, &st));
	return (uint64_t)st.st_size;
}

static int load(godwit_guest *guest, int fd, uint64_t size, struct gw_err *err)
{
	lseek(fd, 0, SEEK_SET);
	return guest->ops.load(guest->opaque, fd, size, err);
}

static void copy_ram(godwit_guest *from, godwit_guest *to)
{
	off_t offset = 0;

	lseek(to->regions[0].fd, 0, SEEK_SET);
	while (offset < (off_t)RAM)
		cr_assert_gt(sendfile(to->regions[0].fd, from->regions[0].fd, &offset,
				      RAM - (size_t)offset),
			     0);
}

/* ---- the whole way ---- */

struct times {
	uint64_t stop, save, load, run, bytes;
};

static void move(godwit_guest *a, godwit_guest *b, struct times *t)
{
	GW_AUTO_CLOSE int fd = state_file();
	struct gw_err err = {0};
	uint64_t start = gw_now();

	op(a, stop);
	t->stop = gw_now() - start;
	start = gw_now();
	t->bytes = saved(a, fd);
	t->save = gw_now() - start;
	copy_ram(a, b);
	start = gw_now();
	cr_assert_eq(load(b, fd, t->bytes, &err), 0, "%s", err.text);
	t->load = gw_now() - start;
}

static void times_print(const struct times *t)
{
	if (getenv("GODWIT_TIMES"))
		fprintf(stderr,
			"stop %.2f save %.2f load %.2f run %.2f ms, state %lu bytes\n",
			t->stop / 1e6, t->save / 1e6, t->load / 1e6, t->run / 1e6,
			t->bytes);
}

Test(qemu_guest, moves_from_one_to_the_other)
{
	struct vm from = source_start(), to = dest_start();
	json_t *settings_a = settings(&from), *settings_b = settings(&to), *after;
	godwit_guest *a = made(&from, GODWIT_SOURCE), *b = made(&to, GODWIT_DEST);
	char *left, *right;
	struct times t = {0};
	uint64_t start;

	cr_assert_eq(a->pid, from.pid);
	cr_assert_eq(a->n_regions, 1);
	cr_assert_str_eq(a->regions[0].name, "ram");
	cr_assert_eq(a->regions[0].size, RAM);
	sleep(1); /* the firmware gets somewhere */
	move(a, b, &t);
	expect_status(&from, "postmigrate");
	expect_status(&to, "paused");
	left = registers(&from);
	right = registers(&to);
	cr_assert_str_eq(left, right);
	start = gw_now();
	op(b, run);
	t.run = gw_now() - start;
	expect_status(&to, "running");
	op(b, announce);
	op(a, check_stopped);
	godwit_guest_free(a);
	godwit_guest_free(b);
	expect_status(&from, "postmigrate");
	expect_status(&to, "running");
	after = settings(&from);
	cr_assert(json_equal(settings_a, after), "the source's settings are not back");
	json_decref(after);
	after = settings(&to);
	cr_assert(json_equal(settings_b, after),
		  "the destination's settings are not back");
	json_decref(after);
	cr_assert(strstr(logged, "guest stopped at "), "%s", logged);
	cr_assert(strstr(logged, "guest runs at the destination at "), "%s", logged);
	times_print(&t);
	json_decref(settings_a);
	json_decref(settings_b);
	free(left);
	free(right);
}

Test(qemu_guest, one_that_somebody_else_set_running_is_told)
{
	struct vm from = source_start(), to = dest_start();
	godwit_guest *a = made(&from, GODWIT_SOURCE), *b = made(&to, GODWIT_DEST);
	struct gw_err err = {0};
	struct times t = {0};

	move(a, b, &t);
	op(b, run);
	json_decref(ask(&from, "cont", NULL));
	cr_assert_eq(a->ops.check_stopped(a->opaque, &err), -EBUSY);
	cr_assert(strstr(err.text, "`cont`"), "%s", err.text);
	op(a, stop);
	expect_status(&from, "paused");
	expect_status(&to, "running");
	godwit_guest_free(a);
	godwit_guest_free(b);
}

/* What QEMU's network card has sent into its dump; an empty dump has a header. */
static uint64_t sent_bytes(const struct vm *vm)
{
	char path[160];
	struct stat st;

	snprintf(path, sizeof(path), "%s.net", vm->ram);
	cr_assert_eq(stat(path, &st), 0);
	return (uint64_t)st.st_size - 24;
}

Test(qemu_guest, the_network_hears_of_it_only_when_it_runs)
{
	struct vm from = source_start();
	struct vm to = vm_start(
		"b", (const char *[]){FILE_RAM, "-incoming", "defer", "-object",
				      "filter-dump,id=dump,netdev=n0,file=%s.net", NULL});
	godwit_guest *a = made(&from, GODWIT_SOURCE), *b = made(&to, GODWIT_DEST);
	struct times t = {0};

	move(a, b, &t);
	usleep(700000); /* QEMU's first announcements come within 50 to 250 ms */
	cr_assert_eq(sent_bytes(&to), 0);
	op(b, run);
	op(b, announce);
	usleep(300000);
	cr_assert_gt(sent_bytes(&to), 0);
	godwit_guest_free(a);
	godwit_guest_free(b);
}

Test(qemu_guest, one_that_was_paused_stays_paused_on_both_sides)
{
	struct vm from = source_start(), to = dest_start();
	godwit_guest *a, *b;
	struct times t;

	json_decref(ask(&from, "stop", NULL));
	a = made(&from, GODWIT_SOURCE);
	b = made(&to, GODWIT_DEST);
	op(a, stop);
	op(a, resume);
	expect_status(&from, "paused");
	move(a, b, &t);
	op(b, run);
	expect_status(&to, "paused");
	godwit_guest_free(a);
	godwit_guest_free(b);
}

Test(qemu_guest, resumes_after_stop_and_after_save_and_saves_again)
{
	struct vm from = source_start();
	godwit_guest *a = made(&from, GODWIT_SOURCE);
	GW_AUTO_CLOSE int fd = state_file();

	op(a, stop);
	expect_status(&from, "paused");
	op(a, resume);
	expect_status(&from, "running");
	for (int i = 0; i < 10; i++) {
		struct times t = {0};
		uint64_t start = gw_now();

		op(a, stop);
		t.stop = gw_now() - start;
		start = gw_now();
		t.bytes = saved(a, fd);
		t.save = gw_now() - start;
		expect_status(&from, "postmigrate");
		op(a, resume);
		expect_status(&from, "running");
		times_print(&t);
	}
	a->ops.abandon(a->opaque);
	/* and once more with the same guest, which has been cleaned up */
	op(a, stop);
	cr_assert_lt(saved(a, fd), 8 << 20);
	op(a, resume);
	a->ops.abandon(a->opaque);
	godwit_guest_free(a);
	expect_status(&from, "running");
}

Test(qemu_guest, abandoning_gives_settings_back)
{
	struct vm from = source_start(), to = dest_start();
	json_t *caps = json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability",
				 "multifd", "state", 1);
	json_t *before_a, *before_b, *after_a, *after_b;
	godwit_guest *a, *b;

	json_decref(ask(&from, "migrate-set-capabilities", caps));
	json_decref(ask(&from, "migrate-set-parameters",
			json_pack("{s:i}", "max-bandwidth", 5000000)));
	before_a = settings(&from);
	before_b = settings(&to);
	a = made(&from, GODWIT_SOURCE);
	b = made(&to, GODWIT_DEST);
	after_a = settings(&from);
	cr_assert_not(json_equal(before_a, after_a));
	json_decref(after_a);
	a->ops.abandon(a->opaque);
	b->ops.abandon(b->opaque);
	after_a = settings(&from);
	after_b = settings(&to);
	cr_assert(json_equal(before_a, after_a));
	cr_assert(json_equal(before_b, after_b));
	godwit_guest_free(a);
	godwit_guest_free(b);
	/* a destination that waited in vain waits on */
	expect_status(&to, "inmigrate");
	b = made(&to, GODWIT_DEST);
	godwit_guest_free(b);
	json_decref(before_a);
	json_decref(before_b);
	json_decref(after_a);
	json_decref(after_b);
}

/* ---- refusals ---- */

Test(qemu_guest, ram_that_is_no_shared_file_is_refused_with_the_option)
{
	struct vm private = vm_start(
		"p", (const char *[]){"-object",
				      "memory-backend-file,id=mem0,size=128M,mem-path=%s",
				      "-machine", "q35,memory-backend=mem0", NULL});
	struct vm plain = vm_start("d", (const char *[]){"-machine", "q35", NULL});

	refused(&private, GODWIT_SOURCE, -EOPNOTSUPP,
		"memory-backend-file,id=mem0,size=128M,mem-path=/dev/shm/NAME,share=on "
		"-machine memory-backend=mem0");
	refused(&plain, GODWIT_SOURCE, -EOPNOTSUPP,
		"memory-backend-file,id=ram,size=128M,mem-path=/dev/shm/NAME,share=on "
		"-machine memory-backend=ram");
	expect_status(&private, "running");
	expect_status(&plain, "running");
}

Test(qemu_guest, a_memfd_will_do_where_qemu_skips_it)
{
	struct vm vm = vm_start(
		"m", (const char *[]){"-object",
				      "memory-backend-memfd,id=ram,size=128M,share=on",
				      "-machine", "q35,memory-backend=ram", NULL});
	godwit_guest *guest;

	if (gw_qmp_version(vm.monitor) >= 8000) {
		refused(&vm, GODWIT_SOURCE, -EOPNOTSUPP, "without a name");
		return;
	}
	guest = made(&vm, GODWIT_SOURCE);
	cr_assert_eq(guest->regions[0].size, RAM);
	godwit_guest_free(guest);
}

Test(qemu_guest, two_memfds_of_one_size_cannot_be_told_apart)
{
	struct vm vm = vm_start(
		"m", (const char *[]){
			     "-object", "memory-backend-memfd,id=m0,size=64M,share=on",
			     "-object", "memory-backend-memfd,id=m1,size=64M,share=on",
			     "-numa", "node,memdev=m0", "-numa", "node,memdev=m1",
			     "-machine", "q35", NULL});

	if (gw_qmp_version(vm.monitor) >= 8000)
		return;
	refused(&vm, GODWIT_SOURCE, -ENOTUNIQ, "told apart");
}

Test(qemu_guest, files_without_a_name_of_their_own_are_found)
{
	/* in a directory QEMU makes a file and unlinks it */
	struct vm vm = vm_start(
		"u",
		(const char *[]){
			"-object",
			"memory-backend-file,id=m0,size=64M,share=on,mem-path=/dev/shm",
			"-object",
			"memory-backend-file,id=m1,size=64M,share=on,mem-path=/dev/shm",
			"-numa", "node,memdev=m0", "-numa", "node,memdev=m1", "-machine",
			"q35", NULL});
	godwit_guest *guest = made(&vm, GODWIT_SOURCE);

	cr_assert_eq(guest->n_regions, 2);
	cr_assert_neq(guest->regions[0].address, guest->regions[1].address);
	godwit_guest_free(guest);
}

Test(qemu_guest, a_relative_path_is_found)
{
	char path[] = "godwit-test-relative.ram";
	struct vm vm;
	godwit_guest *guest;

	cr_assert(!chdir(dir));
	vm = vm_start(
		"r",
		(const char *[]){
			"-object",
			"memory-backend-file,id=ram,size=128M,share=on,mem-path=godwit-test-relative.ram",
			"-machine", "q35,memory-backend=ram", NULL});
	cr_assert(!access(path, F_OK));
	cr_assert(!chdir("/"));
	guest = made(&vm, GODWIT_SOURCE);
	godwit_guest_free(guest);
}

Test(qemu_guest, sides_are_not_mixed_up)
{
	struct vm from = source_start(), to = dest_start();

	refused(&from, GODWIT_DEST, -EBUSY, "-incoming defer");
	refused(&to, GODWIT_SOURCE, -EBUSY, "it is a destination");
}

Test(qemu_guest, an_incoming_with_an_address_is_refused)
{
	char uri[128];
	struct vm vm;

	snprintf(uri, sizeof(uri), "unix:%s/in", dir);
	vm = vm_start("b", (const char *[]){FILE_RAM, "-incoming", uri, NULL});
	refused(&vm, GODWIT_DEST, -EBUSY, "already has an incoming migration");
}

/* A migration of QEMU's own that nobody drains: it stays under way. */
static void migrate_into_nothing(struct vm *vm, int *keep)
{
	int pair[2];

	cr_assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	cr_assert_eq(gw_qmp_execute(vm->monitor, "getfd",
				    json_pack("{s:s}", "fdname", "x"), pair[1], NULL,
				    NULL),
		     0);
	json_decref(ask(vm, "migrate", json_pack("{s:s}", "uri", "fd:x")));
	close(pair[1]);
	*keep = pair[0];
}

Test(qemu_guest, a_source_that_migrates_already_is_refused)
{
	struct vm from = source_start();
	int keep;

	migrate_into_nothing(&from, &keep);
	refused(&from, GODWIT_SOURCE, -EBUSY, "already migrating");
	close(keep);
}

Test(qemu_guest, a_source_that_was_migrated_away_is_refused)
{
	struct vm from = source_start();
	godwit_guest *a = made(&from, GODWIT_SOURCE);
	GW_AUTO_CLOSE int fd = state_file();

	op(a, stop);
	saved(a, fd);
	godwit_guest_free(a);
	refused(&from, GODWIT_SOURCE, -EBUSY, "already migrated away");
}

Test(qemu_guest, a_monitor_in_use_is_named)
{
	struct vm from = source_start();
	struct gw_qmp *other = monitor_open(from.pid, from.qmp);

	refused(&from, GODWIT_SOURCE, -EBUSY, "give godwit a -qmp of its own");
	gw_qmp_free(other);
}

Test(qemu_guest, another_writer_of_ram_is_accepted_only_offline)
{
	struct vm from = source_start();
	struct gw_err err = {0};
	godwit_guest *guest = NULL;
	char words[64];
	int ready[2];
	char byte;
	pid_t pid;

	cr_assert(!pipe(ready));
	pid = fork();
	if (!pid) {
		int fd = open(from.ram, O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (write(ready[1], "x", 1) == 1)
			pause();
		_exit(0);
	}
	qemus[n_qemus++] = pid;
	cr_assert_eq(read(ready[0], &byte, 1), 1);
	snprintf(words, sizeof(words), "process %d", pid);
	refused(&from, GODWIT_SOURCE, -EOPNOTSUPP, words);
	cr_assert_eq(make(&from, GODWIT_SOURCE, 1, &err, &guest), 0, "%s", err.text);
	godwit_guest_free(guest);
}

Test(qemu_guest, a_wrong_pid_is_told)
{
	struct vm from = source_start();
	const struct godwit_qemu qemu = {
		.qmp_path = from.qmp, .pid = getppid(), .side = GODWIT_SOURCE};
	struct gw_err err = {0};
	godwit_guest *guest = NULL;

	cr_assert_lt(godwit_guest_new_qemu(&qemu, &err, &guest), 0);
	cr_assert(strstr(err.text, "check that this is QEMU's process"), "%s", err.text);
}

/* ---- failures on the way ---- */

static void *kill_soon(void *opaque)
{
	usleep(200000);
	kill(*(pid_t *)opaque, SIGKILL);
	return NULL;
}

Test(qemu_guest, a_source_that_dies_while_saving_is_an_error_and_no_hang)
{
	struct vm from = source_start();
	godwit_guest *a = made(&from, GODWIT_SOURCE);
	GW_AUTO_CLOSE int fd = state_file();
	struct gw_err err = {0};
	pthread_t killer;
	uint64_t start;

	op(a, stop);
	kill(from.pid, SIGSTOP); /* so that it cannot be done before it dies */
	pthread_create(&killer, NULL, kill_soon, &from.pid);
	start = gw_now();
	cr_assert_eq(a->ops.save(a->opaque, fd, &err), -ECONNRESET, "%s", err.text);
	cr_assert(strstr(err.text, "saving the device state"), "%s", err.text);
	cr_assert_lt(gw_now() - start, 5 * GW_NSEC);
	cr_assert_lt(a->ops.resume(a->opaque, &err), 0);
	a->ops.abandon(a->opaque);
	godwit_guest_free(a);
	pthread_join(killer, NULL);
}

Test(qemu_guest, a_state_that_cannot_be_kept_leaves_the_source_running)
{
	struct vm from = source_start();
	godwit_guest *a = made(&from, GODWIT_SOURCE);
	GW_AUTO_CLOSE int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	GW_AUTO_CLOSE int fd = state_file();
	struct gw_err err = {0};

	op(a, stop);
	cr_assert_eq(a->ops.save(a->opaque, full, &err), -ENOSPC, "%s", err.text);
	op(a, resume);
	expect_status(&from, "running");
	op(a, stop);
	saved(a, fd);
	op(a, resume);
	expect_status(&from, "running");
	godwit_guest_free(a);
}

static void *close_soon(void *fd)
{
	usleep(100000);
	close(*(int *)fd);
	return NULL;
}

Test(qemu_guest, a_state_that_is_cut_in_the_middle_leaves_the_source_running)
{
	struct vm from = source_start();
	godwit_guest *a = made(&from, GODWIT_SOURCE);
	struct gw_err err = {0};
	pthread_t reader;
	int pair[2];

	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < 3; i++) {
		cr_assert(!pipe(pair));
		op(a, stop);
		pthread_create(&reader, NULL, close_soon, &pair[0]);
		cr_assert_eq(a->ops.save(a->opaque, pair[1], &err), -EPIPE, "%s",
			     err.text);
		pthread_join(reader, NULL);
		close(pair[1]);
		op(a, resume);
		expect_status(&from, "running");
	}
	godwit_guest_free(a);
}

/* Saves a real state, spoils it with @spoil, and returns what loading it says. */
static int load_spoiled(void (*spoil)(int fd, uint64_t *size), struct gw_err *err,
			struct vm *ret_to)
{
	struct vm from = source_start();
	godwit_guest *a = made(&from, GODWIT_SOURCE), *b;
	GW_AUTO_CLOSE int fd = state_file();
	uint64_t size;
	int r;

	*ret_to = dest_start();
	b = made(ret_to, GODWIT_DEST);
	op(a, stop);
	size = saved(a, fd);
	spoil(fd, &size);
	r = load(b, fd, size, err);
	cr_assert_lt(b->ops.run(b->opaque, NULL), 0);
	b->ops.abandon(b->opaque);
	godwit_guest_free(b);
	op(a, resume);
	expect_status(&from, "running");
	godwit_guest_free(a);
	return r;
}

static void spoil_magic(int fd, uint64_t *size)
{
	cr_assert_eq(pwrite(fd, "?", 1, 0), 1);
}

static void spoil_version(int fd, uint64_t *size)
{
	cr_assert_eq(pwrite(fd, "\x09", 1, 8), 1);
}

static void spoil_size(int fd, uint64_t *size)
{
	*size = 16;
}

static void spoil_content(int fd, uint64_t *size)
{
	char junk[4096];

	memset(junk, 0xa5, sizeof(junk));
	cr_assert_eq(pwrite(fd, junk, sizeof(junk), (off_t)*size / 2 + 200000),
		     sizeof(junk));
	cr_assert_eq(pwrite(fd, junk, 8, 16), 8);
}

static void spoil_end(int fd, uint64_t *size)
{
	*size = *size / 2;
}

Test(qemu_guest, a_state_that_is_not_ours_never_reaches_qemu)
{
	struct gw_err err = {0};
	struct vm to;

	cr_assert_eq(load_spoiled(spoil_magic, &err, &to), -EPROTO);
	cr_assert(strstr(err.text, "not that of a QEMU guest"), "%s", err.text);
	expect_status(&to, "inmigrate");
}

Test(qemu_guest, a_state_of_another_version_never_reaches_qemu)
{
	struct gw_err err = {0};
	struct vm to;

	cr_assert_eq(load_spoiled(spoil_version, &err, &to), -EPROTO);
	cr_assert(strstr(err.text, "has version 9"), "%s", err.text);
	expect_status(&to, "inmigrate");
}

Test(qemu_guest, an_empty_state_never_reaches_qemu)
{
	struct gw_err err = {0};
	struct vm to;

	cr_assert_eq(load_spoiled(spoil_size, &err, &to), -EPROTO);
	expect_status(&to, "inmigrate");
}

static void load_failure_is_told(void (*spoil)(int, uint64_t *))
{
	struct gw_err err = {0};
	uint64_t start = gw_now();
	struct vm to;
	int r = load_spoiled(spoil, &err, &to);

	cr_assert(r == -ECONNRESET || r == -EREMOTEIO, "%d %s", r, err.text);
	cr_assert(strstr(err.text, "loading the device state") ||
			  strstr(err.text, "exited while it loaded"),
		  "%s", err.text);
	cr_assert_lt(gw_now() - start, 30 * GW_NSEC);
	if (getenv("GODWIT_TIMES"))
		fprintf(stderr, "%s\n", err.text);
}

Test(qemu_guest, a_spoiled_state_fails_and_the_source_runs_on)
{
	load_failure_is_told(spoil_content);
}

Test(qemu_guest, half_a_state_fails_and_the_source_runs_on)
{
	load_failure_is_told(spoil_end);
}
