#include "core/linux/internal.h"

static const struct {
    const char *structure, *member;
    const char *or_member; /* what older or newer kernels call it, or NULL */
} members[FIELD_COUNT] = {
    [TASK_STATE] = {"task_struct", "__state", "state"}, /* __state since 5.14 */
    [TASK_EXIT_STATE] = {"task_struct", "exit_state", NULL},
    [TASK_FLAGS] = {"task_struct", "flags", NULL},
    [TASK_PID] = {"task_struct", "pid", NULL},
    [TASK_TGID] = {"task_struct", "tgid", NULL},
    [TASK_COMM] = {"task_struct", "comm", NULL},
    [TASK_LIST] = {"task_struct", "tasks", NULL},
    [TASK_PARENT] = {"task_struct", "real_parent", NULL},
    [TASK_SIGNAL] = {"task_struct", "signal", NULL},
    [TASK_THREAD_NODE] = {"task_struct", "thread_node", NULL},
    [SIGNAL_THREAD_HEAD] = {"signal_struct", "thread_head", NULL},
    [TASK_STACK] = {"task_struct", "stack", NULL},
    [TASK_SP] = {"task_struct", "thread.sp", NULL},
    [TASK_MM] = {"task_struct", "mm", NULL},
    [MM_PGD] = {"mm_struct", "pgd", NULL},
    [FRAME_R15] = {"inactive_task_frame", "r15", NULL},
    [FRAME_R14] = {"inactive_task_frame", "r14", NULL},
    [FRAME_R13] = {"inactive_task_frame", "r13", NULL},
    [FRAME_R12] = {"inactive_task_frame", "r12", NULL},
    [FRAME_RBX] = {"inactive_task_frame", "bx", NULL},
    [FRAME_RBP] = {"inactive_task_frame", "bp", NULL},
    [FRAME_RETURN] = {"inactive_task_frame", "ret_addr", NULL},
    [MODULE_LIST] = {"module", "list", NULL},
    [MODULE_NAME] = {"module", "name", NULL},
    [MODULE_STATE] = {"module", "state", NULL},
    [PRB_DESC_BITS] = {"printk_ringbuffer", "desc_ring.count_bits", NULL},
    [PRB_DESCS] = {"printk_ringbuffer", "desc_ring.descs", NULL},
    [PRB_INFOS] = {"printk_ringbuffer", "desc_ring.infos", NULL},
    [PRB_HEAD] = {"printk_ringbuffer", "desc_ring.head_id", NULL},
    [PRB_TAIL] = {"printk_ringbuffer", "desc_ring.tail_id", NULL},
    [PRB_DATA_BITS] = {"printk_ringbuffer", "text_data_ring.size_bits", NULL},
    [PRB_DATA] = {"printk_ringbuffer", "text_data_ring.data", NULL},
    [DESC_STATE] = {"prb_desc", "state_var", NULL},
    [DESC_BEGIN] = {"prb_desc", "text_blk_lpos.begin", NULL},
    [DESC_NEXT] = {"prb_desc", "text_blk_lpos.next", NULL},
    [INFO_SEQUENCE] = {"printk_info", "seq", NULL},
    [INFO_TIME] = {"printk_info", "ts_nsec", NULL},
    [INFO_LENGTH] = {"printk_info", "text_len", NULL},
    [INFO_FACILITY] = {"printk_info", "facility", NULL},
};

static struct place find_place(const struct btf *btf, const char *structure, const char *member)
{
    struct btf_bits bits;
    if (!member || !btf_member(btf, structure, member, &bits) || bits.offset % 8 || bits.size % 8)
        return (struct place){0};
    return (struct place){bits.offset / 8, bits.size / 8};
}

void fields_find(struct place out[FIELD_COUNT], const struct btf *btf)
{
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        out[i] = find_place(btf, members[i].structure, members[i].member);
        if (out[i].size == 0)
            out[i] = find_place(btf, members[i].structure, members[i].or_member);
    }
}

struct place place_of(const struct linux_guest *g, const char *structure, const char *member)
{
    return find_place(g->btf, structure, member);
}
