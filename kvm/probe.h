/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is KVM here, may we use it, and does it execute what a stock kernel needs?
 *
 * That /dev/kvm exists says little: where KVM itself runs on an emulated CPU,
 * plain integer code works and the first SSE or x87 instruction ends in an
 * internal error. So it is found out by trying, in a machine of 64 KiB with one
 * instruction of each kind.
 *
 * This probe is all that the folder holds so far.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"

enum gw_kvm_insn {
	GW_KVM_INTEGER = 0, /* moves, arithmetic, stack, lock xadd, cpuid, out */
	GW_KVM_X87,
	GW_KVM_SSE, /* arithmetic, not just moves */
	GW_KVM_POPCNT,
	GW_KVM_CMPXCHG16B,
	GW_KVM_XGETBV,
	GW_KVM_RDTSCP,
	GW_KVM_N_INSNS,
};

const char *gw_kvm_insn_name(enum gw_kvm_insn insn);

enum gw_kvm_outcome {
	GW_KVM_UNTRIED = 0, /* something before it failed */
	GW_KVM_ABSENT,	    /* KVM does not offer it to guests, so they do without */
	GW_KVM_RUNS,	    /* executed, with the right result */
	GW_KVM_FAILS,	    /* offered, but it ends in an error or is wrong */
};

struct gw_kvm_probe {
	bool exists;	 /* the device node is there */
	bool opens;	 /* and we may use it */
	int api_version; /* 12 on every kernel since 2.6.22; 0: it did not answer */
	enum gw_kvm_outcome insns[GW_KVM_N_INSNS];
	bool usable; /* a stock kernel can be expected to run */
};

/*
 * Tries; takes some ten milliseconds, and ends by itself, since the guest code
 * is finite and has no loops. Touches no signal and leaves nothing behind.
 *
 * 0: KVM is usable. -ENOENT, -ENXIO: no KVM. -EACCES: no permission. -ENOTSUP:
 * it is there but does not do. Any other: what the kernel said. @err then holds
 * the reason and the remedy. @ret may be NULL and is filled whatever comes back,
 * as far as the probe got: that is what it is for.
 */
int gw_kvm_probe(struct gw_err *err, struct gw_kvm_probe *ret);
/* The same for the device node @path. */
int gw_kvm_probe_at(const char *path, struct gw_err *err, struct gw_kvm_probe *ret);
