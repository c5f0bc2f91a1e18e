#include "tools/profile_view.h"
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

void profile_print_replay(const struct replay *r, uint64_t open_ns)
{
    struct part parts[PARTS_MAX];
    struct number_text time, count;
    uint64_t whole;
    unsigned n = parts_of(r, open_ns, parts, &whole);
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

void profile_json_replay(const struct replay *r, uint64_t open_ns)
{
    struct part parts[PARTS_MAX];
    struct json j;
    uint64_t whole;
    unsigned n = parts_of(r, open_ns, parts, &whole);
    json_begin(&j, stdout);
    json_u64(&j, "whole_ns", whole);
    json_array(&j, "parts");
    for (unsigned i = 0; i < n; i++) {
        json_object_line(&j, NULL);
        json_string(&j, "name", parts[i].key);
        json_u64(&j, "ns", parts[i].ns);
        if (parts[i].unit)
            json_u64(&j, parts[i].unit, parts[i].count);
        json_close_object(&j);
    }
    json_close_array(&j);
    json_end(&j);
}
