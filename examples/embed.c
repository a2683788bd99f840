/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The smallest program that moves its own memory with libgodwit.
 *
 *     embed receive unix:/tmp/embed.sock &
 *     embed send unix:/tmp/embed.sock [MODE]
 *
 * Its "guest" is one thread that goes over 16 MiB of memory, page after page,
 * and in each page counts how often it came by. Its "device state" is the total
 * number of steps. After the move the thread goes on in the receiving process;
 * there it checks that no page lost a count, says so, and ends.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <godwit/godwit.h>

#define PAGE_BYTES  4096UL
#define PAGES	    4096UL
#define STEPS_AFTER (3 * PAGES) /* the receiver's proof that it runs */

struct machine {
	int fd;
	unsigned char *memory;
	pthread_t thread;
	atomic_bool run;
	uint64_t steps; /* the thread's alone while it runs */
};

static uint64_t *count_of(struct machine *machine, uint64_t page)
{
	return (uint64_t *)(machine->memory + page * PAGE_BYTES);
}

static void *machine_main(void *opaque)
{
	struct machine *machine = opaque;

	while (atomic_load(&machine->run)) {
		(*count_of(machine, machine->steps % PAGES))++;
		machine->steps++;
	}
	return NULL;
}

/* ---- what libgodwit asks of its embedder ---- */

static int machine_run(void *opaque, godwit_error *err)
{
	struct machine *machine = opaque;

	atomic_store(&machine->run, true);
	if (pthread_create(&machine->thread, NULL, machine_main, machine))
		return godwit_error_set(err, -EAGAIN,
					"cannot start the machine's thread");
	return 0;
}

static int machine_stop(void *opaque, godwit_error *err)
{
	struct machine *machine = opaque;

	(void)err;
	atomic_store(&machine->run, false);
	pthread_join(machine->thread, NULL);
	return 0;
}

static int machine_save(void *opaque, int fd, godwit_error *err)
{
	struct machine *machine = opaque;

	if (write(fd, &machine->steps, sizeof(machine->steps)) != sizeof(machine->steps))
		return godwit_error_set(err, -EIO, "cannot write the machine's state");
	return 0;
}

static int machine_load(void *opaque, int fd, uint64_t size, godwit_error *err)
{
	struct machine *machine = opaque;

	if (size != sizeof(machine->steps) ||
	    read(fd, &machine->steps, sizeof(machine->steps)) != sizeof(machine->steps))
		return godwit_error_set(err, -EINVAL, "not the state of such a machine");
	return 0;
}

static const struct godwit_guest_ops ops = {
	.stop = machine_stop,
	.resume = machine_run,
	.save = machine_save,
	.load = machine_load,
	.run = machine_run,
};

/* ---- the program ---- */

static int machine_init(struct machine *machine)
{
	machine->fd = memfd_create("embed", MFD_CLOEXEC);
	if (machine->fd < 0 || ftruncate(machine->fd, (off_t)(PAGES * PAGE_BYTES)))
		return -1;
	/* Shared: libgodwit reads and writes it through a mapping of its own. */
	machine->memory = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
			       MAP_SHARED, machine->fd, 0);
	return machine->memory == MAP_FAILED ? -1 : 0;
}

static int describe(struct machine *machine, godwit_error *err, godwit_guest **ret)
{
	struct godwit_region region = {
		.name = "memory",
		.fd = machine->fd,
		.size = PAGES * PAGE_BYTES,
		.address = (uint64_t)machine->memory,
	};
	struct godwit_guest_desc desc = {
		.regions = &region,
		.n_regions = 1,
		.ops = &ops,
		.opaque = machine,
	};

	return godwit_guest_new(&desc, err, ret);
}

static int send_machine(struct machine *machine, godwit_guest *guest, const char *address,
			const char *mode, godwit_error *err)
{
	godwit_options *options = godwit_options_new();
	godwit_source *source = NULL;
	int r = options ? godwit_options_set(options, "mode", mode, err) : -ENOMEM;

	if (!r)
		r = godwit_source_new(guest, options, err, &source);
	if (!r)
		r = machine_run(machine, err);
	if (!r)
		r = godwit_source_run(source, address, err);
	if (!r)
		printf("sent after %llu steps\n", (unsigned long long)machine->steps);
	godwit_source_free(source);
	godwit_options_free(options);
	return r;
}

/* Every page was passed as often as the number of steps says. */
static int check(struct machine *machine)
{
	for (uint64_t page = 0; page < PAGES; page++) {
		uint64_t want = machine->steps / PAGES + (page < machine->steps % PAGES);

		if (*count_of(machine, page) == want)
			continue;
		fprintf(stderr, "embed: page %llu counts %llu where %llu belongs\n",
			(unsigned long long)page,
			(unsigned long long)*count_of(machine, page),
			(unsigned long long)want);
		return -EBADMSG;
	}
	return 0;
}

static int receive_machine(struct machine *machine, godwit_guest *guest,
			   const char *address, godwit_error *err)
{
	uint64_t arrived_with;
	godwit_dest *dest = NULL;
	int r = godwit_dest_new(guest, NULL, err, &dest);

	if (!r)
		r = godwit_dest_listen(dest, address, err);
	if (!r) {
		printf("listening on %s\n", godwit_dest_address(dest));
		fflush(stdout);
		r = godwit_dest_run(dest, err);
	}
	godwit_dest_free(dest);
	if (r)
		return r;
	/* All of its memory is here; let it prove that it runs, then look. */
	usleep(100000);
	machine_stop(machine, err);
	arrived_with = *count_of(machine, PAGES - 1);
	if (machine->steps < STEPS_AFTER || !arrived_with)
		return godwit_error_set(err, -EBADMSG, "the machine did not run on");
	r = check(machine);
	if (!r)
		printf("received; %llu steps, every page counts\n",
		       (unsigned long long)machine->steps);
	return r;
}

int main(int argc, char **argv)
{
	struct machine machine = {0};
	godwit_error *err = godwit_error_new();
	godwit_guest *guest = NULL;
	int r;

	if (argc < 3 || (strcmp(argv[1], "send") && strcmp(argv[1], "receive"))) {
		fprintf(stderr, "usage: embed send|receive ADDRESS [MODE]\n");
		return 2;
	}
	if (!err || machine_init(&machine)) {
		fprintf(stderr, "embed: no memory for the machine\n");
		return 1;
	}
	r = describe(&machine, err, &guest);
	if (!r && !strcmp(argv[1], "send"))
		r = send_machine(&machine, guest, argv[2], argc > 3 ? argv[3] : "hybrid",
				 err);
	else if (!r)
		r = receive_machine(&machine, guest, argv[2], err);
	if (r)
		fprintf(stderr, "embed: %s\n", godwit_error_text(err));
	godwit_guest_free(guest);
	godwit_error_free(err);
	return r ? 1 : 0;
}
