/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Taking a userfaultfd from running processes, which must not notice. */
#include "userfault/attach.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "userfault_child.h"

/* A test that waits for ever has failed. */
TestSuite(attach, .timeout = 30);

#define NOBODY 65534

/* Whether this kernel and user can do it at all, else why not. */
static void need_uffd(enum gw_uffd_need need)
{
	struct gw_err err = {};
	struct gw_uffd uffd;

	if (gw_uffd_attach(0, need, false, NULL, &err, &uffd))
		cr_skip_test("%s", err.text);
	gw_uffd_detach(&uffd);
	if (geteuid())
		cr_skip_test("not root: the children's userfaultfd may be refused");
}

static void attach_once(pid_t pid, enum gw_uffd_need need)
{
	struct gw_err err = {};
	struct gw_uffd uffd = {.fd = -1};
	int r = gw_uffd_attach(pid, need, false, NULL, &err, &uffd);

	cr_assert_eq(r, 0, "%s", err.text);
	cr_assert_geq(uffd.fd, 0);
	cr_assert_eq(uffd.pid, pid);
	cr_assert_eq(uffd.remote_fd, -1);
	gw_uffd_detach(&uffd);
	cr_assert_eq(uffd.fd, -1);
}

Test(attach, our_own_process_needs_no_tracing)
{
	struct gw_uffd uffd;

	need_uffd(GW_UFFD_TRACK);
	cr_assert_eq(gw_uffd_attach(getpid(), GW_UFFD_TRACK, false, NULL, NULL, &uffd),
		     0);
	cr_assert_eq(count_uffds(getpid()), 1);
	cr_assert_eq(gw_uffd_release(&uffd, NULL), 0);
	cr_assert_eq(count_uffds(getpid()), 0);
}

/* Closing the last one would let waiting threads go on and read zeroes. */
Test(attach, our_own_process_keeps_a_reference_when_told_to)
{
	struct gw_uffd uffd;

	need_uffd(GW_UFFD_FAULTS);
	cr_assert_eq(gw_uffd_attach(0, GW_UFFD_FAULTS, true, NULL, NULL, &uffd), 0);
	cr_assert_eq(count_uffds(getpid()), 2);
	gw_uffd_detach(&uffd);
	cr_assert_eq(count_uffds(getpid()), 1);
}

Test(attach, releasing_our_own_process_closes_the_kept_reference)
{
	struct gw_uffd uffd;

	need_uffd(GW_UFFD_FAULTS);
	cr_assert_eq(gw_uffd_attach(0, GW_UFFD_FAULTS, true, NULL, NULL, &uffd), 0);
	cr_assert_eq(gw_uffd_release(&uffd, NULL), 0);
	cr_assert_eq(count_uffds(getpid()), 0);
}

/* ---- what the process was doing goes on ---- */

static int poll_until_told(int in, int out, void *opaque)
{
	struct pollfd pfd = {.fd = in, .events = POLLIN};

	say(out);
	return poll(&pfd, 1, -1) == 1 ? 0 : errno;
}

Test(attach, a_process_that_polls_goes_on_polling)
{
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(poll_until_told, NULL);
	hear(child.from);
	await_state(child.pid, 'S');
	for (int i = 0; i < 20; i++)
		attach_once(child.pid, i % 2 ? GW_UFFD_TRACK : GW_UFFD_FAULTS);
	await_state(child.pid, 'S');
	cr_assert_eq(gw_proc_status(child.pid, child.pid, "TracerPid"), 0);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

/* Exit status 0 when the wait lasted as long as it should and was not cut short. */
static int lasted(int r, uint64_t start)
{
	uint64_t ns = gw_now() - start;

	return r ? 1 : ns < 400 * 1000000ULL ? 2 : ns > 10 * GW_NSEC ? 3 : 0;
}

static int sleep_a_while(int in, int out, void *opaque)
{
	uint64_t start = gw_now();

	say(out);
	return lasted(nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL), start);
}

