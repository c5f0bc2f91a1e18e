#include "core/machine.h"

#include "core/vcpu_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define PORT_LAST     ((uint64_t)0xffff)
#define CLOCK_LAST_NS ((uint64_t)1 << 62) /* leaves devices room for signed differences */
#define PIC_IRQS      16u
#define PIN_OF_IRQ0   2u

#define MSI_ADDRESS_MASK ((uint64_t)0xfffffffffff00000)
#define MSI_ADDRESS      ((uint64_t)0xfee00000)

/* Ports or MMIO: ranges sorted by start, none overlapping. */
struct io_space {
    const char *kind;
    uint64_t last;               /* the highest address */
    uint64_t unclaimed_key_mask; /* which address bits tell unclaimed entries apart */
    struct io_range *ranges;
    size_t count, capacity;
    struct unclaimed unclaimed[MACHINE_UNCLAIMED_MAX];
    size_t unclaimed_count;
};

struct owned_device {
    device_destroy_fn destroy;
    void *device;
};

struct machine {
    struct guest_ram *ram;
    struct machine_host host;
    struct io_space ports, mmio;
    struct owned_device *owned;
    size_t owned_count, owned_capacity;
    struct interrupt_controller pic;
    struct io_apic_interface io_apic;
    struct local_apic_interface local_apic;
    struct ferr_interface ferr;
    uint64_t tsc_offset;
    uint64_t clock_ns;
    struct machine_timer *timers; /* armed ones, earliest first */
    bool running_timers;
    struct machine_work *work; /* queued, first to last */
    enum machine_end end;
    uint32_t end_status;
    struct {
        input_fn take;
        void *device;
    } input[CONSOLE_COUNT];
    enum machine_console input_console;
    resize_fn resize;
    void *resize_device;
};

int machine_create(struct machine **out, struct guest_ram *ram, const struct machine_host *host,
                   struct error *err)
{
    *out = NULL;
    struct machine *m = calloc(1, sizeof(*m));
    if (!m)
        return error_set(err, -ENOMEM, "no memory for the machine");
    m->ram = ram;
    if (host)
        m->host = *host;
    m->ports = (struct io_space){.kind = "port", .last = PORT_LAST, .unclaimed_key_mask = UINT64_MAX};
    m->mmio = (struct io_space){.kind = "MMIO", .last = UINT64_MAX, .unclaimed_key_mask = ~PAGE_MASK};
    *out = m;
    return 0;
}

void machine_destroy(struct machine *m)
{
    if (!m)
        return;
    while (m->owned_count > 0) {
        struct owned_device *o = &m->owned[--m->owned_count];
        o->destroy(o->device);
    }
    free(m->owned);
    free(m->ports.ranges);
    free(m->mmio.ranges);
    free(m);
}

struct guest_ram *machine_ram(struct machine *m)
{
    return m->ram;
}

const struct machine_host *machine_host(struct machine *m)
{
    return &m->host;
}

/* Makes room for one more element; returns the (moved) array or NULL. */
static void *grow(void *array, size_t count, size_t *capacity, size_t element_bytes)
{
    if (count < *capacity)
        return array;
    size_t wanted = *capacity ? *capacity * 2 : 16;
    void *larger = reallocarray(array, wanted, element_bytes);
    if (larger)
        *capacity = wanted;
    return larger;
}

int machine_on_destroy(struct machine *m, device_destroy_fn destroy, void *device, struct error *err)
{
    struct owned_device *owned = grow(m->owned, m->owned_count, &m->owned_capacity, sizeof(*owned));
    if (!owned)
        return error_set(err, -ENOMEM, "no memory for another device");
    m->owned = owned;
    owned[m->owned_count++] = (struct owned_device){.destroy = destroy, .device = device};
    return 0;
}

/* ---- address spaces ---- */

static uint64_t range_last(const struct io_range *r)
{
    return r->start + (r->length - 1);
}

