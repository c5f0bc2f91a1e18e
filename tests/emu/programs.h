/* The guest programs in programs.S: position-independent machine code. */
#ifndef DEJAVM_TESTS_EMU_PROGRAMS_H
#define DEJAVM_TESTS_EMU_PROGRAMS_H

#define PROGRAM(name) extern const char name[], name##_end[]

PROGRAM(program_fibonacci);
PROGRAM(program_mixed);
PROGRAM(program_rep_stos);
PROGRAM(program_patch_next);
PROGRAM(program_patch_alias);
PROGRAM(program_spanning);
PROGRAM(program_patch_loop);
PROGRAM(program_patch_rep);
PROGRAM(program_count_memory);
PROGRAM(program_jump_self);
PROGRAM(program_sse_loop);
PROGRAM(program_rep_movs);
PROGRAM(program_undefined);
PROGRAM(program_nops);
PROGRAM(program_sti);
PROGRAM(program_mov_ss);
PROGRAM(program_ports);
PROGRAM(program_string_ports);
PROGRAM(program_stack);
PROGRAM(program_legacy);
PROGRAM(program_mmio);
PROGRAM(program_popf_tf);
PROGRAM(program_speed);
extern const char program_mixed_handler[], program_patch_loop_site[], program_jump_self_handler[];
extern const char program_nops_handler[], program_legacy_code32[], program_rep_movs_rep[];

#undef PROGRAM
#endif
