#include "trace-format/event.h"

#include <string.h>

const char *event_type_name(enum event_type type)
{
    static const char *const names[EVENT_TYPE_COUNT] = {
        [EVENT_PIO_READ] = "pio-read",
        [EVENT_PIO_WRITE] = "pio-write",
        [EVENT_MMIO_READ] = "mmio-read",
        [EVENT_MMIO_WRITE] = "mmio-write",
        [EVENT_CPU_READ] = "cpu-read",
        [EVENT_MSR_READ] = "msr-read",
        [EVENT_MSR_WRITE] = "msr-write",
        [EVENT_HALT] = "halt",
        [EVENT_INTERRUPT] = "interrupt",
        [EVENT_NMI] = "nmi",
        [EVENT_DMA] = "dma",
        [EVENT_DIGEST] = "digest",
        [EVENT_CONSOLE] = "console",
        [EVENT_MARK] = "mark",
        [EVENT_END] = "end",
    };
    return (unsigned)type < EVENT_TYPE_COUNT && names[type] ? names[type] : "unknown";
}

const char *trace_end_name(enum trace_end end)
{
    static const char *const names[] = {
        [TRACE_END_DEBUG_EXIT] = "debug-exit", [TRACE_END_SHUTDOWN] = "triple-fault",
        [TRACE_END_HALTED] = "halted",         [TRACE_END_TIMEOUT] = "timeout",
        [TRACE_END_MAX_STEPS] = "max-steps",   [TRACE_END_STOPPED] = "stopped",
        [TRACE_END_RESET] = "reset",           [TRACE_END_POWEROFF] = "poweroff",
        [TRACE_END_ERROR] = "error",
    };
    return (unsigned)end < ARRAY_LEN(names) && names[end] ? names[end] : "unknown";
}

const uint8_t *event_crash_text(const struct event *event, size_t *length)
{
    const size_t prefix = strlen(EVENT_CRASH_PREFIX);
    if (event->type != EVENT_MARK || event->data_length <= prefix ||
        memcmp(event->data, EVENT_CRASH_PREFIX, prefix) != 0)
        return NULL;
    *length = event->data_length - prefix;
    return event->data + prefix;
}
