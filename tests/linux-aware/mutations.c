/*
 * linux_mutations TRACE POSITION COUNT SEED: takes the memory of a booted Linux guest, changes COUNT places of it, some at a time, there
 * where core/linux looks, and has everything read. Whatever is there, nothing may crash or take long.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/linux/symbol_file.h"
#include "core/x86/inspect.h"
#include "replay/replay.h"

enum { SPOTS_MAX = 16384, AT_A_TIME_MAX = 16, SLOW_S = 20 };

struct spot {
    uint8_t *at;
    size_t length;
};

struct subject {
    struct guest_ram *ram; /* a copy */
    struct vcpu_state state;
    struct linux_guest *guest;    /* opened while all was well */
    struct spot spots[SPOTS_MAX]; /* where is changed */
    size_t spot_count;
    bool tables_wanted;  /* while spots are chosen: page tables too */
    size_t living_count; /* the first ones: of what changes as the kernel runs */
    uint64_t random;
    uint64_t tasks, messages, frames, symbols, opened; /* found, all together */
};

static uint64_t next(struct subject *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

static struct linux_view view_of(const struct subject *s)
{
    return (struct linux_view){s->ram, &s->state};
}

static void die(const char *what, const struct error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->message);
    exit(1);
}

/* ---- the memory, and where to change it ---- */

static void add_spot(struct subject *s, gpa_t gpa, size_t length)
{
    uint64_t offset = ram_offset(s->ram, gpa);
    if (s->spot_count < SPOTS_MAX && offset != RAM_NO_OFFSET && length >= 8)
        s->spots[s->spot_count++] = (struct spot){s->ram->host + offset, length & ~(size_t)7};
}

/* A range, and the page-table entries on the way to it. */
static void add_range(struct subject *s, gva_t address, size_t length)
{
    gva_t end = address + length;
    for (gva_t at = address & ~7ull; at < end;) {
        struct x86_walk walk;
        gva_t next = (at | PAGE_MASK) + 1;
        x86_walk(s->ram, &s->state, at, &walk);
        if (walk.mapped)
            add_spot(s, walk.gpa, (next < end ? next : end) - at);
        for (unsigned i = 0; i < walk.count && s->tables_wanted; i++)
            add_spot(s, walk.step[i].entry, 8);
        at = next;
    }
}

/* What a member of an object points to, which is returned. */
static uint64_t add_pointed(struct subject *s, gva_t object, const char *structure, const char *member,
                            size_t length)
{
    const struct linux_view view = view_of(s);
    uint32_t offset;
    uint64_t pointer;
    if (!linux_member(s->guest, structure, member, &offset, NULL) ||
        linux_read(s->guest, &view, object + offset, &pointer, sizeof(pointer)) != sizeof(pointer))
        return 0;
    add_range(s, pointer, length);
    return pointer;
}

static void add_member(struct subject *s, gva_t object, const char *structure, const char *member)
{
    uint32_t offset, size;
    if (linux_member(s->guest, structure, member, &offset, &size))
        add_range(s, object + offset, size < 8 ? 8 : size);
}

