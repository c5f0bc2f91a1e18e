/*
 * Landmarks on the replaying side: the search for the boundary that one describes, and the A and D bits that come
 * with it (docs/landmarks.md).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/x86/emu.h"
#include "core/x86/inspect.h"
#include "replay/internal.h"

/* Steps that a host CPU cannot exceed in a nanosecond, REP iterations included, and slack for a late clock. */
#define SEARCH_STEPS_PER_NS 64u
#define SEARCH_SLACK_STEPS  50000000u

#define PTE_ACCESSED_DIRTY ((uint64_t)0x60)

/*
 * The value that the recorder saw in a page-table entry, if it is the replay's with more A and D bits; otherwise
 * the replay's own. False where there is no such word of RAM.
 */
static bool entry_as_recorded(const struct guest_ram *ram, gpa_t gpa, uint64_t recorded, uint64_t *value)
{
    if (ram_read(ram, gpa, value, sizeof(*value)) != 0)
        return false;
    if (((*value ^ recorded) & ~PTE_ACCESSED_DIRTY) == 0)
        *value |= recorded;
    return true;
}

void landmark_apply_entries(struct replay *r)
{
    const struct landmark *l = r->next.landmark;
    for (unsigned i = 0; l && i < l->entry_count; i++) {
        uint64_t now, value;
        if (!entry_as_recorded(r->ram, l->entry[i].gpa, l->entry[i].value, &value) ||
            ram_read(r->ram, l->entry[i].gpa, &now, sizeof(now)) != 0 || now == value)
            continue;
        if (ram_write(r->ram, l->entry[i].gpa, &value, sizeof(value)) == 0)
            emu_ram_changed(r->engine, ram_offset(r->ram, l->entry[i].gpa), sizeof(value));
    }
}

static bool witnesses_agree(const struct replay *r, const struct landmark *l, const struct vcpu_state *state)
{
    for (unsigned i = 0; i < l->witness_count; i++) {
        if (x86_witness_value(r->ram, state, l->witness[i].address) != l->witness[i].value)
            return false;
    }
    return true;
}

/* A page's term with the recorder's A and D bits in those of its entries that the landmark names. */
static struct hash128 term_as_recorded(const struct replay *r, const uint8_t *bytes, gfn_t gfn)
{
    const struct landmark *l = r->next.landmark;
    uint8_t copy[PAGE_SIZE_BYTES];
    bool copied = false;
    for (unsigned i = 0; i < l->entry_count; i++) {
        uint64_t value;
        gpa_t gpa = l->entry[i].gpa;
        if (gpa >> PAGE_SHIFT != gfn || (gpa & 7) ||
            !entry_as_recorded(r->ram, gpa, l->entry[i].value, &value))
            continue;
        if (!copied)
            memcpy(copy, bytes, sizeof(copy));
        copied = true;
        memcpy(copy + (gpa & PAGE_MASK), &value, sizeof(value));
    }
    return ram_digest_term(copied ? copy : bytes, gfn);
}

/* The same for all of RAM. The pages written since the last time are marked anew, so that they count the next time too. */
static bool ram_agrees(struct replay *r, uint64_t digest)
{
    const struct landmark *l = r->next.landmark;
    struct hash128 ram;
    struct error ignored;
    if (replay_ram_digest(r, &ram, &ignored) < 0)
        return false;
    emu_ram_changed(r->engine, 0, 0);
    for (unsigned i = 0; i < l->entry_count; i++) {
        gfn_t gfn = l->entry[i].gpa >> PAGE_SHIFT;
        const uint8_t *bytes = ram_frame(r->ram, gfn);
        bool done = !bytes;
        for (unsigned k = 0; k < i; k++)
            done |= l->entry[k].gpa >> PAGE_SHIFT == gfn;
        if (done)
            continue;
        ram_digest_remove(&ram, ram_digest_term(bytes, gfn));
        ram_digest_add(&ram, term_as_recorded(r, bytes, gfn));
    }
    return ram.low == digest;
}