static int poll_a_while(int in, int out, void *opaque)
{
	uint64_t start = gw_now();

	say(out);
	return lasted(poll(NULL, 0, 400), start);
}

static int ppoll_a_while(int in, int out, void *opaque)
{
	uint64_t start = gw_now();
	sigset_t mask;

	say(out);
	sigfillset(&mask);
	return lasted(ppoll(NULL, 0, &(struct timespec){.tv_nsec = 400000000}, &mask),
		      start);
}

static int futex_a_while(int in, int out, void *opaque)
{
	struct timespec limit = {.tv_nsec = 400000000};
	uint64_t start = gw_now();
	uint32_t word = 0;
	long r;

	say(out);
	r = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &limit, NULL, 0);
	return lasted(r != -1 || errno != ETIMEDOUT, start);
}

static void attach_while(child_fn fn)
{
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(fn, NULL);
	hear(child.from);
	await_state(child.pid, 'S');
	for (int i = 0; i < 20; i++)
		attach_once(child.pid, GW_UFFD_TRACK);
	cr_assert_eq(child_end(&child), 0);
}

Test(attach, a_nanosleep_lasts_as_long_as_it_should)
{
	attach_while(sleep_a_while);
}

Test(attach, a_poll_with_a_time_limit_lasts_as_long_as_it_should)
{
	attach_while(poll_a_while);
}

Test(attach, a_ppoll_with_a_signal_mask_lasts_as_long_as_it_should)
{
	attach_while(ppoll_a_while);
}

Test(attach, a_futex_wait_lasts_as_long_as_it_should)
{
	attach_while(futex_a_while);
}

/* Integer and floating point registers, all in use between attaches. */
static uint64_t checksum(uint64_t rounds)
{
	uint64_t a = 1, b = 2, c = 3, d = 4;
	double x = 1.0, y = 2.0;

	for (uint64_t i = 0; i < rounds; i++) {
		a = a * 6364136223846793005ULL + b;
		b ^= c >> 7;
		c += d * i;
		d = (d << 13 | d >> 51) ^ a;
		x = x * 1.0000001 + y;
		y = y * 0.9999999 - x * 1e-12;
	}
	return a ^ b ^ c ^ d ^ (uint64_t)(x * 1000) ^ (uint64_t)(y * 1000);
}

#define CHECKSUM_ROUNDS 20000000

static int compute_until_told(int in, int out, void *opaque)
{
	uint64_t good = *(uint64_t *)opaque;
	struct pollfd pfd = {.fd = in, .events = POLLIN};

	say(out);
	do {
		if (checksum(CHECKSUM_ROUNDS) != good)
			return 1;
	} while (!poll(&pfd, 1, 0));
	return 0;
}

