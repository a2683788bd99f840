/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Having another process run a few system calls for us.
 *
 * One thread is seized and stopped, made to run `syscall` instructions that
 * are already somewhere in its address space, given back its registers and
 * signal mask, and let go.
 *
 * What makes it hard is leaving no trace:
 *  - A thread that waits in a system call stops with the call's own "restart
 *    me" code in its registers. They are given back in a stop inside the
 *    kernel's signal code (PTRACE_EVENT_STOP), which then restarts the call as
 *    if nothing had been; for our own calls orig_rax is -1, "not in a call".
 *  - Signals are blocked meanwhile, so that they stay queued with all they
 *    carry. SIGSTOP cannot be and is passed on. SIGTRAP and SIGSYS must not
 *    be: when the kernel itself has to raise a blocked one, it resets the
 *    handler. These two are kept and queued again at the end.
 *  - Calls are followed with PTRACE_SYSCALL and not by single steps, which
 *    raise a real SIGTRAP.
 *  - A restartable sequence that was interrupted is sent to its abort address,
 *    where the kernel would have sent it had anything else preempted it.
 *  - A seccomp filter is suspended when we may; otherwise a filter that traps
 *    is seen, and its SIGSYS swallowed. (One that kills cannot be survived, but
 *    those of QEMU allow what is called here.)
 *
 * Limits: a system call that the kernel never restarts (epoll_wait, KVM_RUN)
 * returns EINTR to its caller, as it would after SIGSTOP and SIGCONT. Should
 * this process be killed while the thread is held (0.2 ms), the thread goes on
 * with our registers: nothing can prevent that.
 *
 * Ptrace belongs to a thread: all of it happens in one that is made for the
 * purpose. When it ends the kernel lets go of all that it has seized, even of
 * a thread that sits in an uninterruptible wait and never stopped.
 */
#include "userfault/inject.h"

#if defined(__x86_64__)

#include <elf.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "base/util.h"
#include "userfault/maps.h"
#include "userfault/proc.h"

/* How long a thread may take to stop before the next one is tried. */
#define STOP_LIMIT_NS (300 * 1000 * 1000ULL)
/* How long waiting burns CPU first: a stop comes within 20 to 100 µs. */
#define SPIN_NS	     (300 * 1000ULL)
#define WAIT_STEP_NS (200 * 1000L)
#define NO_LIMIT     UINT64_MAX

#define RED_ZONE	128 /* below the stack pointer, in use by leaf functions */
#define BYTES_MAX	64
#define INSTRUCTION_LEN 2
#define KERNEL_SIGSET	8 /* bytes; libc's type is larger */
#define USER64_CS	0x33
#define SECCOMP_TRAPPED 1 /* si_code SYS_SECCOMP */
#define PAGE		4096
#define CODE_CHUNK	65536

static const unsigned char syscall_instruction[INSTRUCTION_LEN] = {0x0f, 0x05};

enum stop {
	STOP_EVENT,   /* the stop we asked for, or a group-stop */
	STOP_SYSCALL, /* entry to or exit from a system call */
	STOP_SIGNAL,  /* about to get a signal */
};

struct gw_inject {
	pid_t pid, tid;
	const struct gw_log *log;
	struct gw_err *err;
	gw_inject_fn fn;
	void *opaque;
	int result;
	uint64_t instruction;	      /* address of a `syscall` in the process */
	struct user_regs_struct regs; /* as found */
	uint64_t mask;		      /* of signals, as found */
	bool filtered;		      /* a seccomp filter is in force */
	int signal;		      /* in STOP_SIGNAL: which */
	uint64_t bytes_address;	      /* 0: nothing written */
	size_t bytes_size;
	unsigned char bytes[BYTES_MAX]; /* what was there */
	siginfo_t kept[2]; /* SIGTRAP and SIGSYS from elsewhere, to queue again */
	unsigned int n_kept;
};

