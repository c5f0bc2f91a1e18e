/*
 * A case is a piece of a guest and, beside it, what must come of it. Each macro puts one record of 128 bytes into the
 * table that the test reads; the code of the case stands in the image.
 *
 *   CASE "name", ENV_LONG           starts a case; code follows
 *   EXPECT 13, error=0, rip=1b      the next event in the handlers' log: vector, error code, address of the
 *                                   instruction it is reported at, saved CS, SS, SP and RFLAGS, CR2, DR6, and the
 *                                   handler's own CS, SS and SP; what is not named is not compared
 *   VALUE RESULT, 4, 0x1234         4 bytes of guest memory after the run
 *   DONE                            HLT, and the run must end right there
 *   SHUTDOWN                        the run must end in a triple fault
 */
/* clang-format off */
#include "tests/ring0/map.h"

#define A(label) (label - image + IMAGE_BASE)
#define R(label) (label - 99b) /* in segments that are based at the case */

.macro RECORD
        .pushsection .ring0_table, "aw"
        .balign 128
.endm
.macro END_RECORD
        .balign 128
        .popsection
.endm

.macro CASE name, env, flags=0
        .byte 0xf4, 0xeb, 0xfd  /* HLT; JMP to it: where a case that goes astray ends */
        .balign 16
99:
        RECORD
        .quad TAG_CASE, 99b - image + IMAGE_BASE, \env, \flags
        .asciz "\name"
        END_RECORD
        .if (\env) <= ENV_LONG3
        .code64
        .elseif ((\env) == ENV_REAL) || ((\env) == ENV_PROT16)
        .code16
        .else
        .code32
        .endif
.endm

.macro EXPECT vector, error=NO_ERROR_CODE, rip=image, cs=ANY, ss=ANY, sp=ANY, flags=ANY, cr2=ANY, dr6=ANY, hcs=ANY, hss=ANY, hsp=ANY
        RECORD
        .quad TAG_EXPECT, \vector, \error, \rip - image + IMAGE_BASE, \cs, \ss, \sp, \flags, \cr2, \dr6, \hcs, \hss, \hsp
        END_RECORD
.endm

.macro VALUE address, size, value
        RECORD
        .quad TAG_VALUE, \address, \size, \value
        END_RECORD
.endm

.macro DONE
        hlt
98:
        RECORD
        .quad TAG_DONE, 98b - image + IMAGE_BASE
        END_RECORD
.endm

/* Pushes what IRET takes, in 64-bit code. */
.macro IRET_FRAME ss, sp, flags, cs, rip
        push $\ss
        push $\sp
        push $\flags
        push $\cs
        push $\rip
.endm

/* To CPL 3 at the label, and likewise to other segments. */
.macro USER64 label, cs=UCODE64, flags=0x202
        IRET_FRAME UDATA, USTACK+ALIAS, \flags, \cs, A(\label)+ALIAS
        iretq
.endm

.macro SHUTDOWN
        RECORD
        .quad TAG_SHUTDOWN
        END_RECORD
.endm