Test(attach, a_busy_process_computes_the_right_thing, .timeout = 60)
{
	uint64_t good = checksum(CHECKSUM_ROUNDS);
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(compute_until_told, &good);
	hear(child.from);
	for (int i = 0; i < 100; i++)
		attach_once(child.pid, GW_UFFD_TRACK);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

#if defined(__x86_64__)

/*
 * Spins in a restartable sequence until told. The kernel clears the thread's
 * rseq_cs when it sees it outside the sequence; going on inside with that gone
 * would be status 1: the thread was moved and put back unprotected.
 */
static int spin_in_rseq(int in, int out, void *opaque)
{
	volatile uint32_t *stop = opaque;
	uint32_t unprotected = 0;
	char *rseq = (char *)__builtin_thread_pointer() + __rseq_offset;

	say(out);
	__asm__ volatile(".pushsection .data.rseq_test, \"aw\"\n"
			 ".balign 32\n"
			 "3: .long 0, 0\n"
			 ".quad 1f, 2f - 1f, 4f\n"
			 ".popsection\n"
			 "5: leaq 3b(%%rip), %%rax\n"
			 "movq %%rax, 8(%[rseq])\n"
			 "1: cmpq $0, 8(%[rseq])\n"
			 "je 6f\n"
			 "cmpl $0, (%[stop])\n"
			 "je 1b\n"
			 "2: jmp 7f\n"
			 ".long 0x53053053\n" /* what the kernel wants before it */
			 "4: jmp 5b\n"
			 "6: movl $1, %[unprotected]\n"
			 "7:\n"
			 : [unprotected] "+r"(unprotected)
			 : [rseq] "r"(rseq), [stop] "r"(stop)
			 : "rax", "memory", "cc");
	*(volatile uint64_t *)(rseq + 8) = 0;
	return (int)unprotected;
}

Test(attach, a_restartable_sequence_is_aborted_and_not_broken)
{
	uint32_t *stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	if (!__rseq_size)
		cr_skip_test("libc has not registered restartable sequences");
	child = child_start(spin_in_rseq, stop);
	hear(child.from);
	for (int i = 0; i < 20; i++)
		attach_once(child.pid, GW_UFFD_TRACK);
	__atomic_store_n(stop, 1, __ATOMIC_RELAXED);
	cr_assert_eq(child_end(&child), 0);
}

#endif

struct spinners {
	int spinning; /* threads that have begun */
	bool end;
};

static void *spin_thread(void *opaque)
{
	struct spinners *all = opaque;
	uint64_t n = 0;

	while (!__atomic_load_n(&all->end, __ATOMIC_RELAXED))
		if (!n++)
			__atomic_fetch_add(&all->spinning, 1, __ATOMIC_RELAXED);
	return (void *)(uintptr_t)(n > 0);
}

static int run_threads(int in, int out, void *opaque)
{
	struct spinners all = {0};
	pthread_t threads[4];
	void *good;

	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, spin_thread, &all);
	while (__atomic_load_n(&all.spinning, __ATOMIC_RELAXED) < 4)
		usleep(1000);
	say(out);
	hear(in);
	__atomic_store_n(&all.end, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 4; i++)
		if (pthread_join(threads[i], &good) || !good)
			return 1;
	return 0;
}

