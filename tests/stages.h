/* Which stages of the emulator a test program runs: DEJAVM_EMU_STAGES in its environment (emu_stages_parse). */
#ifndef DEJAVM_TESTS_STAGES_H
#define DEJAVM_TESTS_STAGES_H

#include <stdio.h>
#include <stdlib.h>

#include "core/x86/emu.h"

static inline void stages_from_environment(struct engine *engine)
{
    enum emu_stages stages;
    const char *text = getenv("DEJAVM_EMU_STAGES");
    if (!emu_stages_parse(text, &stages)) {
        fprintf(stderr, "DEJAVM_EMU_STAGES=%s: neither 1, 2 nor mixed\n", text);
        exit(2);
    }
    emu_set_stages(engine, stages);
}

#endif
