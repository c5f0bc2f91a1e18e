#include "tools/profile_view.h"
#include "core/x86/emu.h"
#include "tools/json.h"
#include "tools/number.h"
#include "tools/status.h"

#include <inttypes.h>

/* A part of the time. */
struct part {
    const char *key, *text;
    uint64_t ns;
    const char *unit; /* of count; NULL: there is none */
    uint64_t count;
};

#define PARTS_MAX 8

/* Returns how many; together they are the whole. */
static unsigned parts_of(const struct replay *r, uint64_t open_ns, struct part out[PARTS_MAX],
                         uint64_t *whole_ns)
{
    const struct replay_profile *p = replay_profile(r);
    const struct replay_totals *t = replay_totals(r);
    uint64_t known = p->engine_ns + p->boundary_ns + p->reading_ns + p->delivery_ns + p->digest_ns;
    const struct part parts[] = {
        {"open", "opening the trace", open_ns, NULL, 0},
        {"execute", "executing", p->engine_ns, "steps", t->position},
        {"crossings", "answering the guest", p->boundary_ns, "accesses", p->crossings},
        {"read", "reading the trace", p->reading_ns, "events", t->events},
        {"deliver", "interrupts and DMA", p->delivery_ns, "deliveries", p->deliveries},
        {"digest", "digests", p->digest_ns, "pages", p->page_count},
        {"rest", "the rest", p->run_ns > known ? p->run_ns - known : 0, NULL, 0},
    };
    *whole_ns = 0;
    for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
        out[i] = parts[i];
        *whole_ns += parts[i].ns;
    }
    return ARRAY_LEN(parts);
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? (double)part * 100 / (double)whole : 0;
}

/* A counter of the emulator's. */
struct counter {
    const char *key, *text;
    uint64_t value;
    bool ns; /* a time; not shown where it was not measured */
};

#define COUNTERS_MAX 24

/* What the emulator's translator did; 0 where there is none. */
static unsigned counters_of(const struct engine *engine, struct counter out[COUNTERS_MAX])
{
    const struct emu_profile *p = emu_profile(engine);
    if (!p)
        return 0;
    const struct counter counters[] = {
        {"steps_translated", "steps in translated code", p->steps_translated, false},
        {"steps_stage1", "steps in the interpreter", p->steps_stage1, false},
        {"translations", "blocks translated", p->translations, false},
        {"superblocks", "superblocks among them", p->superblocks, false},
        {"guest_bytes", "bytes of guest code in them", p->guest_bytes, false},
        {"host_bytes", "bytes of host code made", p->host_bytes, false},
        {"drops", "blocks dropped, their bytes were written", p->drops, false},
        {"recycles", "times that all were dropped for room", p->recycles, false},
        {"links", "jumps made direct", p->links, false},
        {"entries", "entries into translated code", p->entries, false},
        {"exits_link", "exits: to a block not linked yet", p->exits_link, false},
        {"exits_limit", "exits: limit of steps", p->exits_limit, false},
        {"exits_closed", "exits: something waits", p->exits_closed, false},
        {"exits_step", "exits: the interpreter has to go on", p->exits_step, false},
        {"dispatches", "ways from one translation to another that were looked up", p->dispatches, false},
        {"slow_memory", "accesses left to the interpreter (TLB misses, MMIO, ...)", p->slow_memory, false},
        {"slow_branch", "indirect branches to unknown targets", p->slow_branch, false},
        {"handler_calls", "instructions done by a handler", p->handler_calls, false},
        {"decoded", "instructions decoded into blocks", p->decoded, false},
        {"decoded_anew", "of these, by Zydis", p->decoded_anew, false},
        {"decode_ns", "time that decoding took", p->decode_ns, true},
        {"translate_ns", "time that translation took", p->translate_ns, true},
    };
    for (unsigned i = 0; i < ARRAY_LEN(counters); i++)
        out[i] = counters[i];
    return ARRAY_LEN(counters);
}

static void print_counters(const struct engine *engine)
{
    struct counter counters[COUNTERS_MAX];
    struct number_text number;
    unsigned n = counters_of(engine, counters);
    if (n)
        message("the emulator:");
    for (unsigned i = 0; i < n; i++)
        if (!counters[i].ns || counters[i].value)
            message("  %-56s %15s", counters[i].text,
                    counters[i].ns ? duration_format(counters[i].value, &number)
                                   : number_format(counters[i].value, &number));
}

static void json_counters(struct json *j, const struct engine *engine)
{
    struct counter counters[COUNTERS_MAX];
    unsigned n = counters_of(engine, counters);
    json_object(j, "emulator");
    for (unsigned i = 0; i < n; i++)
        json_u64(j, counters[i].key, counters[i].value);
    json_close_object(j);
}

static void print_parts(const struct part *parts, unsigned n, uint64_t whole)
{
    struct number_text time, count;
    message("where the time went, of %s:", duration_format(whole, &time));
    for (unsigned i = 0; i < n; i++) {
        const struct part *p = &parts[i];
        char what[64] = "";
        if (p->unit)
            snprintf(what, sizeof(what), "  %s %s", number_format(p->count, &count), p->unit);
        message("  %-22s %10s %5.1f %%%s", p->text, duration_format(p->ns, &time), percent(p->ns, whole),
                what);
    }
}

static void json_parts(struct json *j, const struct part *parts, unsigned n, uint64_t whole)
{
    json_u64(j, "whole_ns", whole);
    json_array(j, "parts");
    for (unsigned i = 0; i < n; i++) {
        json_object_line(j, NULL);
        json_string(j, "name", parts[i].key);
        json_u64(j, "ns", parts[i].ns);
        if (parts[i].unit)
            json_u64(j, parts[i].unit, parts[i].count);
        json_close_object(j);
    }
    json_close_array(j);
}

void profile_print_replay(const struct replay *r, uint64_t open_ns)
{
    struct part parts[PARTS_MAX];
    uint64_t whole;
    unsigned n = parts_of(r, open_ns, parts, &whole);
    print_parts(parts, n, whole);
    print_counters(replay_engine(r));
}

void profile_json_replay(const struct replay *r, uint64_t open_ns)
{
    struct part parts[PARTS_MAX];
    struct json j;
    uint64_t whole;
    unsigned n = parts_of(r, open_ns, parts, &whole);
    json_begin(&j, stdout);
    json_parts(&j, parts, n, whole);
    json_counters(&j, replay_engine(r));
    json_end(&j);
}

void profile_print_record(const struct record_result *result, const struct engine *engine)
{
    uint64_t known = result->time_in_devices_ns + result->time_halted_ns;
    const struct part parts[] = {
        {"execute", "executing, and the rest", result->elapsed_ns > known ? result->elapsed_ns - known : 0,
         NULL, 0},
        {"devices", "devices, their events", result->time_in_devices_ns, NULL, 0},
        {"halted", "waiting in HLT", result->time_halted_ns, NULL, 0},
    };
    print_parts(parts, ARRAY_LEN(parts), result->elapsed_ns);
    print_counters(engine);
}