static long trace(const struct gw_inject *in, int request, uintptr_t addr, void *data)
{
	long r = ptrace(request, in->tid, (void *)addr, data);

	return r < 0 ? -errno : r;
}

static bool thread_ended(const struct gw_inject *in)
{
	char state = gw_proc_state(in->pid, in->tid);

	return !state || state == 'Z' || state == 'X';
}

/*
 * Waits for the thread's next stop. There is no descriptor to poll for it and
 * a blocking wait has no time limit, hence the loop; it spins first since
 * waking up costs more than the whole stop.
 */
static int wait_status(const struct gw_inject *in, uint64_t limit_ns, int *ret)
{
	uint64_t start = gw_now(), waited;
	pid_t r;

	for (;;) {
		r = waitpid(in->tid, ret, __WALL | WNOHANG);
		if (r == in->tid)
			return WIFSTOPPED(*ret) ? 0 : -ESRCH;
		if (r < 0 && errno != EINTR)
			return -ESRCH;
		waited = gw_now() - start;
		if (waited > limit_ns)
			return -ETIMEDOUT;
		/* A main thread that ended is not reported before all others are. */
		if (waited > STOP_LIMIT_NS && thread_ended(in))
			return -ESRCH;
		if (waited > SPIN_NS)
			nanosleep(&(struct timespec){.tv_nsec = WAIT_STEP_NS}, NULL);
		else
			sched_yield();
	}
}

static int wait_stop(struct gw_inject *in, uint64_t limit_ns, enum stop *ret)
{
	int status, r = wait_status(in, limit_ns, &status);

	if (r < 0)
		return r;
	in->signal = WSTOPSIG(status);
	if (status >> 16 == PTRACE_EVENT_STOP)
		*ret = STOP_EVENT;
	else if (in->signal == (SIGTRAP | 0x80))
		*ret = STOP_SYSCALL;
	else
		*ret = STOP_SIGNAL;
	return 0;
}

/* Keeps a signal that stopped us half-way, to be queued again at the end. */
static void keep_signal(struct gw_inject *in)
{
	siginfo_t info;

	if (trace(in, PTRACE_GETSIGINFO, 0, &info) < 0)
		return;
	if (info.si_signo == SIGSYS && info.si_code == SECCOMP_TRAPPED)
		return; /* raised by our own call */
	if (in->n_kept < GW_ARRAY_SIZE(in->kept))
		in->kept[in->n_kept++] = info;
}

static void queue_kept(struct gw_inject *in)
{
	for (unsigned int i = 0; i < in->n_kept; i++) {
		siginfo_t *info = &in->kept[i];

		/* What kill() sent may not be queued by others with its details. */
		if (syscall(SYS_rt_tgsigqueueinfo, in->pid, in->tid, info->si_signo,
			    info))
			syscall(SYS_tgkill, in->pid, in->tid, info->si_signo);
	}
}

/*
 * Lets the held thread run with @request until the stop @want. There is no time
 * limit: a thread that runs with our registers must not be left.
 */
static int run_until(struct gw_inject *in, int request, enum stop want)
{
	uintptr_t pass = 0;
	enum stop stop;
	int r;

	do {
		r = (int)trace(in, request, 0, (void *)pass);
		if (r < 0)
			return r;
		r = wait_stop(in, NO_LIMIT, &stop);
		if (r < 0)
			return r;
		pass = 0;
		if (stop != STOP_SIGNAL)
			continue;
		if (in->signal == SIGSTOP)
			pass = SIGSTOP;
		else
			keep_signal(in);
	} while (stop != want);
	return 0;
}

