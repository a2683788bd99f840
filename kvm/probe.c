/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trying KVM with a guest of a few instructions.
 *
 * Happy path: one VM with 64 KiB of memory, and for each kind of instruction a
 * vCPU of its own in long mode, so that one that dies takes no other with it.
 * Its code tries one thing and writes 1 (as expected) or 0 (wrong result) to a
 * port.
 *
 * Failure modes: an instruction that KVM cannot execute ends KVM_RUN with an
 * internal error, one that the CPU refuses with a triple fault, since there is
 * no interrupt table. Both are the answer that is sought. Anything else that
 * fails is reported as the kernel's error.
 *
 * Threads: none. Nothing bounds the time but the code, which has no loops.
 *
 * Ownership: all descriptors and mappings are released before it returns.
 */
#include "kvm/probe.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>

#include "base/util.h"

#define DEVICE "/dev/kvm"

static const char *const insn_names[] = {
	[GW_KVM_INTEGER] = "integer", [GW_KVM_X87] = "x87",
	[GW_KVM_SSE] = "sse",	      [GW_KVM_POPCNT] = "popcnt",
	[GW_KVM_XGETBV] = "xgetbv",   [GW_KVM_CMPXCHG16B] = "cmpxchg16b",
	[GW_KVM_RDTSCP] = "rdtscp",
};
static_assert(GW_ARRAY_SIZE(insn_names) == GW_KVM_N_INSNS, "a name for every kind");

const char *gw_kvm_insn_name(enum gw_kvm_insn insn)
{
	return (unsigned int)insn < GW_KVM_N_INSNS ? insn_names[insn] : "(unknown)";
}

#ifdef __x86_64__

#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* The guest's memory, all of it identity-mapped. */
#define MEMORY_SIZE 0x10000UL
#define PML4_AT	    0x1000UL
#define PDPT_AT	    0x2000UL
#define PD_AT	    0x3000UL
#define CODE_AT	    0x8000UL
#define DATA_AT	    0xa000UL
#define STACK_TOP   0xf000UL

#define PTE_PRESENT  0x01UL
#define PTE_WRITABLE 0x02UL
#define PTE_LARGE    0x80UL

#define CR0_PE	       (1UL << 0)
#define CR0_MP	       (1UL << 1)
#define CR0_ET	       (1UL << 4)
#define CR0_NE	       (1UL << 5)
#define CR0_PG	       (1UL << 31)
#define CR4_PAE	       (1UL << 5)
#define CR4_OSFXSR     (1UL << 9)
#define CR4_OSXMMEXCPT (1UL << 10)
#define CR4_OSXSAVE    (1UL << 18)
#define EFER_LME       (1UL << 8)
#define EFER_LMA       (1UL << 10)

#define RESULT_PORT 0xf4
#define CPUID_MAX   256
/* KVM_RUN that signals interrupt is run again, but not for ever. */
#define RUN_ATTEMPTS 64

/* clang-format off */
/*
 * The guest's code. Each piece begins with %rdi at the data area, which holds
 * zeroes, and all other general registers 0; it ends with the zero flag set when
 * all was well, which is what goes to the port.
 */
#define PIECE(name, code)                                                                \
	"gw_kvm_code_" name ":\n" code "sete %al\n"                                      \
	"outb %al, $0xf4\n"                                                              \
	"hlt\n"                                                                          \
	"gw_kvm_code_" name "_end:\n"

asm(".pushsection .rodata\n"
    PIECE("integer", "movl $40, %ebx\n"
		     "pushq %rbx\n"
		     "lock xaddq %rbx, (%rdi)\n"
		     "xorl %eax, %eax\n"
		     "xorl %ecx, %ecx\n"
		     "cpuid\n"
		     "popq %rbx\n"
		     "addq (%rdi), %rbx\n"
		     "cmpq $80, %rbx\n")
    PIECE("x87", "fninit\n"
		 "fld1\n"
		 "fld1\n"
		 "faddp\n"
		 "fistpl (%rdi)\n"
		 "cmpl $2, (%rdi)\n")
    PIECE("sse", "movl $0x3f800000, (%rdi)\n" /* 1.0f */
		 "movups (%rdi), %xmm0\n"
		 "addps %xmm0, %xmm0\n"
		 "movups %xmm0, (%rdi)\n"
		 "cmpl $0x40000000, (%rdi)\n") /* 2.0f */
    PIECE("popcnt", "movl $0xff0, %ebx\n"
		    "popcntq %rbx, %rax\n"
		    "cmpq $8, %rax\n")
    PIECE("cmpxchg16b", "movl $1, %ebx\n"
			"cmpxchg16b (%rdi)\n"
			"cmpq $1, (%rdi)\n")
    PIECE("xgetbv", "xgetbv\n"
		    "andl $1, %eax\n" /* x87 state is always on */
		    "cmpl $1, %eax\n")
    PIECE("rdtscp", "rdtscp\n"
		    "cmpl %eax, %eax\n")
    ".popsection\n");

