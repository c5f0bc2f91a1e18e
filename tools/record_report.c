#include "tools/record_report.h"
#include "tools/number.h"
#include "tools/session.h"
#include "tools/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

/* Those of --exit-code where the guest gave none. 124 and 125 as timeout(1) has them, 130 as a shell has Ctrl-C. */
enum {
    GUEST_STATUS_TIMEOUT = 124,
    GUEST_STATUS_NONE = 125,
    GUEST_STATUS_STOPPED = 130,
    GUEST_STATUS_MOST = 255
};

static void report_end(const struct record_result *r)
{
    char end[640];
    trace_end_describe(r->end, r->status, r->message, end, sizeof(end));
    message("guest ended: %s%s%s", end, r->last_rip[0] ? ", at " : "", r->last_rip);
}

static void report_kvm(const struct kvm_statistics *k)
{
    const struct {
        const char *name;
        uint64_t count;
    } kinds[] = {{"port", k->exits_pio},          {"MMIO", k->exits_mmio},     {"HLT", k->exits_hlt},
                 {"MSR", k->exits_msr},           {"window", k->exits_window}, {"kick", k->exits_kick},
                 {"internal", k->exits_internal}, {"other", k->exits_other}};
    struct number_text number;
    uint64_t total = 0;
    char text[400];
    size_t used = 0;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        total += kinds[i].count;
        if (kinds[i].count && used < sizeof(text))
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s %s", used ? ", " : "",
                                     kinds[i].name, number_format(kinds[i].count, &number));
    }
    message("exits: %s%s%s%s", number_format(total, &number), used ? " (" : "", used ? text : "",
            used ? ")" : "");
    if (k->emulated_steps)
        message("instructions that KVM could not execute, done by dejavm: %s",
                number_format(k->emulated_steps, &number));
}

static void report_time(const struct record_result *r)
{
    struct number_text kvm, emulator, devices, rest, halted;
    uint64_t known =
        r->kvm.time_in_kvm_ns + r->kvm.time_in_emulator_ns + r->time_in_devices_ns + r->time_halted_ns;
    uint64_t dejavm = r->elapsed_ns > known ? r->elapsed_ns - known : 0;
    message("time: guest and KVM %s, halted %s, emulator %s, devices %s, rest of dejavm %s",
            duration_format(r->kvm.time_in_kvm_ns, &kvm), duration_format(r->time_halted_ns, &halted),
            duration_format(r->kvm.time_in_emulator_ns, &emulator),
            duration_format(r->time_in_devices_ns, &devices), duration_format(dejavm, &rest));
}

static void report_unclaimed(const char *what, const struct unclaimed *list, size_t count)
{
    char text[800];
    size_t used = 0;
    if (count == 0)
        return;
    for (size_t i = 0; i < count && used < sizeof(text); i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used,
                                 "%s0x%" PRIx64 " (%" PRIu64 " reads, %" PRIu64 " writes)", i ? ", " : "",
                                 list[i].address, list[i].reads, list[i].writes);
    message("%s where no device is: %s", what, text);
}

void record_report(const struct record_result *r, const char *trace_path, bool engine_was_auto)
{
    struct number_text time, events, interrupts, bytes, position;
    struct stat file;
    uint64_t size = stat(trace_path, &file) == 0 ? (uint64_t)file.st_size : r->trace_bytes;
    report_end(r);
    message("engine: %s%s%s", r->engine, engine_was_auto && r->engine_reason[0] ? ", since " : "",
            engine_was_auto ? r->engine_reason : "");
    if (r->position == POSITION_UNKNOWN)
        message("ran for %s", duration_format(r->elapsed_ns, &time));
    else
        message("ran for %s: %s steps", duration_format(r->elapsed_ns, &time),
                number_format(r->position, &position));
    if (r->have_kvm) {
        report_kvm(&r->kvm);
        report_time(r);
    }
    report_unclaimed("ports", r->unclaimed_ports, r->unclaimed_port_count);
    report_unclaimed("addresses", r->unclaimed_mmio, r->unclaimed_mmio_count);
    message("trace: %s, %s, %s events, %s interrupts", trace_path, bytes_format(size, &bytes),
            number_format(r->events, &events), number_format(r->interrupts, &interrupts));
}

void record_report_seal(const struct replay_totals *t, uint64_t elapsed_ns)
{
    struct number_text position, time, checks;
    message("sealed in %s: replayed exactly, %s steps, %s outputs and digests checked",
            duration_format(elapsed_ns, &time), number_format(t->position, &position),
            number_format(t->outputs_checked + t->digests_checked, &checks));
}

int record_guest_status(const struct record_result *r)
{
    switch (r->end) {
    case TRACE_END_DEBUG_EXIT:
        return r->status <= GUEST_STATUS_MOST ? (int)r->status : GUEST_STATUS_MOST;
    case TRACE_END_RESET:
    case TRACE_END_POWEROFF:
        return STATUS_OK;
    case TRACE_END_TIMEOUT:
    case TRACE_END_MAX_STEPS:
        return GUEST_STATUS_TIMEOUT;
    case TRACE_END_STOPPED:
        return GUEST_STATUS_STOPPED;
    case TRACE_END_SHUTDOWN:
    case TRACE_END_HALTED:
    case TRACE_END_ERROR:
        break;
    }
    return GUEST_STATUS_NONE;
}