Test(attach, a_process_of_many_threads_goes_on)
{
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(run_threads, NULL);
	hear(child.from);
	for (int i = 0; i < 20; i++)
		attach_once(child.pid, GW_UFFD_TRACK);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

static void *outlive_main_thread(void *opaque)
{
	int *ends = opaque;

	say(ends[1]);
	hear(ends[0]);
	_exit(0);
}

/* The main thread waits in vfork(), which nothing but the child's end can interrupt. */
static int wait_for_vfork(int in, int out, void *opaque)
{
	int ends[] = {in, out};
	pthread_t thread;

	pthread_create(&thread, NULL, outlive_main_thread, ends);
	if (!vfork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return 1;
}

Test(attach, another_thread_is_taken_when_the_main_thread_cannot_be_stopped)
{
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(wait_for_vfork, NULL);
	hear(child.from);
	await_state(child.pid, 'D');
	attach_once(child.pid, GW_UFFD_TRACK);
	cr_assert_eq(gw_proc_status(child.pid, child.pid, "TracerPid"), 0);
	await_state(child.pid, 'D');
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

/* ---- stops and signals ---- */

Test(attach, a_stopped_process_stays_stopped)
{
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(poll_until_told, NULL);
	hear(child.from);
	kill(child.pid, SIGSTOP);
	await_state(child.pid, 'T');
	say(child.to);
	for (int i = 0; i < 20; i++)
		attach_once(child.pid, GW_UFFD_TRACK);
	usleep(20000); /* for a process that wrongly runs to come to its end */
	await_state(child.pid, 'T');
	kill(child.pid, SIGCONT);
	cr_assert_eq(child_end(&child), 0);
}

Test(attach, a_stopped_sleep_goes_on_when_continued)
{
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(sleep_a_while, NULL);
	hear(child.from);
	await_state(child.pid, 'S');
	kill(child.pid, SIGSTOP);
	await_state(child.pid, 'T');
	attach_once(child.pid, GW_UFFD_TRACK);
	await_state(child.pid, 'T');
	kill(child.pid, SIGCONT);
	cr_assert_eq(child_end(&child), 0);
}

#define SIGNALS 2000

static volatile sig_atomic_t signals_seen;
static volatile long signals_sum;

static void on_signal(int signo, siginfo_t *info, void *context)
{
	signals_seen++;
	signals_sum += info->si_value.sival_int;
}

static int count_signals(int in, int out, void *opaque)
{
	struct sigaction action = {.sa_sigaction = on_signal,
				   .sa_flags = SA_SIGINFO | SA_RESTART};

	sigaction(SIGRTMIN, &action, NULL);
	sigaction(SIGTRAP, &action, NULL);
	say(out);
	hear(in);
	return signals_seen != SIGNALS ? 1 : signals_sum != SIGNALS * (SIGNALS - 1L) / 2;
}

static void *send_signals(void *opaque)
{
	pid_t pid = *(pid_t *)opaque;

	for (int i = 0; i < SIGNALS; i++) {
		while (sigqueue(pid, SIGRTMIN, (union sigval){.sival_int = i}))
			usleep(100);
		usleep(20);
	}
	return NULL;
}

Test(attach, signals_that_come_meanwhile_are_all_delivered, .timeout = 60)
{
	struct child child;
	pthread_t thread;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(count_signals, NULL);
	hear(child.from);
	pthread_create(&thread, NULL, send_signals, &child.pid);
	for (int i = 0; i < 100; i++)
		attach_once(child.pid, GW_UFFD_TRACK);
	pthread_join(thread, NULL);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

/* ---- what is left behind ---- */

Test(attach, nothing_is_left_in_the_process_that_need_not_keep_it)
{
	struct gw_uffd uffd;
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(poll_until_told, NULL);
	hear(child.from);
	cr_assert_eq(gw_uffd_attach(child.pid, GW_UFFD_TRACK, false, NULL, NULL, &uffd),
		     0);
	cr_assert_eq(count_uffds(child.pid), 0);
	cr_assert_eq(gw_uffd_release(&uffd, NULL), 0);
	child_kill(&child);
}

Test(attach, a_kept_descriptor_is_one_and_goes_with_release)
{
	struct gw_uffd uffd;
	struct child child;

	need_uffd(GW_UFFD_FAULTS);
	child = child_start(poll_until_told, NULL);
	hear(child.from);
	cr_assert_eq(gw_uffd_attach(child.pid, GW_UFFD_FAULTS, true, NULL, NULL, &uffd),
		     0);
	cr_assert_geq(uffd.remote_fd, 0);
	cr_assert_eq(count_uffds(child.pid), 1);
	cr_assert_eq(gw_uffd_release(&uffd, NULL), 0);
	cr_assert_eq(count_uffds(child.pid), 0);
	cr_assert_eq(uffd.fd, -1);
	cr_assert_eq(uffd.remote_fd, -1);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

Test(attach, detaching_leaves_the_process_its_descriptor)
{
	struct gw_uffd uffd;
	struct child child;

	need_uffd(GW_UFFD_FAULTS);
	child = child_start(poll_until_told, NULL);
	hear(child.from);
	cr_assert_eq(gw_uffd_attach(child.pid, GW_UFFD_FAULTS, true, NULL, NULL, &uffd),
		     0);
	gw_uffd_detach(&uffd);
	cr_assert_eq(count_uffds(child.pid), 1);
	child_kill(&child);
}

/* Told once it puts another file at the descriptor number it is told. */
static int replace_descriptor(int in, int out, void *opaque)
{
	int fd;

	say(out);
	if (read(in, &fd, sizeof(fd)) != sizeof(fd) || dup2(in, fd) != fd)
		return 1;
	say(out);
	hear(in);
	return fcntl(fd, F_GETFD) < 0;
}

Test(attach, release_does_not_close_what_the_process_has_put_there_since)
{
	struct gw_uffd uffd;
	struct child child;

	need_uffd(GW_UFFD_FAULTS);
	child = child_start(replace_descriptor, NULL);
	hear(child.from);
	cr_assert_eq(gw_uffd_attach(child.pid, GW_UFFD_FAULTS, true, NULL, NULL, &uffd),
		     0);
	cr_assert_eq(write(child.to, &uffd.remote_fd, sizeof(int)), sizeof(int));
	hear(child.from);
	cr_assert_eq(gw_uffd_release(&uffd, NULL), 0);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

Test(attach, releasing_a_process_that_is_gone_is_fine)
{
	struct gw_uffd uffd;
	struct child child;

	need_uffd(GW_UFFD_FAULTS);
	child = child_start(poll_until_told, NULL);
	hear(child.from);
	cr_assert_eq(gw_uffd_attach(child.pid, GW_UFFD_FAULTS, true, NULL, NULL, &uffd),
		     0);
	child_kill(&child);
	cr_assert_eq(gw_uffd_release(&uffd, NULL), 0);
}

/* ---- refusals ---- */

static int attach_fails(pid_t pid, struct gw_err *err)
{
	struct gw_uffd uffd = {.fd = 4711};
	int r = gw_uffd_attach(pid, GW_UFFD_TRACK, true, NULL, err, &uffd);

	cr_assert_lt(r, 0);
	cr_assert_eq(err->code, r);
	cr_assert_eq(uffd.fd, 4711, "the output was touched");
	return r;
}

static int trace_other(int in, int out, void *opaque)
{
	pid_t pid = *(pid_t *)opaque;

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL))
		return 1;
	say(out);
	hear(in);
	return 0;
}

Test(attach, another_tracer_is_named)
{
	struct child child = child_start(poll_until_told, NULL), tracer;
	struct gw_err err = {};
	char name[32];

	hear(child.from);
	tracer = child_start(trace_other, &child.pid);
	hear(tracer.from);
	cr_assert_eq(attach_fails(child.pid, &err), -EBUSY);
	snprintf(name, sizeof(name), "by process %d (", tracer.pid);
	cr_assert(strstr(err.text, name), "%s", err.text);
	say(tracer.to);
	cr_assert_eq(child_end(&tracer), 0);
	child_kill(&child);
}

Test(attach, a_process_that_is_gone_is_refused)
{
	struct child child = child_start(poll_until_told, NULL);
	struct gw_err err = {};

	child_kill(&child);
	cr_assert_eq(attach_fails(child.pid, &err), -ESRCH);
	cr_assert(strstr(err.text, "no process"), "%s", err.text);
}

Test(attach, a_zombie_is_refused_as_gone)
{
	struct child child = child_start(poll_until_told, NULL);
	struct gw_err err = {};

	kill(child.pid, SIGKILL);
	await_state(child.pid, 'Z');
	cr_assert_eq(attach_fails(child.pid, &err), -ESRCH);
	child_kill(&child);
}

/* ---- who may create a userfaultfd ---- */

static void become_nobody(void)
{
	cr_assert(!setresgid(NOBODY, NOBODY, NOBODY) &&
		  !setresuid(NOBODY, NOBODY, NOBODY));
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static int nobody_polls(int in, int out, void *opaque)
{
	become_nobody();
	return poll_until_told(in, out, opaque);
}

Test(attach, a_process_without_rights_works_or_the_remedies_are_named)
{
	struct gw_uffd uffd = {.fd = -1};
	struct gw_err err = {};
	struct child child;
	int r;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(nobody_polls, NULL);
	hear(child.from);
	r = gw_uffd_attach(child.pid, GW_UFFD_TRACK, false, NULL, &err, &uffd);
	if (r) {
		cr_assert_eq(r, -EPERM);
		cr_assert(strstr(err.text, "vm.unprivileged_userfaultfd=1"), "%s",
			  err.text);
		cr_assert(strstr(err.text, "/dev/userfaultfd"), "%s", err.text);
		cr_assert(strstr(err.text, "CAP_SYS_PTRACE"), "%s", err.text);
	}
	cr_assert_eq(count_uffds(child.pid), 0);
	gw_uffd_detach(&uffd);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

/* Root that may open the device but not call userfaultfd(). */
static int drop_ptrace_and_poll(int in, int out, void *opaque)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		return 1;
	data[0].effective &= ~(1U << CAP_SYS_PTRACE);
	data[0].permitted &= ~(1U << CAP_SYS_PTRACE);
	if (syscall(SYS_capset, &header, data))
		return 1;
	return poll_until_told(in, out, opaque);
}

Test(attach, the_device_is_used_where_the_system_call_is_refused)
{
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	if (access("/dev/userfaultfd", R_OK | W_OK))
		cr_skip_test("no /dev/userfaultfd here");
	child = child_start(drop_ptrace_and_poll, NULL);
	hear(child.from);
	for (int i = 0; i < 5; i++)
		attach_once(child.pid, GW_UFFD_TRACK);
	cr_assert_eq(count_uffds(child.pid), 0);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

static int attach_as_nobody(int in, int out, void *opaque)
{
	pid_t pid = *(pid_t *)opaque;
	struct gw_err err = {};
	struct gw_uffd uffd;

	become_nobody();
	if (gw_uffd_attach(pid, GW_UFFD_TRACK, false, NULL, &err, &uffd) != -EPERM)
		return 1;
	return strstr(err.text, "sudo") && strstr(err.text, "cap_sys_ptrace") ? 0 : 2;
}

Test(attach, a_process_of_another_user_is_refused_with_the_command_to_use)
{
	struct child child, nobody;

	if (geteuid())
		cr_skip_test("not root: cannot become another user");
	child = child_start(poll_until_told, NULL);
	hear(child.from);
	nobody = child_start(attach_as_nobody, &child.pid);
	cr_assert_eq(child_end(&nobody), 0);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

/* A seccomp filter that answers userfaultfd() with @action. */
static int filter_userfaultfd(uint32_t action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = GW_ARRAY_SIZE(code), .filter = code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int filtered_root_polls(int in, int out, void *opaque)
{
	return filter_userfaultfd(SECCOMP_RET_KILL_PROCESS)
		       ? 9
		       : poll_until_told(in, out, NULL);
}

Test(attach, a_seccomp_filter_that_kills_is_suspended_by_root)
{
	struct child child;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(filtered_root_polls, NULL);
	hear(child.from);
	attach_once(child.pid, GW_UFFD_TRACK);
	cr_assert_eq(gw_proc_status(child.pid, child.pid, "Seccomp"), 2);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}

static int filtered_nobody_polls(int in, int out, void *opaque)
{
	become_nobody();
	return filter_userfaultfd(SECCOMP_RET_TRAP) ? 9 : poll_until_told(in, out, NULL);
}

static int attach_to_filtered(int in, int out, void *opaque)
{
	pid_t pid = *(pid_t *)opaque;
	struct gw_err err = {};
	struct gw_uffd uffd;

	become_nobody();
	return gw_uffd_attach(pid, GW_UFFD_TRACK, false, NULL, &err, &uffd) == -EPERM &&
			       strstr(err.text, "may not create")
		       ? 0
		       : 1;
}

Test(attach, a_seccomp_filter_that_traps_is_survived_without_rights)
{
	struct child child, nobody;

	need_uffd(GW_UFFD_TRACK);
	child = child_start(filtered_nobody_polls, NULL);
	hear(child.from);
	nobody = child_start(attach_to_filtered, &child.pid);
	cr_assert_eq(child_end(&nobody), 0);
	say(child.to);
	cr_assert_eq(child_end(&child), 0);
}
