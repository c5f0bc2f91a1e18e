/* The parts of core/linux, for its own files. */
#ifndef DEJAVM_CORE_LINUX_INTERNAL_H
#define DEJAVM_CORE_LINUX_INTERNAL_H

#include "core/linux/btf.h"
#include "core/linux/linux_guest.h"

/* ---- image.c: a copy of the kernel image ---- */

/* What is not mapped is zero. start is a multiple of 4096. */
struct image {
    gva_t start;
    uint8_t *data;
    size_t length;
};

/*
 * Finds the kernel's mapping (Documentation/arch/x86/x86_64/mm.rst: kernel text, from -2 GiB) and copies it. -ENOENT: there is
 * none with a banner in it.
 */
int image_read(struct image *out, const struct linux_view *view, struct error *err) must_check;
void image_free(struct image *image);

/* The bytes at address, or NULL where the image does not have all of them. */
static inline const uint8_t *image_at(const struct image *image, gva_t address, uint64_t length)
{
    if (address < image->start || address - image->start > image->length ||
        length > image->length - (address - image->start))
        return NULL;
    return image->data + (address - image->start);
}

/* ---- kallsyms.c: the kernel's own symbol table ---- */

struct kallsym {
    gva_t address;
    uint32_t name; /* offset in names */
    char type;
};

struct kallsyms {
    struct kallsym *table; /* by ascending address */
    size_t count;
    char *names;
};

/* -ENOTSUP: none that can be read. */
int kallsyms_read(struct kallsyms *out, const struct image *image, struct error *err) must_check;
void kallsyms_free(struct kallsyms *k);
const struct kallsym *kallsyms_find(const struct kallsyms *k, const char *name);

/* ---- fields.c: members of the kernel's structures ---- */

enum field {
    TASK_STATE,
    TASK_EXIT_STATE,
    TASK_FLAGS,
    TASK_PID,
    TASK_TGID,
    TASK_COMM,
    TASK_LIST,
    TASK_PARENT,
    TASK_SIGNAL,
    TASK_THREAD_NODE,
    SIGNAL_THREAD_HEAD,
    TASK_STACK,
    TASK_SP,
    TASK_MM,
    MM_PGD,
    TASK_FIELDS_END, /* all above are needed for tasks */
    FRAME_R15 = TASK_FIELDS_END,
    FRAME_R14,
    FRAME_R13,
    FRAME_R12,
    FRAME_RBX,
    FRAME_RBP,
    FRAME_RETURN,
    FRAME_FIELDS_END,
    MODULE_LIST = FRAME_FIELDS_END,
    MODULE_NAME,
    MODULE_STATE,
    MODULE_FIELDS_END,
    PRB_DESC_BITS = MODULE_FIELDS_END,
    PRB_DESCS,
    PRB_INFOS,
    PRB_HEAD,
    PRB_TAIL,
    PRB_DATA_BITS,
    PRB_DATA,
    DESC_STATE,
    DESC_BEGIN,
    DESC_NEXT,
    INFO_SEQUENCE,
    INFO_TIME,
    INFO_LENGTH,
    INFO_FACILITY,
    PRB_FIELDS_END,
    FIELD_COUNT = PRB_FIELDS_END
};

struct place {
    uint32_t offset, size; /* bytes; size 0: unknown */
};

void fields_find(struct place out[FIELD_COUNT], const struct btf *btf);

/* ---- orc.c: unwinding tables ---- */

struct orc_row {
    gva_t start; /* of the code that it is for, up to the next row */
    int32_t sp_offset, bp_offset;
    uint8_t sp_reg, bp_reg; /* enum orc_register */
    uint8_t type;           /* enum orc_type */
};

enum orc_register {
    ORC_UNDEFINED,
    ORC_PREV_SP,
    ORC_DX,
    ORC_DI,
    ORC_BP,
    ORC_SP,
    ORC_R10,
    ORC_R13,
    ORC_BP_INDIRECT,
    ORC_SP_INDIRECT
};

enum orc_type { ORC_NONE, ORC_END, ORC_CALL, ORC_REGS, ORC_REGS_PARTIAL };

/* How a kernel packs its table entries: from BTF. */
struct orc_format {
    bool known;
    uint32_t bytes;
    struct btf_bits sp_offset, bp_offset, sp_reg, bp_reg, type, end;
    bool with_end, five_types; /* types since 6.4: undefined, end, call, regs, regs partial */
};

struct orc_table {
    struct orc_row *rows; /* ascending */
    size_t count;
};

void orc_format_find(struct orc_format *out, const struct btf *btf);
/*
 * From a copy of the two tables (of .orc_unwind_ip, which lies at ip_address, and .orc_unwind). Empty when there is no memory or they make
 * no sense.
 */
void orc_table_create(struct orc_table *out, const struct orc_format *format, gva_t ip_address,
                      const uint8_t *ips, const uint8_t *entries, size_t count);
void orc_table_free(struct orc_table *table);
/* NULL: none. */
const struct orc_row *orc_find(const struct orc_table *table, gva_t ip);

/* ---- debug_frame.c ---- */

/* Appends a .debug_frame section for the rows, whose last one reaches to end. Returns how many descriptions it has. */
size_t debug_frame_write(struct buffer *out, const struct orc_table *table, gva_t end);

/* ---- guest.c ---- */

struct linux_guest {
    struct kallsyms symbols;
    gva_t base, end; /* of the image, as far as symbols reach */
    gva_t banner_address;
    gva_t current_task;   /* the per-CPU variable; 0: unknown */
    gva_t per_cpu_offset; /* what is added to that is there, for CPU 0; 0: nothing */
    char banner[256];
    struct btf *btf; /* NULL: none */
    struct place field[FIELD_COUNT];
    struct orc_format orc_format;
    struct orc_table orc;
};

/* Guest memory seen with the kernel's page tables. */
struct memory {
    const struct guest_ram *ram;
    const struct vcpu_state *state;
    struct vcpu_state own; /* where the vCPU's page tables are those of user mode */
};

/* -ENOENT with a message where the kernel is not there. */
int memory_begin(struct memory *m, const struct linux_guest *g, const struct linux_view *view,
                 struct error *err) must_check;
size_t kernel_read(const struct memory *m, gva_t address, void *out, size_t length);
bool memory_u64(const struct memory *m, gva_t address, uint64_t *out);
/* A member of at most 8 bytes, as an unsigned number. */
bool memory_member(const struct memory *m, gva_t object, struct place place, uint64_t *out);
/* -ENOTSUP with a message when one of these members is not known. */
int fields_need(const struct linux_guest *g, enum field first, enum field end, const char *what,
                struct error *err) must_check;
/* A member that is looked up now; size 0: there is none. */
struct place place_of(const struct linux_guest *g, const char *structure, const char *member);

/* ---- modules.c ---- */

struct linux_unwind {
    struct orc_table table; /* rows of the module's memory only */
};

/* The unwinding table of the module around ip, to be freed; empty when there is none. */
void module_orc_table(struct orc_table *out, const struct linux_guest *g, const struct memory *m, gva_t ip,
                      gva_t *start, gva_t *end);

#endif
