/*
 * A Linux guest, looked at from outside: 64-bit kernels of 5.10 and later, without any debug package. Symbols come from the
 * kernel's own table (kallsyms), the places of structure members from its BTF, and everything else from there.
 *
 * What is read was written by the guest, and may be anything: all is bounded in time and memory, and what makes no sense is an error
 * or left out. Nothing in the guest changes. No function of this header keeps a view after it returns.
 */
#ifndef DEJAVM_CORE_LINUX_LINUX_GUEST_H
#define DEJAVM_CORE_LINUX_LINUX_GUEST_H

#include "core/base/error.h"
#include "core/ram.h"
#include "core/vcpu_state.h"

/* Where is read: RAM and the vCPU at one position. */
struct linux_view {
    const struct guest_ram *ram;
    const struct vcpu_state *state;
};

/* What does not change while the kernel runs: its symbols and the layout of its structures. */
struct linux_guest;

/*
 * Finds the kernel that is in memory at this position. The result holds at every other position of the same boot where
 * linux_guest_is_up. -ENOENT with a message when there is no Linux kernel there, or not yet: from about the time when it
 * runs at its own addresses on it can be found, whatever the vCPU does at the moment. -ENOTSUP: it is one, but its symbols cannot
 * be read. Takes some 50 ms.
 */
int linux_guest_open(struct linux_guest **out, const struct linux_view *view, struct error *err) must_check;
void linux_guest_close(struct linux_guest *g); /* NULL is fine */

/* This kernel is mapped at this position. Cheap: a page walk. Where it is not, the functions below find nothing. */
bool linux_guest_is_up(const struct linux_guest *g, const struct linux_view *view);

const char *
linux_guest_banner(const struct linux_guest *g);     /* "Linux version ...", one line, printable ASCII */
gva_t linux_guest_base(const struct linux_guest *g); /* of _text */
/* By how much the kernel was moved from the address that it was linked for (KASLR); 0 with nokaslr. */
uint64_t linux_guest_kaslr_offset(const struct linux_guest *g);

/* ---- symbols ---- */

struct linux_symbol {
    gva_t address;
    const char *name; /* printable ASCII without spaces; lives as long as what it came from */
    char type;        /* as in /proc/kallsyms and nm; lower case: local */
};

/* Of the kernel itself, by ascending address; absolute ones (of per-CPU variables: offsets) come first. */
size_t linux_symbol_count(const struct linux_guest *g);
struct linux_symbol linux_symbol_at(const struct linux_guest *g, size_t index);

/* By name, the kernel's own only. */
bool linux_symbol_address(const struct linux_guest *g, const char *name, gva_t *address);

/*
 * The symbol around an address of the kernel image: its name, start, and end (exclusive). False outside of the image. start and end
 * may be NULL.
 */
bool linux_symbol_of(const struct linux_guest *g, gva_t address, struct linux_symbol *out, gva_t *end);

/* "name+0x12", or "" outside of the image. Returns out. */
const char *linux_describe(const struct linux_guest *g, gva_t address, char *out, size_t size);

/* ---- structures ---- */

/*
 * Where a member lies, from BTF: its offset and size in bytes. member may be a path ("thread.sp"), and go through anonymous
 * members without naming them. False: no such member, or no BTF. size may be NULL.
 */
bool linux_member(const struct linux_guest *g, const char *structure, const char *member, uint32_t *offset,
                  uint32_t *size);

/* ---- reading ---- */

/* Copies kernel memory, also where the vCPU runs user code; returns how many bytes could be read from the start. */
size_t linux_read(const struct linux_guest *g, const struct linux_view *view, gva_t address, void *out,
                  size_t length);

/* ---- tasks ---- */

#define LINUX_COMM_BYTES 16
#define LINUX_TASKS_MAX  65536

struct linux_task {
    gva_t address; /* of its task_struct */
    uint32_t pid, tgid, ppid;
    char comm[LINUX_COMM_BYTES + 1]; /* as the guest has it: any bytes */
    char state;                      /* R S D T t X Z P I as ps has it, '?' */
    bool kernel;                     /* a kernel thread */
    bool current;                    /* the vCPU runs it */
    gva_t stack;                     /* lowest address of its kernel stack */
    gva_t saved_sp; /* thread.sp: where its registers were saved when it was last switched out */
    gva_t mm;       /* 0: none of its own */
};

/* "running", "sleeping", ... for a state letter. */
const char *linux_task_state_name(char state);

