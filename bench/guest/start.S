/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Entry of the benchmark's guest: a multiboot kernel of 32 bits. */

#define MULTIBOOT_MAGIC 0x1badb002
#define STACK_SIZE	4096

	.section .text
	.balign 4
	.long MULTIBOOT_MAGIC
	.long 0
	.long -MULTIBOOT_MAGIC

	.globl start
start:
	cli
	cld
	movl $stack_top, %esp
	call guest_main

	/* void guest_sleep(void): forever */
	.globl guest_sleep
guest_sleep:
	hlt
	jmp guest_sleep

	/* void guest_paging(const void *table): PAE paging with @table as its root */
	.globl guest_paging
guest_paging:
	movl 4(%esp), %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x20, %eax
	movl %eax, %cr4
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	ret

	.section .bss
	.balign 16
	.skip STACK_SIZE
stack_top:

	.section .note.GNU-stack, "", @progbits