static bool add_task(void *context, const struct linux_task *task)
{
    static const char *const members[] = {"pid",   "comm",        "tasks", "real_parent", "signal",
                                          "stack", "thread_node", "mm",    "thread.sp"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        add_member(context, task->address, "task_struct", members[i]);
    add_pointed(context, task->address, "task_struct", "signal", 64);
    add_range(context, task->saved_sp, 512);
    return true;
}

static void add_module(struct subject *s, const struct linux_module *module)
{
    static const char *const members[] = {"list", "name",        "state", "kallsyms", "sect_attrs",
                                          "arch", "core_layout", "mem",   "refcnt",   "source_list"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        add_member(s, module->address, "module", members[i]);
    add_pointed(s, module->address, "module", "sect_attrs", 64);
    uint64_t kallsyms = add_pointed(s, module->address, "module", "kallsyms", 64);
    add_pointed(s, kallsyms, "mod_kallsyms", "symtab", 1024);
    add_pointed(s, kallsyms, "mod_kallsyms", "strtab", 256);
    if (module->symbol_count > 0)
        add_range(s, module->symbols[0].address, 64);
}

static void add_symbol(struct subject *s, const char *name, size_t length)
{
    gva_t address;
    if (linux_symbol_address(s->guest, name, &address))
        add_range(s, address, length);
}

static void choose_spots(struct subject *s)
{
    const struct linux_view view = view_of(s);
    struct linux_modules *modules;
    struct error err = {0};
    s->tables_wanted = true;
    add_symbol(s, "linux_banner", 64);
    s->tables_wanted = false;
    add_symbol(s, "modules", 16);
    add_symbol(s, "prb", 8);
    for (unsigned i = 0; i < 8; i++) /* so that they are chosen as often as the many others */
        add_symbol(s, "printk_rb_static", 128);
    add_symbol(s, "_printk_rb_static_descs", 16384);
    add_symbol(s, "_printk_rb_static_infos", 16384);
    if (linux_tasks(s->guest, &view, add_task, s, NULL, &err) ||
        linux_modules_read(&modules, s->guest, &view, &err))
        die("the guest as it was", &err);
    for (size_t i = 0; i < modules->count; i++)
        for (unsigned j = 0; j < 4; j++)
            add_module(s, &modules->list[i]);
    linux_modules_free(modules);
    s->living_count = s->spot_count;
    for (unsigned i = 0; i < 1024; i++)
        add_symbol(s, "__start_BTF", 24);
    add_symbol(s, "__start_BTF", 65536);
    add_symbol(s, "__start_orc_unwind", 4096);
    add_symbol(s, "__start_rodata", 12 << 20); /* the symbol table has no symbols of its own */
}

static void copy_guest(struct subject *s, const char *path, const char *position)
{
    struct replay *replay;
    struct error err = {0};
    if (replay_open(&replay, path, NULL, &err) || replay_seek(replay, strtoull(position, NULL, 0), &err))
        die(path, &err);
    const struct guest_ram *from = replay_ram(replay);
    if (ram_create(&s->ram, from->size_bytes, &err))
        die(path, &err);
    for (uint64_t at = 0; at < from->size_bytes; at += PAGE_SIZE_BYTES)
        if (!page_is_zero(from->host + at))
            memcpy(s->ram->host + at, from->host + at, PAGE_SIZE_BYTES);
    s->state = *replay_state(replay);
    replay_close(replay);
}

/* ---- everything that can be read ---- */

static bool visit_task(void *context, const struct linux_task *task)
{
    struct subject *s = context;
    const struct linux_view view = view_of(s);
    struct linux_frame frames[LINUX_FRAMES_MAX];
    struct vcpu_state registers;
    s->tasks++;
    if (s->tasks % 16 == 0 && linux_task_registers(s->guest, &view, task, &registers, NULL) == 0)
        s->frames += linux_backtrace(s->guest, &view, &registers, frames, LINUX_FRAMES_MAX);
    return true;
}

static bool visit_message(void *context, const struct linux_message *message)
{
    struct subject *s = context;
    s->messages++;
    return message->length <= UINT16_MAX;
}

static void read_modules(struct subject *s, bool file)
{
    const struct linux_view view = view_of(s);
    struct linux_modules *modules;
    struct linux_symbol_file_totals totals;
    char text[256];
    if (linux_modules_read(&modules, s->guest, &view, NULL))
        return;
    for (size_t i = 0; i < modules->count; i++) {
        s->symbols += modules->list[i].symbol_count;
        linux_modules_describe(modules, modules->list[i].base + 100, text, sizeof(text));
    }
    int fd = file ? memfd_create("symbols", MFD_CLOEXEC) : -1;
    if (fd >= 0) {
        const struct linux_symbol_file what = {.modules = modules, .without_kernel = true};
        if (linux_symbol_file_write(s->guest, &what, fd, &totals, NULL) == 0)
            s->symbols += totals.symbols;
        close(fd);
    }
    linux_modules_free(modules);
}

static void read_all(struct subject *s, bool file)
{
    const struct linux_view view = view_of(s);
    struct linux_task task;
    (void)!linux_task_current(s->guest, &view, &task, NULL);
    (void)!linux_tasks(s->guest, &view, visit_task, s, NULL, NULL);
    (void)!linux_dmesg(s->guest, &view, visit_message, s, NULL);
    read_modules(s, file);
}

/* With what is found now, instead of what was found in the beginning. */
static void open_anew(struct subject *s)
{
    const struct linux_view view = view_of(s);
    struct linux_guest *before = s->guest, *guest;
    struct error err = {0};
    if (linux_guest_open(&guest, &view, &err) == 0) {
        s->opened++;
        s->guest = guest;
        read_all(s, true);
        linux_guest_close(guest);
        s->guest = before;
    } else if (!err.message[0]) {
        fprintf(stderr, "an error without a message\n");
        exit(1);
    }
}

/* ---- changing ---- */

struct change {
    uint8_t *at;
    uint8_t bytes[8];
};

static void change(struct subject *s, size_t first, size_t count, struct change *c)
{
    static const uint64_t values[] = {0, 1, UINT64_MAX, 0x8000000000000000ull, 0x7fffffff, 0xfffff000};
    uint64_t value;
    const struct spot *spot = &s->spots[first + next(s) % count];
    c->at = spot->at + next(s) % (spot->length / 8) * 8;
    memcpy(c->bytes, c->at, sizeof(c->bytes));
    memcpy(&value, c->at, sizeof(value));
    switch (next(s) % 4) {
    case 0:
        value = values[next(s) % ARRAY_LEN(values)];
        break;
    case 1: /* a pointer to elsewhere: lists get loops */
        memcpy(&value, s->spots[next(s) % s->living_count].at, sizeof(value));
        break;
    case 2:
        value += next(s) % 512 - 256;
        break;
    default:
        value ^= 1ull << next(s) % 64;
        break;
    }
    memcpy(c->at, &value, sizeof(value));
}

static void round_of(struct subject *s, size_t count, bool anew)
{
    struct change changes[AT_A_TIME_MAX];
    struct timespec before, after;
    /* Of what is living, anywhere; of what is read in the beginning, close together, so that most of it stays good. */
    size_t first = anew ? s->living_count + next(s) % (s->spot_count - s->living_count) : 0;
    size_t spots = anew ? 1 : s->living_count;
    for (size_t i = 0; i < count; i++)
        change(s, first, spots, &changes[i]);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    if (anew)
        open_anew(s);
    else
        read_all(s, false);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    if (after.tv_sec - before.tv_sec > SLOW_S) {
        fprintf(stderr, "a round took %ld s of CPU time\n", (long)(after.tv_sec - before.tv_sec));
        exit(1);
    }
    for (size_t i = count; i-- > 0;)
        memcpy(changes[i].at, changes[i].bytes, sizeof(changes[i].bytes));
}

int main(int argc, char **argv)
{
    enum { ANEW_EVERY = 20 };
    static struct subject s;
    struct error err = {0};
    if (argc != 5) {
        fprintf(stderr, "usage: linux_mutations TRACE POSITION COUNT SEED\n");
        return 2;
    }
    size_t wanted = strtoull(argv[3], NULL, 0), done = 0;
    s.random = strtoull(argv[4], NULL, 0) * 2 + 1;
    copy_guest(&s, argv[1], argv[2]);
    const struct linux_view view = view_of(&s);
    if (linux_guest_open(&s.guest, &view, &err))
        die("the guest as it was", &err);
    choose_spots(&s);
    for (uint64_t round = 0; done < wanted; round++) {
        size_t count = 1 + next(&s) % AT_A_TIME_MAX;
        round_of(&s, count, round % ANEW_EVERY == 0);
        done += count;
    }
    linux_guest_close(s.guest);
    /* All changes are undone: it is the guest that it was. */
    if (linux_guest_open(&s.guest, &view, &err))
        die("the guest afterwards", &err);
    linux_guest_close(s.guest);
    printf("%zu places changed in %zu ranges: %" PRIu64 " tasks, %" PRIu64 " messages, %" PRIu64
           " frames, %" PRIu64 " symbols of modules, %" PRIu64 " kernels opened\n",
           done, s.spot_count, s.tasks, s.messages, s.frames, s.symbols, s.opened);
    ram_destroy(s.ram);
    return 0;
}