/* Index of the first range that ends at or after address; count if none does. */
static size_t space_lower_bound(const struct io_space *space, uint64_t address)
{
    size_t low = 0, high = space->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (range_last(&space->ranges[middle]) < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int space_add(struct io_space *space, const struct io_range *range, struct error *err)
{
    if (range->length == 0 || range->start > space->last || range->length - 1 > space->last - range->start)
        return error_set(err, -EINVAL,
                         "%s: %s range 0x%" PRIx64 " of 0x%" PRIx64 " bytes is empty or beyond 0x%" PRIx64,
                         range->name, space->kind, range->start, range->length, space->last);
    size_t index = space_lower_bound(space, range->start);
    if (index < space->count && space->ranges[index].start <= range_last(range)) {
        const struct io_range *other = &space->ranges[index];
        return error_set(err, -EEXIST,
                         "%s range 0x%" PRIx64 "..0x%" PRIx64 " of %s overlaps 0x%" PRIx64 "..0x%" PRIx64
                         " of %s",
                         space->kind, range->start, range_last(range), range->name, other->start,
                         range_last(other), other->name);
    }
    struct io_range *ranges = grow(space->ranges, space->count, &space->capacity, sizeof(*ranges));
    if (!ranges)
        return error_set(err, -ENOMEM, "%s: no memory for another %s range", range->name, space->kind);
    space->ranges = ranges;
    memmove(&ranges[index + 1], &ranges[index], (space->count - index) * sizeof(*ranges));
    ranges[index] = *range;
    space->count++;
    return 0;
}

static struct unclaimed *space_unclaimed(struct io_space *space, uint64_t address)
{
    uint64_t key = address & space->unclaimed_key_mask;
    for (size_t i = 0; i < space->unclaimed_count; i++)
        if (space->unclaimed[i].address == key)
            return &space->unclaimed[i];
    if (space->unclaimed_count == MACHINE_UNCLAIMED_MAX)
        return &space->unclaimed[MACHINE_UNCLAIMED_MAX - 1];
    struct unclaimed *entry = &space->unclaimed[space->unclaimed_count++];
    *entry = (struct unclaimed){.address = key};
    return entry;
}

static uint64_t size_mask(unsigned size)
{
    return size >= 8 ? UINT64_MAX : ((uint64_t)1 << (size * 8)) - 1;
}

enum coverage { COVERED_NOT, COVERED_PARTLY, COVERED_WHOLE };

/* How much of [address, address+size) devices claim; *range is the device when it is one for all of it. */
static enum coverage space_lookup(const struct io_space *space, uint64_t address, unsigned size,
                                  const struct io_range **range)
{
    if (address > space->last || size - 1 > space->last - address)
        return COVERED_NOT;
    size_t index = space_lower_bound(space, address);
    if (index == space->count || space->ranges[index].start > address + (size - 1))
        return COVERED_NOT;
    *range = &space->ranges[index];
    bool whole = (*range)->start <= address && address + (size - 1) <= range_last(*range);
    return whole ? COVERED_WHOLE : COVERED_PARTLY;
}

/* The size of the pieces in which the access is made. */
static unsigned piece_size(enum coverage coverage, const struct io_range *range, unsigned size)
{
    if (coverage == COVERED_PARTLY)
        return 1;
    if (range->max_access_bytes && range->max_access_bytes < size)
        return range->max_access_bytes;
    return size;
}

static uint64_t space_read_whole(struct io_space *space, uint64_t address, unsigned size)
{
    const struct io_range *range = NULL;
    if (space_lookup(space, address, size, &range) != COVERED_WHOLE) {
        space_unclaimed(space, address)->reads++;
        return size_mask(size);
    }
    if (!range->read)
        return size_mask(size);
    return range->read(range->device, address - range->start, size) & size_mask(size);
}

static uint64_t space_read(struct io_space *space, uint64_t address, unsigned size)
{
    const struct io_range *range = NULL;
    enum coverage coverage = space_lookup(space, address, size, &range);
    unsigned piece = coverage == COVERED_NOT ? size : piece_size(coverage, range, size);
    uint64_t value = 0;
    for (unsigned done = 0; done < size; done += piece) {
        unsigned now = size - done < piece ? size - done : piece;
        value |= space_read_whole(space, address + done, now) << (done * 8);
    }
    return value;
}

static void space_write_whole(struct io_space *space, uint64_t address, unsigned size, uint64_t value)
{
    const struct io_range *range = NULL;
    if (space_lookup(space, address, size, &range) != COVERED_WHOLE)
        space_unclaimed(space, address)->writes++;
    else if (range->write)
        range->write(range->device, address - range->start, size, value & size_mask(size));
}

static void space_write(struct io_space *space, uint64_t address, unsigned size, uint64_t value)
{
    const struct io_range *range = NULL;
    enum coverage coverage = space_lookup(space, address, size, &range);
    unsigned piece = coverage == COVERED_NOT ? size : piece_size(coverage, range, size);
    for (unsigned done = 0; done < size; done += piece) {
        unsigned now = size - done < piece ? size - done : piece;
        space_write_whole(space, address + done, now, value >> (done * 8));
    }
}

static unsigned valid_size(unsigned size)
{
    return size == 0 ? 1 : size > 8 ? 8 : size;
}

int machine_add_ports(struct machine *m, const struct io_range *range, struct error *err)
{
    return space_add(&m->ports, range, err);
}

int machine_add_mmio(struct machine *m, const struct io_range *range, struct error *err)
{
    return space_add(&m->mmio, range, err);
}

void machine_remove_mmio(struct machine *m, gpa_t start)
{
    struct io_space *space = &m->mmio;
    size_t index = space_lower_bound(space, start);
    if (index == space->count || space->ranges[index].start != start)
        return;
    space->count--;
    memmove(&space->ranges[index], &space->ranges[index + 1],
            (space->count - index) * sizeof(space->ranges[0]));
}

uint64_t machine_port_read(struct machine *m, uint16_t port, unsigned size)
{
    return space_read(&m->ports, port, valid_size(size));
}

void machine_port_write(struct machine *m, uint16_t port, unsigned size, uint64_t value)
{
    space_write(&m->ports, port, valid_size(size), value);
}

uint64_t machine_mmio_read(struct machine *m, gpa_t gpa, unsigned size)
{
    return space_read(&m->mmio, gpa, valid_size(size));
}

void machine_mmio_write(struct machine *m, gpa_t gpa, unsigned size, uint64_t value)
{
    space_write(&m->mmio, gpa, valid_size(size), value);
}

size_t machine_unclaimed_ports(const struct machine *m, const struct unclaimed **list)
{
    *list = m->ports.unclaimed;
    return m->ports.unclaimed_count;
}

size_t machine_unclaimed_mmio(const struct machine *m, const struct unclaimed **list)
{
    *list = m->mmio.unclaimed;
    return m->mmio.unclaimed_count;
}

/* ---- clock and timers ---- */

uint64_t machine_clock_ns(const struct machine *m)
{
    return m->clock_ns;
}

void machine_set_clock_ns(struct machine *m, uint64_t now_ns)
{
    if (now_ns > CLOCK_LAST_NS)
        now_ns = CLOCK_LAST_NS;
    if (now_ns > m->clock_ns)
        m->clock_ns = now_ns;
}

void machine_timer_init(struct machine_timer *t, void (*fire)(void *device, uint64_t now_ns), void *device)
{
    *t = (struct machine_timer){.fire = fire, .device = device};
}

void machine_timer_disarm(struct machine *m, struct machine_timer *t)
{
    if (!t->armed)
        return;
    t->armed = false;
    for (struct machine_timer **link = &m->timers; *link; link = &(*link)->next) {
        if (*link == t) {
            *link = t->next;
            break;
        }
    }
    t->next = NULL;
}

void machine_timer_arm(struct machine *m, struct machine_timer *t, uint64_t deadline_ns)
{
    machine_timer_disarm(m, t);
    if (m->running_timers && deadline_ns <= m->clock_ns)
        deadline_ns = m->clock_ns + 1;
    struct machine_timer **link = &m->timers;
    while (*link && (*link)->deadline_ns <= deadline_ns)
        link = &(*link)->next;
    t->deadline_ns = deadline_ns;
    t->armed = true;
    t->next = *link;
    *link = t;
}

uint64_t machine_next_deadline_ns(const struct machine *m)
{
    return m->timers ? m->timers->deadline_ns : UINT64_MAX;
}

void machine_run_timers(struct machine *m)
{
    if (m->running_timers)
        return;
    m->running_timers = true;
    while (m->timers && m->timers->deadline_ns <= m->clock_ns) {
        struct machine_timer *t = m->timers;
        machine_timer_disarm(m, t);
        t->fire(t->device, m->clock_ns);
    }
    m->running_timers = false;
}

/* ---- deferred work, direct memory access ---- */

void machine_work_init(struct machine_work *w, void (*run)(void *device), void *device)
{
    *w = (struct machine_work){.run = run, .device = device};
}

void machine_queue_work(struct machine *m, struct machine_work *w)
{
    if (w->queued)
        return;
    struct machine_work **link = &m->work;
    while (*link)
        link = &(*link)->next;
    w->queued = true;
    w->next = NULL;
    *link = w;
}

bool machine_work_waits(const struct machine *m)
{
    return m->work != NULL;
}

void machine_run_work(struct machine *m)
{
    struct machine_work *list = m->work;
    m->work = NULL; /* what is queued from now on waits for the next call */
    while (list) {
        struct machine_work *w = list;
        list = w->next;
        w->next = NULL;
        w->queued = false;
        w->run(w->device);
    }
}

int machine_dma_read(struct machine *m, gpa_t gpa, void *out, size_t length)
{
    return ram_read(m->ram, gpa, out, length);
}

int machine_dma_write(struct machine *m, gpa_t gpa, const void *data, size_t length)
{
    if (!m->host.dma_write)
        return ram_write(m->ram, gpa, data, length);
    if (!ram_covers(m->ram, gpa, length))
        return -EFAULT;
    if (length)
        m->host.dma_write(m->host.context, gpa, data, length);
    return 0;
}

/* ---- interrupts, end, input ---- */

void machine_set_interrupt_controller(struct machine *m, const struct interrupt_controller *pic)
{
    m->pic = *pic;
}

void machine_set_io_apic(struct machine *m, const struct io_apic_interface *io_apic)
{
    m->io_apic = *io_apic;
}

void machine_set_local_apic(struct machine *m, const struct local_apic_interface *local_apic)
{
    m->local_apic = *local_apic;
}

void machine_set_ferr_interface(struct machine *m, const struct ferr_interface *ferr)
{
    m->ferr = *ferr;
}

bool machine_set_ferr(struct machine *m, bool asserted)
{
    return m->ferr.set_ferr && m->ferr.set_ferr(m->ferr.device, asserted);
}

void machine_set_irq(struct machine *m, unsigned irq, bool level)
{
    if (m->pic.set_line && irq < PIC_IRQS)
        m->pic.set_line(m->pic.device, irq, level);
    if (m->io_apic.set_pin && irq < MACHINE_IRQS)
        m->io_apic.set_pin(m->io_apic.device, irq == 0 ? PIN_OF_IRQ0 : irq, level);
}

void machine_send_msi(struct machine *m, uint64_t address, uint32_t data)
{
    if (m->local_apic.message && (address & MSI_ADDRESS_MASK) == MSI_ADDRESS)
        m->local_apic.message(m->local_apic.device, address, data);
}

bool machine_takes_msi(const struct machine *m)
{
    return m->local_apic.message != NULL;
}

void machine_end_of_interrupt(struct machine *m, uint8_t vector)
{
    if (m->io_apic.end_of_interrupt)
        m->io_apic.end_of_interrupt(m->io_apic.device, vector);
}

bool machine_pic_pending(const struct machine *m)
{
    return m->pic.pending && m->pic.pending(m->pic.device);
}

uint8_t machine_pic_acknowledge(struct machine *m)
{
    /* With no controller nothing drives the bus during INTA: all ones. */
    return m->pic.acknowledge ? m->pic.acknowledge(m->pic.device) : 0xff;
}

unsigned machine_interrupt_priority(const struct machine *m)
{
    if (m->local_apic.priority)
        return m->local_apic.priority(m->local_apic.device);
    return machine_pic_pending(m) ? MACHINE_PRIORITY_EXTINT : 0;
}

bool machine_interrupt_pending(const struct machine *m)
{
    unsigned priority = machine_interrupt_priority(m);
    if (priority == 0 || priority == MACHINE_PRIORITY_EXTINT)
        return priority != 0;
    const struct vcpu_state *vcpu = machine_vcpu(m);
    return !vcpu || priority > vcpu->cr8;
}

uint8_t machine_interrupt_acknowledge(struct machine *m)
{
    return m->local_apic.acknowledge ? m->local_apic.acknowledge(m->local_apic.device)
                                     : machine_pic_acknowledge(m);
}

const struct vcpu_state *machine_vcpu(const struct machine *m)
{
    return m->host.vcpu ? m->host.vcpu(m->host.context) : NULL;
}

void machine_set_tsc_offset(struct machine *m, uint64_t offset)
{
    m->tsc_offset = offset;
    if (m->local_apic.tsc_moved)
        m->local_apic.tsc_moved(m->local_apic.device);
}

uint64_t machine_tsc_offset(const struct machine *m)
{
    return m->tsc_offset;
}

bool machine_msr_read(struct machine *m, uint32_t index, uint64_t *value)
{
    return m->local_apic.msr_read && m->local_apic.msr_read(m->local_apic.device, index, value);
}

bool machine_msr_write(struct machine *m, uint32_t index, uint64_t value)
{
    return m->local_apic.msr_write && m->local_apic.msr_write(m->local_apic.device, index, value);
}

void machine_request_end(struct machine *m, enum machine_end end, uint32_t status)
{
    if (m->end != MACHINE_END_NONE)
        return;
    m->end = end;
    m->end_status = status;
}

enum machine_end machine_end(const struct machine *m, uint32_t *status)
{
    if (status)
        *status = m->end_status;
    return m->end;
}

void machine_set_console_input(struct machine *m, enum machine_console console, input_fn take, void *device)
{
    m->input[console].take = take;
    m->input[console].device = device;
}

void machine_set_input(struct machine *m, input_fn take, void *device)
{
    machine_set_console_input(m, CONSOLE_SERIAL, take, device);
}

void machine_select_input(struct machine *m, enum machine_console console)
{
    m->input_console = console;
}

size_t machine_input(struct machine *m, const uint8_t *data, size_t length)
{
    input_fn take = m->input[m->input_console].take;
    return take && length > 0 ? take(m->input[m->input_console].device, data, length) : 0;
}

void machine_set_resize(struct machine *m, resize_fn resize, void *device)
{
    m->resize = resize;
    m->resize_device = device;
}

void machine_resize(struct machine *m, unsigned columns, unsigned rows)
{
    if (m->resize)
        m->resize(m->resize_device, columns, rows);
}

/* ---- remarks, random numbers ---- */

void machine_mark(struct machine *m, const char *format, ...)
{
    char text[512];
    va_list arguments;
    if (!m->host.mark)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    m->host.mark(m->host.context, text);
}

void machine_entropy(struct machine *m, void *out, size_t length)
{
    uint8_t *bytes = out;
    if (m->host.entropy) {
        m->host.entropy(m->host.context, out, length);
        return;
    }
    for (size_t done = 0; done < length;) {
        ssize_t n = getrandom(bytes + done, length - done, 0);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR) { /* there is no such kernel (Linux 3.17 and later have it) */
            memset(bytes + done, 0, length - done);
            return;
        }
    }
}
