/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libgodwit: moves the memory of a running guest to another host.
 *
 * In order: describe the guest (godwit_guest_new() for a VMM that links this
 * library, godwit_guest_new_qemu() or godwit_guest_new_process() for one that
 * runs beside it), set options by name, make a source on one host and a
 * destination on the other, and call godwit_source_run() and
 * godwit_dest_run(); both block until the migration has ended. Everything that
 * may happen meanwhile (statistics, cancel, switch to post-copy, new limits) is
 * a call that any thread may make on the running object.
 *
 * Functions return 0 or a negative errno unless they say otherwise; where a
 * godwit_error is taken (NULL is allowed) it then holds one line of text that
 * says what failed, where, and the remedy. The library never prints, exits or
 * touches signals. Outputs are set only on success.
 */
#ifndef GODWIT_GODWIT_H
#define GODWIT_GODWIT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GODWIT_PUBLIC __attribute__((visibility("default")))

/* "MAJOR.MINOR.PATCH" of the library that is loaded. */
GODWIT_PUBLIC const char *godwit_version(void);

/* ---- errors ---- */

typedef struct godwit_error godwit_error;

/* NULL when memory is out. */
GODWIT_PUBLIC godwit_error *godwit_error_new(void);
/* Takes NULL; returns NULL. */
GODWIT_PUBLIC godwit_error *godwit_error_free(godwit_error *err);
/* 0 when nothing failed, else a negative errno. */
GODWIT_PUBLIC int godwit_error_code(const godwit_error *err);
/* One line without newline; "" when nothing failed. Owned by @err. */
GODWIT_PUBLIC const char *godwit_error_text(const godwit_error *err);
/* For callbacks: fills @err (may be NULL) and returns @code, which must be negative. */
GODWIT_PUBLIC int godwit_error_set(godwit_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- log ---- */

enum godwit_log_level {
	GODWIT_LOG_WARNING = 1, /* something a user should know and may mend */
	GODWIT_LOG_INFO = 2,	/* a milestone: phase entered, peer connected */
	GODWIT_LOG_DEBUG = 3,	/* for whoever reads the source as well */
};

/* Called from any of the library's threads; @line has no newline. */
typedef void (*godwit_log_fn)(void *opaque, enum godwit_log_level level,
			      const char *line);

/* ---- the guest ---- */

/* A piece of guest memory: a shared mapping of a file, memfd or shm object. */
struct godwit_region {
	const char *name;   /* the same on both hosts; at most 63 bytes */
	int fd;		    /* the file, open for reading and writing; duplicated */
	uint64_t offset;    /* where the region starts in the file; page-aligned */
	uint64_t size;	    /* bytes; a multiple of the page size */
	uint64_t address;   /* where the guest's process has it mapped */
	uint64_t page_size; /* of the backing: 0 (find out), 4096, or a huge page's */
};

/*
 * What the library asks of the guest. Called from the thread inside
 * godwit_source_run() or godwit_dest_run(), one at a time. Each returns 0, or a
 * negative errno with @err filled. A callback that is NULL is skipped.
 */
struct godwit_guest_ops {
	/* source: stop all vCPUs; on return nothing but @save writes guest memory */
	int (*stop)(void *opaque, godwit_error *err);
	/* source: run on, after a stop that led to no commit */
	int (*resume)(void *opaque, godwit_error *err);
	/* source: write the device state to @fd, from its current offset */
	int (*save)(void *opaque, int fd, godwit_error *err);
	/*
	 * destination: load the device state of @size bytes from @fd. Guest
	 * memory may be touched: pages that are missing are served meanwhile.
	 */
	int (*load)(void *opaque, int fd, uint64_t size, godwit_error *err);
	/* destination: the guest is ours now; run it */
	int (*run)(void *opaque, godwit_error *err);
	/* destination: after @run; tell the network where the guest lives now */
	int (*announce)(void *opaque, godwit_error *err);
	/* either: the migration ended without commit; undo what was set up */
	void (*abandon)(void *opaque);
	/*
	 * source: fail if the guest, stopped before, runs. Asked right before
	 * COMMIT, which it then prevents, and again once the destination runs
	 * the guest: then @stop is called once more.
	 */
	int (*check_stopped)(void *opaque, godwit_error *err);
};

struct godwit_guest_desc {
	pid_t pid; /* of the process that has the regions mapped; 0: this one */
	const struct godwit_region *regions;
	size_t n_regions; /* 1 to 64 */
	const struct godwit_guest_ops *ops;
	void *opaque; /* handed to the callbacks */
};

typedef struct godwit_guest godwit_guest;

/*
 * A guest described by its own VMM. Copies all of @desc but *@desc->opaque.
 * Modes precopy and hybrid see what is written through @desc->pid's page
 * tables: no DMA of assigned devices, no other process, and no direct I/O
 * (O_DIRECT), whose pages count as written before the data arrives.
 */
GODWIT_PUBLIC int godwit_guest_new(const struct godwit_guest_desc *desc,
				   godwit_error *err, godwit_guest **ret);

enum godwit_side {
	GODWIT_SOURCE = 1,
	GODWIT_DEST = 2,
};

struct godwit_qemu {
	const char *qmp_path; /* a QMP monitor's Unix socket, used by nobody else */
	pid_t pid;	      /* of QEMU; 0: taken from the socket */
	enum godwit_side side;
	int offline; /* not 0: devices whose writes cannot be seen are accepted */
	godwit_log_fn log;
	void *log_opaque;
};

/* A QEMU that is already running (source) or waits with -incoming defer. */
GODWIT_PUBLIC int godwit_guest_new_qemu(const struct godwit_qemu *qemu, godwit_error *err,
					godwit_guest **ret);

struct godwit_process {
	pid_t pid;
	const char *const *ranges; /* files that the process has mapped shared */
	size_t n_ranges;
	enum godwit_side side;
	int offline; /* not 0: other processes may have the files mapped too */
};

/*
 * Any process with shared mappings of files: stopped by SIGSTOP, run by
 * SIGCONT, no device state. Region N is named "range-N".
 */
GODWIT_PUBLIC int godwit_guest_new_process(const struct godwit_process *process,
					   godwit_error *err, godwit_guest **ret);

/* Takes NULL; returns NULL. Not while a source or destination uses it. */
GODWIT_PUBLIC godwit_guest *godwit_guest_free(godwit_guest *guest);

/* ---- options ---- */

typedef struct godwit_options godwit_options;

GODWIT_PUBLIC godwit_options *godwit_options_new(void);
GODWIT_PUBLIC godwit_options *godwit_options_free(godwit_options *options);
/*
 * Sets an option by its name; -ENOENT: no such option, -EINVAL: not such a
 * value. The names, with their values and defaults, are those of `godwit send`
 * and `godwit receive`: see godwit(1). godwit_option_at() lists them.
 */
GODWIT_PUBLIC int godwit_options_set(godwit_options *options, const char *name,
				     const char *value, godwit_error *err);
/* Log lines up to @level go to @fn; called before the object is made. */
GODWIT_PUBLIC void godwit_options_set_log(godwit_options *options, godwit_log_fn fn,
					  void *opaque, enum godwit_log_level level);

struct godwit_option {
	const char *name;
	const char *value;   /* the form of the value, for a help text: "SIZE" */
	const char *initial; /* the default as one would type it; NULL: none */
	const char *help;
	unsigned int sides; /* bits of enum godwit_side that take it */
};

/* The @index-th option, or NULL past the last. */
GODWIT_PUBLIC const struct godwit_option *godwit_option_at(size_t index);

/* ---- statistics ---- */

enum godwit_state {
	GODWIT_STATE_PREPARE = 0, /* before the first byte of memory */
	GODWIT_STATE_PRECOPY,	  /* the source runs, rounds go on */
	GODWIT_STATE_STOPCOPY,	 /* stopped; last pages and device state; before COMMIT */
	GODWIT_STATE_SWITCHOVER, /* as above, on the way to post-copy */
	GODWIT_STATE_POSTCOPY,	 /* the destination runs, pages still move */
	GODWIT_STATE_PAUSED,	 /* post-copy, link lost; missing pages wait */
	GODWIT_STATE_UNDECIDED,	 /* COMMIT left, no answer came: neither side may run */
	GODWIT_STATE_DONE,
	GODWIT_STATE_CANCELLED, /* by the user; the source runs on */
	GODWIT_STATE_FAILED,	/* the source runs on */
	GODWIT_N_STATES,
};

GODWIT_PUBLIC const char *godwit_state_name(enum godwit_state state);

/* A moment's picture; counters since the start, both sides fill what they know. */
struct godwit_stats {
	enum godwit_state state;
	char mode[16];		  /* "precopy", "postcopy", "hybrid", "offline" */
	char session[33];	  /* 32 hex digits; "" before the handshake */
	uint32_t channels;	  /* bulk channels */
	uint32_t round;		  /* of pre-copy, from 1 */
	uint64_t guest_bytes;	  /* size of all regions */
	uint64_t wire_bytes;	  /* sent or received over all channels, headers too */
	uint64_t data_pages;	  /* pages of 4096 bytes that crossed as data */
	uint64_t zero_pages;	  /* pages that crossed as "all zero" */
	uint64_t remaining_bytes; /* dirty or missing, as far as known */
	uint64_t throughput;	  /* bytes a second over the last round or second */
	uint64_t dirty_rate;	  /* bytes a second, over the last round */
	uint64_t postcopy_bytes;  /* named as missing at the switch to post-copy */
	uint64_t elapsed_ns;	  /* since the handshake */
	uint64_t downtime_limit_ns;
	uint64_t bandwidth; /* bytes a second; 0: no limit */
	/* source: from before stop to the destination's word that it runs */
	uint64_t blackout_ns;
	uint64_t state_bytes; /* device state */
	/* faults, measured at the destination: from event read to page installed */
	uint64_t faults;
	uint64_t fault_p50_ns;
	uint64_t fault_p99_ns;
	uint64_t fault_max_ns;
	uint64_t fault_mean_ns;
	uint64_t bitmap_bytes; /* address space of the bitmaps */
	/* parts of the blackout at the source, in order; 0 where not reached */
	uint64_t stop_ns;	/* the stop callback */
	uint64_t save_ns;	/* the save callback */
	uint64_t last_pages_ns; /* last scan, last pages or names of the missing ones */
	uint64_t load_ns;	/* device state over the wire and loaded */
	uint64_t commit_ns;	/* COMMIT to RUNNING */
	/* CLOCK_REALTIME, 0 before it happened: stop done, run done */
	uint64_t stopped_at_ns;
	uint64_t running_at_ns;
	/* not 0: failed before COMMIT, and setting the guest running again did too */
	uint64_t resume_failed;
	/* faults, as fault_p50_ns */
	uint64_t fault_p90_ns;
	uint64_t fault_p999_ns;
	/* of data_pages, those that crossed compressed, and what they were then */
	uint64_t compressed_pages;
	uint64_t compressed_bytes;
};

/* Distributions that a migration measures. */
enum godwit_histogram {
	/* what the fault_… statistics sum up: from event read to page installed */
	GODWIT_HISTOGRAM_FAULT = 1,
};

/* Buckets are so narrow that @upper_ns is at most 3.2 % above what it counts. */
struct godwit_bucket {
	uint64_t upper_ns; /* the longest that falls in it; the next begins above */
	uint64_t count;	   /* never 0: empty buckets are left out */
};

/* A histogram has at most so many that are not empty. */
#define GODWIT_BUCKETS_MAX 1152

/* ---- source ---- */

typedef struct godwit_source godwit_source;

/* Borrows @guest; copies @options (NULL: defaults). */
GODWIT_PUBLIC int godwit_source_new(godwit_guest *guest, const godwit_options *options,
				    godwit_error *err, godwit_source **ret);
GODWIT_PUBLIC godwit_source *godwit_source_free(godwit_source *source);
/*
 * Connects to @address ("HOST:PORT", "[V6]:PORT" or "unix:PATH") and migrates.
 * 0: the guest runs at the destination. -ECANCELED: cancelled, the guest runs
 * here. -EUNATCH: committed, but the destination's answer is missing (state
 * UNDECIDED): the guest must not run here. Any other: failed; in state FAILED
 * the guest runs here, in state PAUSED it runs at the destination and still
 * lacks pages that only this side has.
 */
GODWIT_PUBLIC int godwit_source_run(godwit_source *source, const char *address,
				    godwit_error *err);
/* Any thread, any time. -EBUSY: past COMMIT, the guest belongs to the destination. */
GODWIT_PUBLIC int godwit_source_cancel(godwit_source *source);
/* Switch to post-copy now. -EINVAL: mode precopy or offline; -EBUSY: past it. */
GODWIT_PUBLIC int godwit_source_switch(godwit_source *source);
/* Changes "max-downtime" or "bandwidth" of a migration under way. */
GODWIT_PUBLIC int godwit_source_set(godwit_source *source, const char *name,
				    const char *value, godwit_error *err);
/* @size: sizeof(struct godwit_stats) as the caller knows it. */
GODWIT_PUBLIC void godwit_source_stats(godwit_source *source, struct godwit_stats *ret,
				       size_t size);
/*
 * The first @max buckets of a histogram, shortest first, into @ret. Returns how
 * many there are, which may be more; 0 when there is no such histogram. Brought
 * up to date together with the statistics, a few times a second.
 */
GODWIT_PUBLIC size_t godwit_source_histogram(godwit_source *source,
					     enum godwit_histogram which,
					     struct godwit_bucket *ret, size_t max);

/* ---- destination ---- */

typedef struct godwit_dest godwit_dest;

/* Borrows @guest; copies @options (NULL: defaults). */
GODWIT_PUBLIC int godwit_dest_new(godwit_guest *guest, const godwit_options *options,
				  godwit_error *err, godwit_dest **ret);
GODWIT_PUBLIC godwit_dest *godwit_dest_free(godwit_dest *dest);
/*
 * Binds @address; a port of 0 picks one. After it a source can connect. The
 * address to give to the source is then godwit_dest_address(), owned by @dest.
 */
GODWIT_PUBLIC int godwit_dest_listen(godwit_dest *dest, const char *address,
				     godwit_error *err);
GODWIT_PUBLIC const char *godwit_dest_address(godwit_dest *dest);
/*
 * Serves one migration. 0: the guest runs here, complete. -ECANCELED: called
 * off by this or the other side. -ETIMEDOUT: no source came in time. -EUNATCH:
 * the link was lost when all was ready (state UNDECIDED): whether the source
 * handed the guest over is not known, and it was not run here. Any other:
 * failed; in state FAILED the guest never ran here, in state PAUSED it runs
 * here and waits for pages.
 */
GODWIT_PUBLIC int godwit_dest_run(godwit_dest *dest, godwit_error *err);
/* Any thread, any time. -EBUSY: all is loaded, the source may have committed. */
GODWIT_PUBLIC int godwit_dest_cancel(godwit_dest *dest);
GODWIT_PUBLIC void godwit_dest_stats(godwit_dest *dest, struct godwit_stats *ret,
				     size_t size);
/* As godwit_source_histogram(). */
GODWIT_PUBLIC size_t godwit_dest_histogram(godwit_dest *dest, enum godwit_histogram which,
					   struct godwit_bucket *ret, size_t max);

#ifdef __cplusplus
}
#endif
#endif
