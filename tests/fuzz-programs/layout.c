/* From items to bytes, and to text. */
#include <Zydis/Zydis.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/fuzz-programs/program.h"

#define INT3 0xcc
#define NOP  0x90

static bool is_gone(const struct program *p, const struct item *i)
{
    return i->removed || (i->needs_target && p->items[i->target].removed);
}

static void place(struct program *p, unsigned number)
{
    const struct item *i = &p->items[number];
    uint64_t at = p->item_address[number];
    uint8_t bytes[ITEM_BYTES];
    memcpy(bytes, i->bytes, sizeof bytes);
    uint64_t value = 0, end = at + i->length;
    if (i->kind == ITEM_RIP)
        value = i->address - end;
    else if (i->kind == ITEM_BRANCH)
        value = p->item_address[i->target] - end;
    else if (i->kind == ITEM_ADDRESS)
        value = p->item_address[i->target] + i->address;
    if (i->kind != ITEM_PLAIN)
        memcpy(bytes + i->field, &value, i->field_bytes);
    if (i->kind == ITEM_BRANCH && i->field_bytes == 1 && (int64_t)value != (int8_t)value)
        memset(bytes, NOP, i->length);
    memcpy(p->code + (at - ISA_CODE), bytes, i->length);
}

void program_layout(struct program *p)
{
    uint64_t at = p->start;
    memset(p->code, INT3, sizeof p->code);
    for (unsigned i = 0; i < p->count; i++) {
        p->item_address[i] = at;
        if (!is_gone(p, &p->items[i]))
            at += p->items[i].length;
    }
    p->item_address[p->count] = at;
    for (unsigned i = 0; i < p->count; i++)
        if (!is_gone(p, &p->items[i]))
            place(p, i);
    memcpy(p->code + (PROGRAM_LITERALS - ISA_CODE), p->literals, sizeof p->literals);
}

void program_remove(struct program *p, unsigned item)
{
    for (unsigned i = 0; i < p->count; i++) {
        bool goes = i == item || (p->items[i].needs_target && p->items[i].target == item);
        if (goes && !is_gone(p, &p->items[i]))
            memset(p->code + (p->item_address[i] - ISA_CODE), NOP, p->items[i].length);
    }
    p->items[item].removed = true;
}

int program_item_at(const struct program *p, uint64_t address)
{
    for (unsigned i = 0; i < p->count; i++)
        if (!is_gone(p, &p->items[i]) && p->item_address[i] == address)
            return (int)i;
    return -1;
}

unsigned program_instructions(const struct program *p)
{
    unsigned n = 0;
    for (unsigned i = 0; i < p->count; i++)
        n += !is_gone(p, &p->items[i]) && p->items[i].bytes[0] != INT3;
    return n;
}

void append_text(char *text, size_t size, const char *format, ...)
{
    size_t n = strlen(text);
    va_list list;
    va_start(list, format);
    vsnprintf(text + n, size - n, format, list);
    va_end(list);
}

static void print_state(const struct vcpu_state *s, char *text, size_t size)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        append_text(text, size, "%s%#llx", i ? ", " : "  gpr ", (unsigned long long)s->gpr[i]);
    append_text(text, size, "\n  rflags %#llx fcw %#x fsw %#x ftw %#x mxcsr %#x\n",
                (unsigned long long)s->rflags, s->fpu.fcw, s->fpu.fsw, s->fpu.ftw, s->fpu.mxcsr);
}

void program_print(const struct program *p, char *text, size_t size)
{
    append_text(text, size, "program %llu, %s code, %u instructions at %#llx\n", (unsigned long long)p->seed,
                p->long_mode ? "64-bit" : "32-bit", program_instructions(p), (unsigned long long)p->start);
    print_state(&p->in, text, size);
    for (unsigned i = 0; i < p->count; i++) {
        if (is_gone(p, &p->items[i]))
            continue;
        uint64_t at = p->item_address[i];
        const uint8_t *bytes = p->code + (at - ISA_CODE);
        ZydisDisassembledInstruction d;
        bool good = ZYAN_SUCCESS(ZydisDisassembleIntel(p->long_mode ? ZYDIS_MACHINE_MODE_LONG_64
                                                                    : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                                       at, bytes, p->items[i].length, &d));
        append_text(text, size, "  %llx: ", (unsigned long long)at);
        for (unsigned k = 0; k < p->items[i].length; k++)
            append_text(text, size, "%02x", bytes[k]);
        append_text(text, size, "  %s\n", good ? d.text : "(undefined)");
    }
}
