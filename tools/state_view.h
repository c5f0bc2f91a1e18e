/* The vCPU's state and guest memory, for people and as JSON. docs/json.md lists the keys. */
#ifndef DEJAVM_TOOLS_STATE_VIEW_H
#define DEJAVM_TOOLS_STATE_VIEW_H

#include "core/ram.h"
#include "core/symbols.h"
#include "core/vcpu_state.h"
#include "tools/json.h"

struct state_view {
    const struct vcpu_state *state;
    const struct guest_ram *ram;
    const struct symbols *symbols; /* may be NULL */
};

void state_print(const struct state_view *view, FILE *out);
/* Members of the object that is open. */
void state_json(const struct state_view *view, struct json *j);
const char *state_mode_name(const struct vcpu_state *s); /* "64-bit mode" */
/* The value of "rax" to "r15" or "rip"; false when there is no such register. */
bool state_register(const struct vcpu_state *s, const char *name, uint64_t *value);

/* One --mem argument. */
struct memory_range {
    bool physical;
    uint64_t address;
    size_t length;
};
#define MEMORY_RANGE_MAX ((uint64_t)16 << 20)

/*
 * "ADDR:LEN" or "phys:ADDR:LEN"; ADDR is a number, a register ("rsp") or a symbol of the guest. On failure
 * false, and why in reason.
 */
bool memory_range_parse(const struct state_view *view, const char *text, struct memory_range *out,
                        char *reason, size_t reason_size) must_check;
/* True when the text has the right form; looks nothing up. */
bool memory_range_well_formed(const char *text) must_check;
void memory_print(const struct state_view *view, const struct memory_range *range, FILE *out);
/* Members of the object that is open. */
void memory_json(const struct state_view *view, const struct memory_range *range, struct json *j);

#endif
