#include "record/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/x86/emu.h"
#include "core/x86/inspect.h"

static void add_memory_words(struct recorder *r, const struct vcpu_state *state, struct landmark *landmark)
{
    struct x86_witness witnesses[X86_WITNESS_MAX];
    unsigned count = x86_witnesses(r->ram, state, witnesses);
    for (unsigned i = 0; i < count && i < LANDMARK_MAX_WITNESSES; i++) {
        landmark->witness[i].address = witnesses[i].address;
        landmark->witness[i].value = witnesses[i].value;
        landmark->witness_count = i + 1;
    }
    struct x86_walk_step entries[X86_UPCOMING_MAX];
    count = x86_upcoming_entries(r->ram, state, entries);
    for (unsigned i = 0; i < count && i < LANDMARK_MAX_ENTRIES; i++) {
        landmark->entry[i].gpa = entries[i].entry;
        landmark->entry[i].value = entries[i].value;
        landmark->entry_count = i + 1;
    }
}

static void add_changed_pages(struct recorder *r, struct landmark *landmark)
{
    size_t count = r->tracker.changed_count;
    if (count > r->options.landmark_pages) {
        count = 1;
        r->landmark_pages[0] = (struct landmark_page){LANDMARK_ALL_OF_RAM, r->tracker.digest.low};
    } else {
        ram_tracker_sort_changed(&r->tracker);
        for (size_t i = 0; i < count; i++) {
            uint32_t page = r->tracker.changed[i];
            r->landmark_pages[i] =
                (struct landmark_page){ram_gfn_of_page(r->ram, page), r->tracker.terms[page].low};
        }
    }
    landmark->page_count = count;
    landmark->pages = r->landmark_pages;
    ram_tracker_clear_changed(&r->tracker);
}

/* Everything that names this boundary, by the registers and by what changed in RAM since the last landmark. */
static int build_landmark(struct recorder *r, struct landmark *landmark, struct error *err)
{
    int status = r->engine->ops->collect_dirty(r->engine, err);
    if (status < 0)
        return status;
    ram_tracker_update(&r->tracker);
    const struct vcpu_state *state = r->engine->ops->state(r->engine);
    *landmark = (struct landmark){.rip = state->rip,
                                  .rflags = state->rflags,
                                  .fpu_hash = fpu_state_hash(&state->fpu),
                                  .elapsed_ns = machine_clock_ns(r->machine) - r->last_place_ns};
    memcpy(landmark->gpr, state->gpr, sizeof(landmark->gpr));
    add_memory_words(r, state, landmark);
    add_changed_pages(r, landmark);
    return 0;
}

/* Gives the event the place where the vCPU stands; landmark is storage for it. */
static int place_here(struct recorder *r, struct event *event, struct landmark *landmark, struct error *err)
{
    event->position = r->engine->ops->position(r->engine);
    if (!r->is_kvm) {
        event->place = r->positions ? PLACE_POSITION : PLACE_STEPS;
        event->steps = event->position - r->place_position;
        return 0;
    }
    if (kvm_engine_after_crossing(r->engine)) {
        event->place = PLACE_AFTER;
        return 0;
    }
    event->place = PLACE_LANDMARK;
    event->landmark = landmark;
    return build_landmark(r, landmark, err);
}

static int write_event(struct recorder *r, const struct event *event, struct error *err)
{
    int status = record_event(r, event);
    if (status < 0 && err)
        *err = r->error;
    return status;
}

bool record_digest_due(const struct recorder *r)
{
    uint64_t since = machine_clock_ns(r->machine) - r->last_digest_ns;
    if (r->clock.is_virtual) /* where a digest comes does not depend on when the host looks */
        since = 0;
    if (r->is_kvm)
        return since >= RECORD_DIGEST_KVM_NS;
    return since >= RECORD_DIGEST_EMU_NS ||
           r->engine->ops->position(r->engine) - r->last_digest_position >= RECORD_DIGEST_STEPS;
}

