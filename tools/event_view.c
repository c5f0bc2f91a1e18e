#include "tools/event_view.h"
#include "core/boundary.h"
#include "tools/number.h"
#include "tools/session.h"

#include <inttypes.h>

enum { SHOWN_BYTES = 48 };

static const char *const source_names[] = {"rdtsc", "rdtscp", "rdpmc", "rdrand", "rdseed", "ignne"};

const char *event_source_name(uint8_t source)
{
    return source < ARRAY_LEN(source_names) ? source_names[source] : "unknown";
}

static void print_data(const struct event *e, FILE *out)
{
    size_t shown = e->data_length < SHOWN_BYTES ? e->data_length : SHOWN_BYTES;
    putc('"', out);
    put_printable(out, e->data, shown);
    fprintf(out, "\"%s", shown < e->data_length ? "..." : "");
}

static void print_access(const struct event *e, FILE *out)
{
    bool mmio = e->type == EVENT_MMIO_READ || e->type == EVENT_MMIO_WRITE;
    fprintf(out, "%s 0x%0*" PRIx64 " size %u value 0x%" PRIx64, mmio ? "address" : "port", mmio ? 9 : 4,
            e->address, e->size, e->value);
}

void event_print_details(const struct event *e, FILE *out)
{
    switch (e->type) {
    case EVENT_PIO_READ:
    case EVENT_PIO_WRITE:
    case EVENT_MMIO_READ:
    case EVENT_MMIO_WRITE:
        print_access(e, out);
        break;
    case EVENT_CPU_READ:
        fprintf(out, "%s value 0x%" PRIx64 "%s", event_source_name(e->source), e->value,
                e->flag ? "" : " (not ready)");
        break;
    case EVENT_MSR_READ:
    case EVENT_MSR_WRITE:
        fprintf(out, "msr 0x%08" PRIx64 " value 0x%" PRIx64 "%s", e->address, e->value,
                e->flag ? "" : " (unknown: #GP)");
        break;
    case EVENT_INTERRUPT:
        fprintf(out, "vector 0x%02x", e->vector);
        break;
    case EVENT_DMA:
        fprintf(out, "address 0x%09" PRIx64 ", %zu bytes", e->address, e->data_length);
        break;
    case EVENT_DIGEST:
        fprintf(out, "registers %016" PRIx64 " ram %016" PRIx64 "%016" PRIx64, e->value, e->digest.high,
                e->digest.low);
        break;
    case EVENT_CONSOLE:
        fprintf(out, "channel %u ", e->source);
        print_data(e, out);
        break;
    case EVENT_MARK:
        print_data(e, out);
        break;
    case EVENT_END:
        fprintf(out, "%s status %" PRIu64 " ", trace_end_name((enum trace_end)e->source), e->value);
        if (e->data_length)
            print_data(e, out);
        break;
    case EVENT_HALT:
    case EVENT_NMI:
    case EVENT_TYPE_COUNT:
        break;
    }
}

void event_print(uint64_t index, const struct event *e, FILE *out)
{
    struct number_text position;
    fprintf(out, "%9" PRIu64 "  %18s  %-10s  ", index,
            e->position == POSITION_UNKNOWN ? "?" : number_format(e->position, &position),
            event_type_name(e->type));
    event_print_details(e, out);
    if (e->place == PLACE_LANDMARK && e->landmark)
        fprintf(out, "  at rip 0x%" PRIx64 ", %zu pages", e->landmark->rip, e->landmark->page_count);
    if (e->place == PLACE_STEPS)
        fprintf(out, "  %s steps after the event before", number_format(e->steps, &position));
    putc('\n', out);
}

void event_print_heading(FILE *out)
{
    fprintf(out, "%9s  %18s  %-10s  %s\n", "event", "position", "type", "details");
}