/* clang-format on */

#define DECLARE(name)                                                                    \
	extern const uint8_t gw_kvm_code_##name[], gw_kvm_code_##name##_end[]
DECLARE(integer);
DECLARE(x87);
DECLARE(sse);
DECLARE(popcnt);
DECLARE(cmpxchg16b);
DECLARE(xgetbv);
DECLARE(rdtscp);

/* Which CPUID bit offers the instruction; @leaf 0: every x86-64 has it. */
struct insn {
	const uint8_t *code, *end;
	uint32_t leaf;
	bool in_edx; /* else in ecx */
	unsigned int bit;
};

#define CODE(name) gw_kvm_code_##name, gw_kvm_code_##name##_end
static const struct insn insns[GW_KVM_N_INSNS] = {
	[GW_KVM_INTEGER] = {CODE(integer)},
	[GW_KVM_X87] = {CODE(x87)},
	[GW_KVM_SSE] = {CODE(sse)},
	[GW_KVM_POPCNT] = {CODE(popcnt), .leaf = 1, .bit = 23},
	[GW_KVM_CMPXCHG16B] = {CODE(cmpxchg16b), .leaf = 1, .bit = 13},
	[GW_KVM_XGETBV] = {CODE(xgetbv), .leaf = 1, .bit = 26},
	[GW_KVM_RDTSCP] = {CODE(rdtscp), .leaf = 0x80000001, .in_edx = true, .bit = 27},
};

struct machine {
	int kvm_fd, vm_fd;
	size_t run_size;
	uint8_t *memory;	    /* MEMORY_SIZE */
	struct kvm_cpuid2 *offered; /* what KVM can give a guest; CPUID_MAX entries */
};

static int checked_ioctl(int fd, unsigned long request, void *arg, const char *what,
			 struct gw_err *err)
{
	int r = ioctl(fd, request, arg);

	return r < 0 ? gw_err_errno(err, -errno, "KVM: %s", what) : r;
}

/* ---- the machine ---- */

static void machine_close(struct machine *m)
{
	gw_close(&m->vm_fd);
	if (m->memory)
		munmap(m->memory, MEMORY_SIZE);
	free(m->offered);
}

static int create_vm(struct machine *m, struct gw_err *err)
{
	int r = ioctl(m->kvm_fd, KVM_CREATE_VM, 0UL);

	if (r < 0 && errno == EBUSY)
		return gw_err_set(err, -EBUSY,
				  "KVM cannot make a VM: another hypervisor has the "
				  "CPU's virtualisation: stop it");
	if (r < 0)
		return gw_err_errno(err, -errno, "KVM cannot make a VM");
	m->vm_fd = r;
	return 0;
}

static int add_memory(struct machine *m, struct gw_err *err)
{
	struct kvm_userspace_memory_region slot = {.memory_size = MEMORY_SIZE};

	m->memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m->memory == MAP_FAILED) {
		m->memory = NULL;
		return gw_err_set(err, -ENOMEM, "out of memory for the KVM probe");
	}
	slot.userspace_addr = (uint64_t)(uintptr_t)m->memory;
	return checked_ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot,
			     "giving the VM memory", err);
}

static int get_offered(struct machine *m, struct gw_err *err)
{
	m->offered = calloc(1, sizeof(*m->offered) +
				       CPUID_MAX * sizeof(m->offered->entries[0]));
	if (!m->offered)
		return gw_err_set(err, -ENOMEM, "out of memory for the KVM probe");
	m->offered->nent = CPUID_MAX;
	return checked_ioctl(m->kvm_fd, KVM_GET_SUPPORTED_CPUID, m->offered,
			     "asking for the CPU's features", err);
}