/* Brings the digest of RAM up to the present, where no landmark has just done so. */
static int update_tracker(struct recorder *r, struct error *err)
{
    int status = r->engine->ops->collect_dirty(r->engine, err);
    if (status < 0)
        return status;
    ram_tracker_update(&r->tracker);
    if (r->positions) /* nobody asks what changed: there are no landmarks */
        ram_tracker_clear_changed(&r->tracker);
    return 0;
}

int record_digest(struct recorder *r, struct error *err)
{
    struct event event = {.type = EVENT_DIGEST};
    struct landmark landmark;
    int status = place_here(r, &event, &landmark, err);
    if (status == 0 && event.place != PLACE_LANDMARK)
        status = update_tracker(r, err);
    if (status < 0)
        return status;
    const struct vcpu_state *state = r->engine->ops->state(r->engine);
    struct buffer encoded = {0};
    vcpu_state_encode(state, &encoded);
    event.value = vcpu_state_digest(state);
    event.digest = r->tracker.digest;
    event.data = encoded.data;
    event.data_length = encoded.length;
    r->last_digest_ns = machine_clock_ns(r->machine);
    r->last_digest_position = event.position;
    status = encoded.failed ? error_set(err, -ENOMEM, "out of memory") : write_event(r, &event, err);
    buffer_free(&encoded);
    return status;
}

int record_interrupt(struct recorder *r, struct error *err)
{
    struct event event = {.type = EVENT_INTERRUPT, .place = PLACE_PREVIOUS};
    struct landmark landmark;
    int status;
    if (record_digest_due(r)) {
        event.position = r->engine->ops->position(r->engine);
        status = record_digest(r, err);
    } else {
        status = place_here(r, &event, &landmark, err);
    }
    if (status < 0)
        return status;
    event.flag = (r->engine->ops->state(r->engine)->rflags & RFLAGS_RF) != 0;
    event.vector = machine_interrupt_acknowledge(r->machine);
    status = write_event(r, &event, err);
    if (status < 0)
        return status;
    r->interrupts++;
    r->halted = false;
    return r->engine->ops->interrupt(r->engine, event.vector, err);
}

/* One event of at most EVENT_MAX_DATA bytes, and what it says. */
static int dma_piece(struct recorder *r, gpa_t gpa, const uint8_t *data, size_t length, struct error *err)
{
    struct event event = {.type = EVENT_DMA, .address = gpa, .data = data, .data_length = length};
    struct landmark landmark;
    int status = 0;
    if (r->is_kvm && r->dma_placed)
        event.place = PLACE_PREVIOUS, event.position = POSITION_UNKNOWN;
    else
        status = place_here(r, &event, &landmark, err);
    if (status == 0)
        status = write_event(r, &event, err);
    if (status < 0)
        return status;
    r->dma_placed = true;
    r->dma_bytes += length;
    status = ram_write(r->ram, gpa, data, length);
    if (status < 0)
        return error_errno(err, status, "DMA to guest physical 0x%" PRIx64, gpa);
    if (!r->is_kvm) {
        emu_ram_changed(r->engine, ram_offset(r->ram, gpa), length);
        r->engine->ops->set_position(r->engine, event.position + 1);
    }
    return 0;
}

void record_dma(void *context, gpa_t gpa, const void *data, size_t length)
{
    struct recorder *r = context;
    const uint8_t *bytes = data;
    for (size_t done = 0; done < length && !r->failed;) {
        size_t now = length - done < EVENT_MAX_DATA ? length - done : EVENT_MAX_DATA;
        if (dma_piece(r, gpa + done, bytes + done, now, &r->error) < 0)
            r->failed = true;
        done += now;
    }
}

static int write_note(struct recorder *r, const char *text, struct error *err)
{
    struct event event = {.type = EVENT_MARK,
                          .place = PLACE_PREVIOUS,
                          .position = r->engine->ops->position(r->engine),
                          .data = (const uint8_t *)text,
                          .data_length = strlen(text)};
    return write_event(r, &event, err);
}

