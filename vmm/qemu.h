/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the QEMU guest share: qemu.c makes it, the others drive it. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/log.h"
#include "migrate/guest.h"
#include "vmm/qmp.h"

/* QEMU's answers to commands; stopping waits for the guest's disk requests. */
#define GW_QEMU_ANSWER (30 * GW_NSEC)
/* A state stream that stands still this long will not go on. */
#define GW_QEMU_STALL (30 * GW_NSEC)
/* From the last byte of a stream to QEMU's word that it is done. */
#define GW_QEMU_FINISH (30 * GW_NSEC)
/* A device state is less than a MiB; more than this is guest memory. */
#define GW_QEMU_STATE_MAX (1ULL << 30)

/* Before QEMU's own stream in what save writes; see qemu_stream.c. */
#define GW_QEMU_HEADER_SIZE 16U

/* Of QEMU: "running", "paused", "inmigrate", … and "active", "completed", …; "" none */
#define GW_QEMU_STATUS_MAX 32

/* How the migration of the device state goes, as far as events told. */
enum gw_qemu_outcome {
	GW_QEMU_UNDER_WAY, /* or none was begun; left by the events below */
	GW_QEMU_COMPLETED, /* QEMU is content */
	GW_QEMU_FAILED,	   /* failed or cancelled; `query-migrate` knows more */
};

struct gw_qemu {
	struct gw_qmp *qmp;
	pid_t pid;
	enum godwit_side side;
	bool offline;
	struct gw_log log;

	bool set_up;	    /* capabilities and parameters are as we need them */
	json_t *old_caps;   /* what gives QEMU its own capabilities back; NULL: nothing */
	json_t *old_params; /* the same for parameters */

	int stream;   /* our end of the prepared pair; -1: none prepared */
	char *buffer; /* of GW_QEMU_BUFFER bytes, touched already */

	bool was_running; /* at the source, when stop came */
	enum gw_qemu_outcome outcome;
	bool migrating; /* source: `migrate` was sent and not seen to end */
	bool loading;	/* destination: `migrate-incoming` was sent, state incomplete */
	bool loaded;	/* destination: the whole state is in */
};

#define GW_QEMU_BUFFER (256U << 10)

/* ---- qemu.c ---- */

/* `qom-get` of a property; @ret is the caller's. */
int gw_qemu_qom_get(struct gw_qemu *qemu, const char *path, const char *property,
		    struct gw_err *err, json_t **ret);
/* `query-status` into @ret (of GW_QEMU_STATUS_MAX). */
int gw_qemu_status(struct gw_qemu *qemu, struct gw_err *err, char *ret);
/* `query-migrate`'s status into @ret, and into @ret_why (of GW_ERR_TEXT_MAX) its error. */
int gw_qemu_migration(struct gw_qemu *qemu, struct gw_err *err, char *ret, char *ret_why);
/*
 * Capabilities, parameters and the stream as saving and loading need them; does
 * nothing when they are so already.
 */
int gw_qemu_set_up(struct gw_qemu *qemu, struct gw_err *err);
/* Undoes it; failures go to the log. */
void gw_qemu_restore(struct gw_qemu *qemu);
/* "guest WHAT at TIME", from an event's time stamp (0: the time is left out). */
void gw_qemu_log_moment(struct gw_qemu *qemu, const char *what, uint64_t realtime_ns);

/* ---- qemu_ram.c ---- */

struct gw_qemu_ram {
	struct godwit_region regions[GW_REGIONS_MAX];
	char names[GW_REGIONS_MAX][GW_REGION_NAME_MAX];
	size_t n;
};

/* All of the guest's RAM, opened; @ram needs a deinit in any case. */
int gw_qemu_ram_find(struct gw_qemu *qemu, struct gw_qemu_ram *ram, struct gw_err *err);
void gw_qemu_ram_deinit(struct gw_qemu_ram *ram);

/* ---- qemu_stream.c ---- */

/* Gives QEMU one end of a socket pair, under a name that `fd:` takes. */
int gw_qemu_stream_prepare(struct gw_qemu *qemu, struct gw_err *err);
/* `migrate` or `migrate-incoming` (@args taken) on it; forgets what was before. */
int gw_qemu_stream_start(struct gw_qemu *qemu, const char *command, json_t *args,
			 struct gw_err *err);
/* Takes back what was prepared and not used. */
void gw_qemu_stream_drop(struct gw_qemu *qemu);
/* {"uri": "fd:…"} for migrate and migrate-incoming; NULL: no memory. */
json_t *gw_qemu_stream_uri(void);

int gw_qemu_header_write(int fd, bool was_running, struct gw_err *err);
int gw_qemu_header_read(int fd, bool *ret_was_running, struct gw_err *err);

/*
 * Moves bytes between the stream and @fd until the stream ends (out) or @size
 * bytes have passed (in), keeping an eye on QMP. *@ret_bytes counts them, also
 * on failure. GW_QEMU_ENDED: QEMU gave the migration up.
 */
#define GW_QEMU_ENDED 1
int gw_qemu_stream_out(struct gw_qemu *qemu, int fd, struct gw_err *err,
		       uint64_t *ret_bytes);
int gw_qemu_stream_in(struct gw_qemu *qemu, int fd, uint64_t size, struct gw_err *err,
		      uint64_t *ret_bytes);
/*
 * Waits until the migration has ended: 0 when completed, -EREMOTEIO with QEMU's
 * own words when it failed.
 */
int gw_qemu_finish(struct gw_qemu *qemu, struct gw_err *err);

/* ---- the two sides ---- */

int gw_qemu_source_check(struct gw_qemu *qemu, struct gw_err *err);
int gw_qemu_dest_check(struct gw_qemu *qemu, struct gw_err *err);
/* Ends a migration that is still under way: nothing of it moves on return. */
int gw_qemu_source_end(struct gw_qemu *qemu, struct gw_err *err);
extern const struct godwit_guest_ops gw_qemu_source_ops;
extern const struct godwit_guest_ops gw_qemu_dest_ops;