static int machine_open(struct machine *m, struct gw_err *err)
{
	int r = create_vm(m, err);

	if (!r)
		r = add_memory(m, err);
	if (!r)
		r = get_offered(m, err);
	if (r)
		return r;
	r = checked_ioctl(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL,
			  "asking for the size of a vCPU's window", err);
	if (r < 0)
		return r;
	m->run_size = (size_t)r;
	if (m->run_size < sizeof(struct kvm_run))
		return gw_err_set(err, -ENOTSUP, "KVM: a vCPU's window of %zu bytes",
				  m->run_size);
	return 0;
}

static bool is_offered(const struct machine *m, const struct insn *insn)
{
	if (!insn->leaf)
		return true;
	for (uint32_t i = 0; i < m->offered->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &m->offered->entries[i];

		if (entry->function == insn->leaf)
			return (insn->in_edx ? entry->edx : entry->ecx) >> insn->bit & 1;
	}
	return false;
}

static void put_u64(uint8_t *memory, uint64_t at, uint64_t value)
{
	memcpy(memory + at, &value, sizeof(value));
}

/* Afresh for every piece: the last one may have died anywhere. */
static void load_code(struct machine *m, const struct insn *insn)
{
	size_t len = (size_t)(insn->end - insn->code);

	assert(len <= DATA_AT - CODE_AT);
	memset(m->memory, 0, MEMORY_SIZE);
	put_u64(m->memory, PML4_AT, PDPT_AT | PTE_PRESENT | PTE_WRITABLE);
	put_u64(m->memory, PDPT_AT, PD_AT | PTE_PRESENT | PTE_WRITABLE);
	put_u64(m->memory, PD_AT, PTE_PRESENT | PTE_WRITABLE | PTE_LARGE);
	memcpy(m->memory + CODE_AT, insn->code, len);
}

/* ---- one vCPU ---- */