void record_mark(void *context, const char *text)
{
    struct event event = {.type = EVENT_MARK,
                          .place = PLACE_PREVIOUS,
                          .position = POSITION_UNKNOWN,
                          .data = (const uint8_t *)text,
                          .data_length = strlen(text)};
    record_event(context, &event);
}

void record_crash(struct recorder *r, const char *text)
{
    struct error err;
    char mark[CRASH_LINE_BYTES + 16];
    if (r->crash_marks == RECORD_CRASH_MARKS)
        return;
    r->crash_marks++;
    snprintf(mark, sizeof(mark), EVENT_CRASH_PREFIX "%s", text);
    if (write_note(r, mark, &err) < 0) /* the recorder keeps the reason */
        return;
}

static int write_unclaimed(struct recorder *r, const char *kind, const struct unclaimed *list, size_t count,
                           struct error *err)
{
    int status = 0;
    for (size_t i = 0; i < count && status == 0; i++) {
        char text[128];
        snprintf(text, sizeof(text), "unclaimed %s 0x%" PRIx64 ": %" PRIu64 " reads, %" PRIu64 " writes",
                 kind, list[i].address, list[i].reads, list[i].writes);
        status = write_note(r, text, err);
    }
    return status;
}

static int write_kvm_statistics(struct recorder *r, struct error *err)
{
    const struct kvm_statistics *k = kvm_engine_statistics(r->kvm);
    char text[512];
    snprintf(text, sizeof(text),
             "kvm exits: pio %" PRIu64 ", mmio %" PRIu64 ", hlt %" PRIu64 ", msr %" PRIu64 ", window %" PRIu64
             ", kick %" PRIu64 ", internal %" PRIu64 ", other %" PRIu64 "; emulated steps %" PRIu64
             "; time in kvm %" PRIu64 " ns, halted %" PRIu64 " ns, emulator %" PRIu64 " ns, devices %" PRIu64
             " ns",
             k->exits_pio, k->exits_mmio, k->exits_hlt, k->exits_msr, k->exits_window, k->exits_kick,
             k->exits_internal, k->exits_other, k->emulated_steps, k->time_in_kvm_ns, r->time_halted_ns,
             k->time_in_emulator_ns, r->time_in_devices_ns);
    return write_note(r, text, err);
}

/* With what the recording can be made once more. */
static int write_clock_note(struct recorder *r, struct error *err)
{
    char text[64];
    if (!r->options.seeded)
        return 0;
    snprintf(text, sizeof(text), "clock: %s; seed: %" PRIu64, r->clock.is_virtual ? "virtual" : "host",
             r->options.seed);
    return write_note(r, text, err);
}

/* What `info` tells of a recording beyond its events. */
static int write_notes(struct recorder *r, struct error *err)
{
    int clock_written = write_clock_note(r, err);
    if (clock_written < 0)
        return clock_written;
    if (r->kvm) {
        int written = write_kvm_statistics(r, err);
        if (written < 0)
            return written;
    }
    const struct unclaimed *list;
    size_t count = machine_unclaimed_ports(r->machine, &list);
    int status = write_unclaimed(r, "port", list, count, err);
    if (status < 0)
        return status;
    count = machine_unclaimed_mmio(r->machine, &list);
    return write_unclaimed(r, "address", list, count, err);
}

int record_end(struct recorder *r, enum trace_end end, uint32_t status_value, const char *message,
               struct error *err)
{
    struct event event = {.type = EVENT_END,
                          .place = PLACE_PREVIOUS,
                          .position = r->engine->ops->position(r->engine),
                          .source = (uint8_t)end,
                          .value = status_value,
                          .data = (const uint8_t *)message,
                          .data_length = strlen(message)};
    int status = 0;
    if (end ==
        TRACE_END_SHUTDOWN) /* KVM may have reset the vCPU by now: replay finds this place by executing */
        event.place = PLACE_CROSSING;
    else if (!r->is_kvm ||
             kvm_engine_settled(r->engine)) /* not where KVM failed in the middle of something */
        status = record_digest(r, err);
    if (status == 0)
        status = write_notes(r, err);
    if (status == 0)
        status = write_event(r, &event, err);
    return status;
}
