/* What the guest program and the assembly it starts with share. */
#ifndef DEJAVM_TESTS_GDBSTUB_GUEST_H
#define DEJAVM_TESTS_GDBSTUB_GUEST_H

void guest_main(void);

#endif
