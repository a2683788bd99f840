/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The KVM probe: what it finds here, and what it says where there is nothing. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "kvm/probe.h"

/* Probes for real, or skips with the reason. */
static struct gw_kvm_probe probe_here(struct gw_err *err)
{
	struct gw_kvm_probe probe;
	int r = gw_kvm_probe(err, &probe);

	if (!probe.opens)
		cr_skip_test("%s", err->text);
	cr_assert(r == 0 || r == -ENOTSUP, "%s", err->text);
	cr_assert_eq(probe.api_version, 12);
	return probe;
}

static unsigned int count_entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

Test(kvm_probe, plain_integer_code_runs_where_kvm_is)
{
	struct gw_err err = {0};
	struct gw_kvm_probe probe = probe_here(&err);

	cr_assert_eq(probe.insns[GW_KVM_INTEGER], GW_KVM_RUNS, "%s", err.text);
}

Test(kvm_probe, every_instruction_was_tried_and_the_failed_ones_are_named)
{
	struct gw_err err = {0};
	struct gw_kvm_probe probe = probe_here(&err);
	bool failed = false;

	for (unsigned int i = 0; i < GW_KVM_N_INSNS; i++) {
		const char *name = gw_kvm_insn_name((enum gw_kvm_insn)i);

		cr_assert_neq(probe.insns[i], GW_KVM_UNTRIED, "%s", name);
		if (probe.insns[i] != GW_KVM_FAILS)
			continue;
		failed = true;
		cr_assert(strstr(err.text, name), "no %s in: %s", name, err.text);
	}
	cr_assert_eq(probe.usable, !failed);
	cr_assert_eq(err.code, failed ? -ENOTSUP : 0);
}

Test(kvm_probe, it_is_quick_and_leaves_nothing_open)
{
	struct gw_err err = {0};
	unsigned int before;
	uint64_t begun;

	probe_here(&err);
	before = count_entries("/proc/self/fd");
	begun = gw_now();
	gw_kvm_probe(NULL, NULL);
	cr_assert_lt(gw_now() - begun, GW_NSEC / 2);
	cr_assert_eq(count_entries("/proc/self/fd"), before);
}

Test(kvm_probe, a_missing_device_names_the_module)
{
	struct gw_kvm_probe probe;
	struct gw_err err = {0};

	cr_assert_eq(gw_kvm_probe_at("/nonexistent/kvm", &err, &probe), -ENOENT);
	cr_assert_not(probe.exists || probe.opens || probe.usable);
	cr_assert(strstr(err.text, "kvm_intel or kvm_amd"), "%s", err.text);
}

Test(kvm_probe, a_device_that_may_not_be_opened_names_the_group)
{
	char path[] = "/tmp/godwit-kvm-XXXXXX";
	struct gw_kvm_probe probe;
	struct gw_err err = {0};
	int fd = mkstemp(path), r;

	cr_assert_geq(fd, 0);
	close(fd);
	chmod(path, 0);
	if (geteuid() == 0 && seteuid(65534)) {
		unlink(path);
		cr_skip_test("cannot become a user without permission");
	}
	r = gw_kvm_probe_at(path, &err, &probe);
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
	unlink(path);
	cr_assert_eq(r, -EACCES);
	cr_assert(probe.exists && !probe.opens && !probe.usable);
	cr_assert(strstr(err.text, "usermod -aG kvm"), "%s", err.text);
}

Test(kvm_probe, something_else_than_kvm_is_told_apart)
{
	struct gw_kvm_probe probe;
	struct gw_err err = {0};

	cr_assert_eq(gw_kvm_probe_at("/dev/null", &err, &probe), -ENOTTY);
	cr_assert(probe.exists && probe.opens && !probe.usable);
	cr_assert(strstr(err.text, "does not answer as KVM does"), "%s", err.text);
}