static bool reads(pid_t pid, uint64_t address, void *to, size_t size)
{
	struct iovec local = {to, size}, remote = {(void *)address, size};

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

static bool writes(pid_t pid, uint64_t address, const void *from, size_t size)
{
	struct iovec local = {(void *)from, size}, remote = {(void *)address, size};

	return process_vm_writev(pid, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

/* Looks for the instruction in @pid's [@start, @end): its address or 0. */
static uint64_t search_code(pid_t pid, uint64_t start, uint64_t end)
{
	GW_AUTO_FREE unsigned char *code = malloc(CODE_CHUNK);

	while (code && start < end) {
		size_t size = GW_MIN(CODE_CHUNK, end - start);
		unsigned char *found;

		if (!reads(pid, start, code, size))
			return 0;
		found = memmem(code, size, syscall_instruction, INSTRUCTION_LEN);
		if (found)
			return start + (uint64_t)(found - code);
		start += size;
	}
	return 0;
}

static int search_mapping(const struct gw_map *map, void *opaque)
{
	struct gw_inject *in = opaque;

	/* [vsyscall] is traps, not code. */
	if (map->perms[2] == 'x' && map->perms[0] == 'r' && (int64_t)map->start > 0)
		in->instruction = search_code(in->pid, map->start, map->end);
	return in->instruction != 0;
}

/* Where the kernel put the vdso, or 0. */
static uint64_t vdso_address(pid_t pid)
{
	Elf64_auxv_t auxv[64];
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/auxv", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, auxv, sizeof(auxv));
	close(fd);
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(auxv[0]); i++)
		if (auxv[i].a_type == AT_SYSINFO_EHDR)
			return auxv[i].a_un.a_val;
	return 0;
}

/* Before the thread is stopped: finding the instruction takes longer than using it. */
static void find_instruction(struct gw_inject *in)
{
	uint64_t vdso = vdso_address(in->pid);

	/* Its size is in no auxv entry, so page by page: one or two there are. */
	if (vdso)
		in->instruction =
			search_code(in->pid, vdso, vdso + PAGE)
				?: search_code(in->pid, vdso + PAGE, vdso + 2 * PAGE);
	if (!in->instruction)
		gw_maps_walk(in->pid, search_mapping, in, NULL);
}

/* Seizes the thread; its seccomp filter is suspended where we may do that. */
static int seize(struct gw_inject *in)
{
	uintptr_t options = PTRACE_O_TRACESYSGOOD;
	long r;

	in->filtered = gw_proc_status(in->pid, in->tid, "Seccomp") > 0;
	if (in->filtered) {
		r = trace(in, PTRACE_SEIZE, 0,
			  (void *)(options | PTRACE_O_SUSPEND_SECCOMP));
		in->filtered = r < 0;
		if (r >= 0)
			return 0;
	}
	return (int)trace(in, PTRACE_SEIZE, 0, (void *)options);
}

/*
 * Stops the seized thread. A signal that was on its way is delivered first: its
 * handler is set up but does not run before our stop.
 */
static int stop_thread(struct gw_inject *in)
{
	int r = (int)trace(in, PTRACE_INTERRUPT, 0, NULL);
	enum stop stop;

	while (!r) {
		r = wait_stop(in, STOP_LIMIT_NS, &stop);
		if (r < 0 || stop == STOP_EVENT)
			return r;
		r = (int)trace(in, PTRACE_CONT, 0,
			       (void *)(uintptr_t)(stop == STOP_SIGNAL ? in->signal : 0));
	}
	return r;
}

/*
 * Sends a thread that was stopped inside a restartable sequence to the abort
 * address: our calls end the sequence behind its back.
 */
static void abort_rseq(struct gw_inject *in)
{
	struct __ptrace_rseq_configuration conf;
	struct {
		uint32_t version, flags;
		uint64_t start, length, abort;
	} section;
	uint64_t pointer = 0;

	if (trace(in, PTRACE_GET_RSEQ_CONFIGURATION, sizeof(conf), &conf) < 0)
		return;
	/* struct rseq: cpu_id_start and cpu_id (32 bits each), then rseq_cs. */
	if (!conf.rseq_abi_pointer ||
	    !reads(in->pid, conf.rseq_abi_pointer + 8, &pointer, sizeof(pointer)))
		return;
	if (!pointer || !reads(in->pid, pointer, &section, sizeof(section)))
		return;
	if (in->regs.rip - section.start < section.length)
		in->regs.rip = section.abort;
}

/* Notes what the thread was doing and blocks its signals. */
static int prepare(struct gw_inject *in)
{
	uint64_t all = ~((1ULL << (SIGTRAP - 1)) | (1ULL << (SIGSYS - 1)));
	long r = trace(in, PTRACE_GETREGS, 0, &in->regs);

	if (r < 0)
		return (int)r;
	if (in->regs.cs != USER64_CS)
		return -ENOEXEC;
	if ((int64_t)in->regs.orig_rax < 0)
		abort_rseq(in);
	r = trace(in, PTRACE_GETSIGMASK, KERNEL_SIGSET, &in->mask);
	if (r < 0)
		return (int)r;
	return (int)trace(in, PTRACE_SETSIGMASK, KERNEL_SIGSET, &all);
}

/*
 * Gives all back and lets go. The registers are set in a PTRACE_EVENT_STOP, so
 * that the kernel's restart code looks at them once more.
 */
static int give_back(struct gw_inject *in)
{
	int r;

	if (in->bytes_address)
		writes(in->pid, in->bytes_address, in->bytes, in->bytes_size);
	r = (int)trace(in, PTRACE_INTERRUPT, 0, NULL);
	if (!r)
		r = run_until(in, PTRACE_CONT, STOP_EVENT);
	if (!r)
		r = (int)trace(in, PTRACE_SETSIGMASK, KERNEL_SIGSET, &in->mask);
	if (!r)
		r = (int)trace(in, PTRACE_SETREGS, 0, &in->regs);
	queue_kept(in);
	if (!r)
		r = (int)trace(in, PTRACE_DETACH, 0, NULL);
	return r;
}

static int failed(struct gw_inject *in, int code)
{
	if (code == -ESRCH && thread_ended(in))
		return gw_err_set(in->err, code, "process %d has ended", in->pid);
	if (code == -ENOEXEC)
		return gw_err_set(in->err, -ENOTSUP,
				  "process %d is not a 64-bit program, only these can be "
				  "attached to",
				  in->pid);
	return gw_err_errno(in->err, code, "cannot work with thread %d of process %d",
			    in->tid, in->pid);
}

/* With the thread stopped. */
static int use_thread(struct gw_inject *in)
{
	uint64_t start = gw_now();
	int r = prepare(in), back;

	if (r == -ENOEXEC) {
		trace(in, PTRACE_DETACH, 0, NULL);
		return failed(in, r);
	}
	if (!r)
		in->result = in->fn(in, in->opaque);
	back = give_back(in);
	gw_debug(in->log, "process %d: thread %d was held for %" PRIu64 " us", in->pid,
		 in->tid, (gw_now() - start) / 1000);
	if (!r && in->result < 0)
		return in->result;
	r = r ?: back;
	return r ? failed(in, r) : in->result;
}

/*
 * Tries the threads one after the other, the main thread first. One that does
 * not stop in time stays seized until this thread of ours ends; it runs on.
 */
static int hold_and_use(struct gw_inject *in)
{
	pid_t tids[GW_THREADS_MAX];
	unsigned int n = gw_proc_threads(in->pid, tids), stuck = 0, i;

	for (i = 0; i < n; i++) {
		int r;

		in->tid = tids[i];
		r = seize(in);
		if (r == -EPERM && !thread_ended(in))
			return gw_proc_explain_refusal(in->pid, in->err);
		if (r == 0)
			r = stop_thread(in);
		if (r == 0)
			return use_thread(in);
		stuck += r == -ETIMEDOUT;
	}
	if (stuck)
		return gw_err_set(
			in->err, -ETIMEDOUT,
			"no thread of process %d could be stopped: all sit in an "
			"uninterruptible wait (disk or network storage that does not "
			"answer?); try again",
			in->pid);
	return gw_err_set(in->err, -ESRCH, "there is no process %d", in->pid);
}

static void *inject_thread(void *opaque)
{
	struct gw_inject *in = opaque;

	find_instruction(in);
	in->result = hold_and_use(in);
	return NULL;
}

int gw_inject_run(pid_t pid, gw_inject_fn fn, void *opaque, const struct gw_log *log,
		  struct gw_err *err)
{
	struct gw_inject in = {
		.pid = pid, .fn = fn, .opaque = opaque, .log = log, .err = err};
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all;
	int r;

	/* No signal handler of the program we are part of may run in between. */
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setsigmask_np(&attr, &all);
	r = pthread_create(&thread, &attr, inject_thread, &in);
	pthread_attr_destroy(&attr);
	if (r)
		return gw_err_errno(err, -r, "cannot start a thread");
	pthread_join(thread, NULL);
	return in.result;
}

/* Whether a seccomp filter has just trapped our call: its SIGSYS is queued. */
static bool trapped(struct gw_inject *in)
{
	struct __ptrace_peeksiginfo_args args = {.nr = 16};
	siginfo_t infos[16];
	long n;

	if (!in->filtered)
		return false;
	n = trace(in, PTRACE_PEEKSIGINFO, (uintptr_t)&args, infos);
	for (long i = 0; i < n; i++)
		if (infos[i].si_signo == SIGSYS && infos[i].si_code == SECCOMP_TRAPPED)
			return true;
	return false;
}

int gw_inject_syscall(struct gw_inject *in, long nr, const uint64_t args[4], long *ret)
{
	struct user_regs_struct regs = in->regs;
	int r;

	if (!in->instruction)
		return -ENOEXEC;
	regs.rip = in->instruction;
	regs.rax = (uint64_t)nr;
	regs.orig_rax = (uint64_t)-1;
	regs.rdi = args[0];
	regs.rsi = args[1];
	regs.rdx = args[2];
	regs.r10 = args[3];
	r = (int)trace(in, PTRACE_SETREGS, 0, &regs);
	if (!r)
		r = run_until(in, PTRACE_SYSCALL, STOP_SYSCALL); /* entry */
	if (!r)
		r = run_until(in, PTRACE_SYSCALL, STOP_SYSCALL); /* exit */
	if (!r)
		r = (int)trace(in, PTRACE_GETREGS, 0, &regs);
	if (r < 0)
		return r;
	*ret = (long)regs.rax;
	/* What a filter traps it also skips: the register then still holds @nr. */
	while (!r && trapped(in)) {
		*ret = -EPERM;
		r = run_until(in, PTRACE_CONT, STOP_SIGNAL);
	}
	return r;
}

int gw_inject_bytes(struct gw_inject *in, const void *bytes, size_t size,
		    uint64_t *ret_address)
{
	uint64_t address = gw_align_down(in->regs.rsp - RED_ZONE - BYTES_MAX, 16);

	if (size > BYTES_MAX || in->bytes_address)
		return -EINVAL;
	if (!reads(in->pid, address, in->bytes, size) ||
	    !writes(in->pid, address, bytes, size))
		return -EFAULT;
	in->bytes_address = address;
	in->bytes_size = size;
	*ret_address = address;
	return 0;
}

#else

int gw_inject_run(pid_t pid, gw_inject_fn fn, void *opaque, const struct gw_log *log,
		  struct gw_err *err)
{
	return gw_err_set(
		err, -ENOSYS,
		"attaching to a running process is written for x86-64 only: link "
		"libgodwit into the VMM on this machine");
}

int gw_inject_syscall(struct gw_inject *in, long nr, const uint64_t args[4], long *ret)
{
	return -ENOSYS;
}

int gw_inject_bytes(struct gw_inject *in, const void *bytes, size_t size,
		    uint64_t *ret_address)
{
	return -ENOSYS;
}

#endif