static bool page_agrees(struct replay *r, const struct landmark_page *page)
{
    const uint8_t *bytes = ram_frame(r->ram, page->gfn);
    if (page->gfn == LANDMARK_ALL_OF_RAM ? ram_agrees(r, page->digest)
                                         : bytes && term_as_recorded(r, bytes, page->gfn).low == page->digest)
        return true;
    r->search.page_gfn = page->gfn;
    return false;
}

static bool pages_agree(struct replay *r, const struct landmark *l)
{
    if (r->search.hint < l->page_count && !page_agrees(r, &l->pages[r->search.hint]))
        return false;
    for (size_t i = 0; i < l->page_count; i++) {
        if (!page_agrees(r, &l->pages[i])) {
            r->search.hint = i;
            return false;
        }
    }
    return true;
}

/* Registers are equal: is the rest? The first boundary where all of it is equal is the landmark's, or has the same future. */
static bool accept_boundary(void *context, const struct vcpu_state *state)
{
    struct replay *r = context;
    const struct landmark *l = r->next.landmark;
    r->search.registers_equal++;
    if (!witnesses_agree(r, l, state)) {
        r->search.witness_differs++;
        return false;
    }
    if (fpu_state_hash(&state->fpu) != l->fpu_hash) {
        r->search.fpu_differs++;
        return false;
    }
    if (!pages_agree(r, l)) {
        r->search.page_differs++;
        return false;
    }
    return true;
}

static const char *const gpr_names[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                 "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

const char *landmark_describe_search(const struct replay *r, char *out, size_t size)
{
    const struct landmark *l = r->next.landmark;
    const struct landmark_search *s = &r->search;
    int n = snprintf(out, size,
                     "landmark at RIP 0x%" PRIx64 "; since position %" PRIu64 ", %" PRIu64
                     " boundaries had its registers (of which %" PRIu64 " differed in memory words, %" PRIu64
                     " in FPU state, %" PRIu64 " in a page, last in frame 0x%" PRIx64 ") and %" PRIu64
                     " had its RIP only",
                     l->rip, s->start, s->registers_equal, s->witness_differs, s->fpu_differs,
                     s->page_differs, s->page_gfn, s->miss.count);
    size_t used = n > 0 ? (size_t)n : 0;
    if (s->miss.count && used < size)
        used += (size_t)snprintf(out + used, size - used, "; at the last of these (recorded / replayed):");
    for (unsigned i = 0; s->miss.count && i < GPR_COUNT && used < size; i++)
        if (l->gpr[i] != s->miss.gpr[i])
            used += (size_t)snprintf(out + used, size - used, "\n    %s: 0x%" PRIx64 " / 0x%" PRIx64,
                                     gpr_names[i], l->gpr[i], s->miss.gpr[i]);
    if (s->miss.count && l->rflags != s->miss.rflags && used < size)
        snprintf(out + used, size - used, "\n    rflags: 0x%" PRIx64 " / 0x%" PRIx64, l->rflags,
                 s->miss.rflags);
    return out;
}

int landmark_check_search(struct replay *r, struct error *err)
{
    uint64_t bound;
    if (__builtin_mul_overflow(r->next.landmark->elapsed_ns, SEARCH_STEPS_PER_NS, &bound) ||
        __builtin_add_overflow(bound, SEARCH_SLACK_STEPS, &bound))
        bound = UINT64_MAX;
    position_t searched = replay_position(r) - r->search.start;
    if (searched <= bound)
        return 0;
    char how[1200];
    return replay_diverged(r, err, "the place of the next event was not found in %" PRIu64 " steps: %s",
                           searched, landmark_describe_search(r, how, sizeof(how)));
}

void landmark_prepare(struct replay *r)
{
    if (r->next.place != PLACE_LANDMARK || r->next.position != POSITION_UNKNOWN)
        return;
    const struct landmark *l = r->next.landmark;
    r->search = (struct landmark_search){.start = replay_position(r)};
    r->match = (struct engine_match){.rip = l->rip,
                                     .rflags = l->rflags,
                                     .rflags_ignore =
                                         RFLAGS_RF /* the recording CPU's choice between REP iterations */,
                                     .accept = accept_boundary,
                                     .context = r,
                                     .miss = &r->search.miss};
    memcpy(r->match.gpr, l->gpr, sizeof(r->match.gpr));
}
