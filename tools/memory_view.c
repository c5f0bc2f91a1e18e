/* The --mem ranges of `dejavm state`. */
#include "tools/state_view.h"
#include "core/x86/inspect.h"
#include "tools/number.h"

#include <inttypes.h>
#include <string.h>

enum { LINE_BYTES = 16 };

/* Splits off LEN and "phys:"; *address_length is that of ADDR in *address. */
static bool split(const char *text, bool *physical, const char **address, size_t *address_length,
                  uint64_t *length)
{
    *physical = strncmp(text, "phys:", 5) == 0;
    if (*physical)
        text += 5;
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text || !size_parse(colon + 1, length))
        return false;
    *address = text;
    *address_length = (size_t)(colon - text);
    return *length > 0 && *length <= MEMORY_RANGE_MAX;
}

bool memory_range_well_formed(const char *text)
{
    bool physical;
    const char *address;
    size_t address_length;
    uint64_t length;
    return split(text, &physical, &address, &address_length, &length) && address_length < 256;
}

bool state_register(const struct vcpu_state *s, const char *name, uint64_t *value)
{
    static const char *const names[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                 "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    for (size_t i = 0; i < GPR_COUNT; i++) {
        if (strcmp(name, names[i]) == 0) {
            *value = s->gpr[i];
            return true;
        }
    }
    *value = s->rip;
    return strcmp(name, "rip") == 0;
}

bool memory_range_parse(const struct state_view *view, const char *text, struct memory_range *out,
                        char *reason, size_t reason_size)
{
    const char *address;
    size_t address_length;
    uint64_t length;
    char name[256];
    if (!split(text, &out->physical, &address, &address_length, &length) || address_length >= sizeof(name)) {
        snprintf(reason, reason_size, "'%.200s' is not of the form ADDR:LEN", text);
        return false;
    }
    memcpy(name, address, address_length);
    name[address_length] = '\0';
    out->length = (size_t)length;
    if (number_parse(name, &out->address) || state_register(view->state, name, &out->address) ||
        symbols_find(view->symbols, name, &out->address))
        return true;
    snprintf(reason, reason_size, "'%.200s' is neither a number nor a register nor a symbol of the guest",
             name);
    return false;
}

/* How many of the bytes could be read from the start on. */
static size_t read_some(const struct state_view *view, bool physical, uint64_t address, uint8_t *out,
                        size_t length)
{
    if (!physical)
        return x86_read_virtual(view->ram, view->state, address, out, length);
    return ram_read(view->ram, address, out, length) == 0 ? length : 0;
}

/* One line's bytes; present[i] says which could be read: a line may cross into a page that is not there. */
static void read_line(const struct state_view *view, bool physical, uint64_t address, uint8_t *out,
                      bool *present, size_t length)
{
    for (size_t i = 0; i < length; i++)
        present[i] = false;
    if (read_some(view, physical, address, out, length) == length) {
        for (size_t i = 0; i < length; i++)
            present[i] = true;
        return;
    }
    for (size_t i = 0; i < length; i++)
        present[i] = read_some(view, physical, address + i, out + i, 1) == 1;
}

void memory_print(const struct state_view *view, const struct memory_range *range, FILE *out)
{
    fprintf(out, "memory at %s0x%" PRIx64 ", %zu bytes\n", range->physical ? "phys:" : "", range->address,
            range->length);
    for (size_t done = 0; done < range->length; done += LINE_BYTES) {
        uint8_t bytes[LINE_BYTES];
        bool present[LINE_BYTES];
        size_t count = range->length - done < LINE_BYTES ? range->length - done : LINE_BYTES;
        uint64_t address = range->address + done;
        read_line(view, range->physical, address, bytes, present, count);
        fprintf(out, "%016" PRIx64 " ", address);
        for (size_t i = 0; i < LINE_BYTES; i++) {
            if (i == LINE_BYTES / 2)
                putc(' ', out);
            if (i >= count)
                fputs("   ", out);
            else if (present[i])
                fprintf(out, " %02x", bytes[i]);
            else
                fputs(" ??", out);
        }
        fputs("  |", out);
        for (size_t i = 0; i < count; i++)
            putc(present[i] && bytes[i] >= 0x20 && bytes[i] < 0x7f ? bytes[i] : '.', out);
        fputs("|\n", out);
    }
}

void memory_json(const struct state_view *view, const struct memory_range *range, struct json *j)
{
    static const char digits[] = "0123456789abcdef";
    json_string(j, "space", range->physical ? "physical" : "virtual");
    json_u64(j, "address", range->address);
    json_u64(j, "length", range->length);
    json_array(j, "lines");
    for (size_t done = 0; done < range->length; done += LINE_BYTES) {
        uint8_t bytes[LINE_BYTES];
        bool present[LINE_BYTES];
        char text[LINE_BYTES * 2 + 1];
        size_t count = range->length - done < LINE_BYTES ? range->length - done : LINE_BYTES;
        read_line(view, range->physical, range->address + done, bytes, present, count);
        for (size_t i = 0; i < count; i++) {
            text[i * 2] = present[i] ? digits[bytes[i] >> 4] : '?';
            text[i * 2 + 1] = present[i] ? digits[bytes[i] & 15] : '?';
        }
        text[count * 2] = '\0';
        json_string(j, NULL, text);
    }
    json_close_array(j);
}
