/*
 * Replay: the emulator fed by a trace. Exact, or a divergence (ERROR_DIVERGENCE with a report).
 *
 * A replay stands at a position; running moves it forwards; seeking backwards goes through a keyframe.
 */
#ifndef DEJAVM_REPLAY_REPLAY_H
#define DEJAVM_REPLAY_REPLAY_H

#include "core/base/error.h"
#include "core/ram.h"
#include "core/symbols.h"
#include "core/vcpu_state.h"
#include "core/x86/emu.h"
#include "trace-format/trace_reader.h"

struct replay;

struct replay_hooks {
    /* What the guest printed, as the replay gets there. */
    void (*console)(void *context, unsigned channel, const uint8_t *data, size_t length);
    /* Now and then (at least every 100 ms): position and events done. True stops the run (-EINTR). */
    bool (*progress)(void *context, position_t position, uint64_t events);
    void *context;
};

struct replay_totals {
    position_t position;
    uint64_t events, interrupts, digests_checked, outputs_checked, console_bytes;
    bool at_end; /* all of the trace is done */
    enum trace_end end;
    uint32_t status;
    char end_message[512];
};

/* Opens the trace and stands at position 0. hooks may be NULL, and are copied. */
int replay_open(struct replay **out, const char *path, const struct replay_hooks *hooks,
                struct error *err) must_check;
void replay_close(struct replay *r); /* NULL is fine */

/*
 * Runs forward until position, or the end of the trace, whichever comes first; POSITION_UNKNOWN = to the end. Every output, digest and
 * event is checked. Stops exactly at position.
 */
int replay_run(struct replay *r, position_t position, struct error *err) must_check;

/* Goes to position by the nearest keyframe (sealed traces; else forwards from the start). Beyond the end: -ERANGE. */
int replay_seek(struct replay *r, position_t position, struct error *err) must_check;

/* Where the time of replay_run() went, on the host's clock. */
struct replay_profile {
    uint64_t run_ns;                         /* all of it */
    uint64_t engine_ns;                      /* of run_ns: executing, without what the boundary took */
    uint64_t boundary_ns, crossings;         /* answering the guest's accesses, without reading the trace */
    uint64_t reading_ns;                     /* reading and decoding events */
    uint64_t delivery_ns, deliveries;        /* interrupts, and what devices wrote to RAM */
    uint64_t digest_ns, digests, page_count; /* checking digests; pages hashed for it */
};

/* From now on time is taken. It costs a few per cent where there are many events. */
void replay_start_profile(struct replay *r);
/* See emu_jitdump(). */
int replay_jitdump(struct replay *r, const char *folder, struct error *err) must_check;
/* NULL without replay_start_profile(). */
const struct replay_profile *replay_profile(const struct replay *r);
/* Which stages of the emulator execute from now on; mixed at first. */
void replay_set_stages(struct replay *r, enum emu_stages stages);
/* The emulator underneath, for its own counters. */
const struct engine *replay_engine(const struct replay *r);

const struct vcpu_state *replay_state(struct replay *r);
const struct guest_ram *replay_ram(const struct replay *r);
int replay_ram_digest(struct replay *r, struct hash128 *out, struct error *err) must_check;
position_t replay_position(const struct replay *r);
const struct replay_totals *replay_totals(const struct replay *r);
struct trace_reader *replay_reader(struct replay *r);
/* Those of the guest's image, read when first asked for; NULL when it cannot be read. */
const struct symbols *replay_symbols(struct replay *r);

/*
 * Sealing: replays the whole trace, and appends the position of every event and keyframes. No-op on a sealed trace. A cut-short
 * trace is sealed up to where it can be replayed. totals may be NULL.
 */
int replay_seal(const char *path, const struct replay_hooks *hooks, struct replay_totals *totals,
                struct error *err) must_check;

#endif
