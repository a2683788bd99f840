/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc tells about a process that we want to attach to. */
#include "userfault/proc.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Copies what follows "@field:" in the status of a thread to @ret: 0 or -ENOENT. */
static int status_line(pid_t pid, pid_t tid, const char *field, char *ret, size_t size)
{
	char path[64], line[256];
	size_t len = strlen(field);
	int found = -ENOENT;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	file = fopen(path, "re");
	if (!file)
		return -ENOENT;
	while (found && fgets(line, sizeof(line), file)) {
		if (strncmp(line, field, len) || line[len] != ':')
			continue;
		snprintf(ret, size, "%s", line + len + 1 + strspn(line + len + 1, " \t"));
		found = 0;
	}
	fclose(file);
	return found;
}

long gw_proc_status(pid_t pid, pid_t tid, const char *field)
{
	char text[64];

	return status_line(pid, tid, field, text, sizeof(text)) ? -1
								: strtol(text, NULL, 10);
}

char gw_proc_state(pid_t pid, pid_t tid)
{
	char text[64];

	return status_line(pid, tid, "State", text, sizeof(text)) ? 0 : text[0];
}

unsigned int gw_proc_threads(pid_t pid, pid_t *ret)
{
	unsigned int n = 0;
	struct dirent *entry;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return 0;
	ret[n++] = pid;
	while (n < GW_THREADS_MAX && (entry = readdir(dir))) {
		pid_t tid = (pid_t)atoi(entry->d_name);

		if (tid > 0 && tid != pid)
			ret[n++] = tid;
	}
	closedir(dir);
	return n;
}

/* The first line of a small file, or "" when it cannot be read. */
static void read_line(const char *path, char *ret, size_t size)
{
	FILE *file = fopen(path, "re");

	ret[0] = '\0';
	if (!file)
		return;
	if (fgets(ret, (int)size, file))
		ret[strcspn(ret, "\n")] = '\0';
	fclose(file);
}

static int explain_tracer(pid_t pid, pid_t tracer, struct gw_err *err)
{
	char path[64], name[64];

	snprintf(path, sizeof(path), "/proc/%d/comm", tracer);
	read_line(path, name, sizeof(name));
	return gw_err_set(
		err, -EBUSY,
		"process %d is traced by process %d (%s), and a process can have "
		"only one tracer: end that debugger or trace, then try again",
		pid, tracer, name[0] ? name : "unknown");
}

static int explain_permission(pid_t pid, struct gw_err *err)
{
	long uid = gw_proc_status(pid, pid, "Uid");
	char scope[16];

	if (uid >= 0 && geteuid() && (uid_t)uid != geteuid())
		return gw_err_set(
			err, -EPERM,
			"process %d runs as user %ld and this one as user %u: run it "
			"with sudo, or as user %ld, or give the program the right "
			"with `setcap cap_sys_ptrace+ep`",
			pid, uid, geteuid(), uid);
	read_line("/proc/sys/kernel/yama/ptrace_scope", scope, sizeof(scope));
	if (!strcmp(scope, "3"))
		return gw_err_set(
			err, -EPERM,
			"kernel.yama.ptrace_scope is 3: this machine lets nobody "
			"attach to process %d until it is booted with less",
			pid);
	if (scope[0] > '0' && geteuid())
		return gw_err_set(
			err, -EPERM,
			"kernel.yama.ptrace_scope is %s, so attaching to process %d "
			"needs sudo, `setcap cap_sys_ptrace+ep`, or `sysctl "
			"kernel.yama.ptrace_scope=0`",
			scope, pid);
	return gw_err_set(
		err, -EPERM,
		"the kernel does not let us attach to process %d: run with sudo or "
		"`setcap cap_sys_ptrace+ep`; in a container allow SYS_PTRACE; else a "
		"security module (SELinux, AppArmor) forbids it",
		pid);
}

int gw_proc_explain_refusal(pid_t pid, struct gw_err *err)
{
	pid_t tids[GW_THREADS_MAX];
	unsigned int n = gw_proc_threads(pid, tids), i;
	char state;

	for (i = 0; i < n; i++) {
		long tracer = gw_proc_status(pid, tids[i], "TracerPid");

		if (tracer > 0 && tracer != getpid())
			return explain_tracer(pid, (pid_t)tracer, err);
	}
	state = gw_proc_state(pid, pid);
	if (!state || state == 'X' || state == 'Z')
		return gw_err_set(err, -ESRCH, "process %d has ended", pid);
	return explain_permission(pid, err);
}