/* The task that the vCPU runs, also in user mode. -ENOENT: none yet. A few reads, no search. */
int linux_task_current(const struct linux_guest *g, const struct linux_view *view, struct linux_task *out,
                       struct error *err) must_check;

/*
 * All tasks, threads too: the idle task (pid 0) first, then in the order of the kernel's list, each followed by its threads. visit
 * returns false to end it. At most LINUX_TASKS_MAX; *complete (may be NULL) is false where a list was broken or longer.
 */
int linux_tasks(const struct linux_guest *g, const struct linux_view *view,
                bool (*visit)(void *context, const struct linux_task *task), void *context, bool *complete,
                struct error *err) must_check;

/*
 * Registers of a task that does not run: those of the switch frame (RBX, RBP, R12 to R15, RSP, RIP), as they are when
 * __switch_to_asm returns to __schedule; the others are 0; CR3 is that of its address space where it has one. Of the task that
 * runs: the vCPU's.
 */
int linux_task_registers(const struct linux_guest *g, const struct linux_view *view,
                         const struct linux_task *task, struct vcpu_state *out, struct error *err) must_check;

/* ---- modules ---- */

#define LINUX_MODULE_NAME_BYTES 56
#define LINUX_MODULES_MAX       1024
#define LINUX_MODULE_RANGES_MAX 8

struct linux_unwind;

struct linux_section {
    const char *name;
    gva_t address;
};

struct linux_module {
    char name[LINUX_MODULE_NAME_BYTES + 1]; /* printable ASCII */
    gva_t address;                          /* of its struct module */
    gva_t base;                             /* of its code */
    uint64_t size;                          /* of all its memory */
    uint32_t state;                         /* 0 live, 1 coming, 2 going, 3 unformed */
    int64_t references;
    size_t user_count; /* modules that use it: indices into the list */
    uint16_t *users;
    size_t section_count; /* as in /sys/module/NAME/sections */
    struct linux_section *sections;
    size_t symbol_count; /* ascending addresses */
    struct linux_symbol *symbols;
    size_t range_count; /* the memory that it occupies */
    struct {
        gva_t start;
        uint64_t size;
    } ranges[LINUX_MODULE_RANGES_MAX];
    char *names;                 /* what symbols point into */
    struct linux_unwind *unwind; /* how to walk the stack from its code; private, may be NULL */
};

/* A copy of the list of modules at one position. */
struct linux_modules {
    size_t count;
    struct linux_module *list; /* the one loaded last is first */
    bool complete;             /* false: a list was broken or too long */
};

int linux_modules_read(struct linux_modules **out, const struct linux_guest *g, const struct linux_view *view,
                       struct error *err) must_check;
void linux_modules_free(struct linux_modules *m); /* NULL is fine */

/* "name+0x12 [module]", or "". Returns out. m may be NULL. */
const char *linux_modules_describe(const struct linux_modules *m, gva_t address, char *out, size_t size);
bool linux_modules_symbol(const struct linux_modules *m, const char *name, gva_t *address);

/* ---- the kernel's messages ---- */

struct linux_message {
    uint64_t sequence;
    uint64_t time_ns; /* since the kernel's start */
    uint8_t level;    /* 0 emergency ... 7 debug */
    uint8_t facility;
    const uint8_t *text; /* not terminated; any bytes */
    size_t length;
};

/* The messages in the kernel's ring buffer, oldest first. visit returns false to end it. */
int linux_dmesg(const struct linux_guest *g, const struct linux_view *view,
                bool (*visit)(void *context, const struct linux_message *message), void *context,
                struct error *err) must_check;

/* ---- the stack ---- */

#define LINUX_FRAMES_MAX 256

struct linux_frame {
    gva_t rip;
    gva_t rsp;      /* as it is in that frame */
    bool entry;     /* rip was interrupted here (an exception or interrupt), it is not a return address */
    bool user;      /* rip is in user mode: the last frame */
    bool uncertain; /* found by looking through the stack: a return address, but perhaps a stale one */
};

/*
 * The kernel stack from these registers outwards, by the kernel's ORC tables. Returns how many frames; the first is state's own
 * RIP. Where the tables do not help, a list of likely return addresses follows.
 */
size_t linux_backtrace(const struct linux_guest *g, const struct linux_view *view,
                       const struct vcpu_state *state, struct linux_frame *out, size_t max);

#endif