static int set_system_registers(const struct machine *m, int vcpu_fd, struct gw_err *err)
{
	struct kvm_segment code = {
		.limit = 0xffffffff,
		.selector = 8,
		.type = 11, /* execute, read, accessed */
		.present = 1,
		.s = 1,
		.l = 1,
		.g = 1,
	};
	struct kvm_segment data = {
		.limit = 0xffffffff,
		.selector = 16,
		.type = 3, /* read, write, accessed */
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
	struct kvm_sregs sregs;
	int r = checked_ioctl(vcpu_fd, KVM_GET_SREGS, &sregs, "reading registers", err);

	if (r < 0)
		return r;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.idt = (struct kvm_dtable){0};
	sregs.cr3 = PML4_AT;
	sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG;
	sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	if (is_offered(m, &insns[GW_KVM_XGETBV]))
		sregs.cr4 |= CR4_OSXSAVE;
	sregs.efer = EFER_LME | EFER_LMA;
	return checked_ioctl(vcpu_fd, KVM_SET_SREGS, &sregs, "entering long mode", err);
}

static int set_up_vcpu(const struct machine *m, int vcpu_fd, struct gw_err *err)
{
	struct kvm_regs regs = {
		.rip = CODE_AT, .rdi = DATA_AT, .rsp = STACK_TOP, .rflags = 2};
	int r;

	r = checked_ioctl(vcpu_fd, KVM_SET_CPUID2, m->offered, "setting CPU features",
			  err);
	if (r >= 0)
		r = set_system_registers(m, vcpu_fd, err);
	if (r >= 0)
		r = checked_ioctl(vcpu_fd, KVM_SET_REGS, &regs, "setting registers", err);
	return r;
}

static bool said_yes(const struct kvm_run *run)
{
	return run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT &&
	       run->io.port == RESULT_PORT && run->io.size == 1 && run->io.count == 1 &&
	       ((const uint8_t *)run)[run->io.data_offset] == 1;
}

/* KVM_RUN itself may fail for an instruction too: that counts as its failure. */
static enum gw_kvm_outcome run_vcpu(int vcpu_fd, const struct kvm_run *run)
{
	for (unsigned int i = 0; i < RUN_ATTEMPTS; i++) {
		if (!ioctl(vcpu_fd, KVM_RUN, 0UL))
			return said_yes(run) ? GW_KVM_RUNS : GW_KVM_FAILS;
		if (errno != EINTR && errno != EAGAIN)
			break;
	}
	return GW_KVM_FAILS;
}

static int try_insn(struct machine *m, enum gw_kvm_insn insn, struct gw_err *err,
		    enum gw_kvm_outcome *ret)
{
	GW_AUTO_CLOSE int vcpu_fd = ioctl(m->vm_fd, KVM_CREATE_VCPU, (unsigned long)insn);
	struct kvm_run *run;
	int r;

	if (vcpu_fd < 0)
		return gw_err_errno(err, -errno, "KVM cannot make a vCPU");
	load_code(m, &insns[insn]);
	r = set_up_vcpu(m, vcpu_fd, err);
	if (r < 0)
		return r;
	run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
	if (run == MAP_FAILED)
		return gw_err_errno(err, -errno, "KVM: mapping a vCPU's window");
	*ret = run_vcpu(vcpu_fd, run);
	munmap(run, m->run_size);
	return 0;
}

static int try_all(int kvm_fd, struct gw_err *err, struct gw_kvm_probe *probe)
{
	struct machine m = {.kvm_fd = kvm_fd, .vm_fd = -1};
	int r = machine_open(&m, err);

	for (unsigned int i = 0; !r && i < GW_KVM_N_INSNS; i++) {
		if (is_offered(&m, &insns[i]))
			r = try_insn(&m, (enum gw_kvm_insn)i, err, &probe->insns[i]);
		else
			probe->insns[i] = GW_KVM_ABSENT;
	}
	machine_close(&m);
	return r;
}

/* ---- the verdict ---- */

static int open_error(const char *path, int code, struct gw_err *err)
{
	switch (code) {
	case -ENOENT:
		return gw_err_set(err, code,
				  "there is no %s: load the module kvm_intel or kvm_amd; "
				  "if it does not load, switch virtualisation on in the "
				  "firmware, or nesting if this is a VM itself",
				  path);
	case -ENXIO:
	case -ENODEV:
		return gw_err_set(
			err, -ENXIO,
			"%s leads nowhere: load the module kvm_intel or kvm_amd", path);
	case -EACCES:
	case -EPERM:
		return gw_err_set(err, -EACCES,
				  "no permission for %s: add the user to its group "
				  "(usually: usermod -aG kvm USER) and log in again",
				  path);
	default:
		return gw_err_errno(err, code, "cannot open %s", path);
	}
}

static int judge(const char *path, struct gw_err *err, struct gw_kvm_probe *probe)
{
	char failed[128] = "";

	for (unsigned int i = 0; i < GW_KVM_N_INSNS; i++) {
		size_t used = strlen(failed);

		if (probe->insns[i] == GW_KVM_FAILS)
			snprintf(failed + used, sizeof(failed) - used, "%s%s",
				 used ? ", " : "", insn_names[i]);
	}
	probe->usable = !failed[0];
	if (probe->usable)
		return 0;
	return gw_err_set(err, -ENOTSUP,
			  "%s does not execute what a stock kernel needs (%s), probably "
			  "because the CPU is emulated: use TCG (-accel tcg), or a host "
			  "with hardware virtualisation",
			  path, failed);
}

static int probe_device(const char *path, struct gw_err *err, struct gw_kvm_probe *probe)
{
	GW_AUTO_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC);
	int r = fd < 0 ? -errno : 0;

	probe->exists = r != -ENOENT;
	if (r)
		return open_error(path, r, err);
	probe->opens = true;
	r = ioctl(fd, KVM_GET_API_VERSION, 0UL);
	if (r < 0)
		return gw_err_errno(err, -errno, "%s does not answer as KVM does", path);
	probe->api_version = r;
	if (r != KVM_API_VERSION)
		return gw_err_set(err, -ENOTSUP,
				  "%s speaks version %d of KVM's API, not %d", path, r,
				  KVM_API_VERSION);
	r = try_all(fd, err, probe);
	return r ? r : judge(path, err, probe);
}

#else /* !__x86_64__ */

static int probe_device(const char *path, struct gw_err *err, struct gw_kvm_probe *probe)
{
	probe->exists = !access(path, F_OK);
	probe->opens = !access(path, R_OK | W_OK);
	return gw_err_set(err, -ENOTSUP, "what KVM can do is known on x86-64 alone");
}

#endif

int gw_kvm_probe_at(const char *path, struct gw_err *err, struct gw_kvm_probe *ret)
{
	struct gw_kvm_probe probe = {0};
	int r = probe_device(path, err, &probe);

	if (ret)
		*ret = probe;
	return r;
}

int gw_kvm_probe(struct gw_err *err, struct gw_kvm_probe *ret)
{
	return gw_kvm_probe_at(DEVICE, err, ret);
}
