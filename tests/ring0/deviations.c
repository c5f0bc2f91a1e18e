#include "tests/ring0/deviations.h"

/*
 * What was seen on a KVM without hardware virtualization (kvm_pvm, Linux 6.18: ring 0 in KVM's instruction emulator,
 * ring 3 natively with another kernel around it). Hardware KVM is expected to do all of these as the SDM says; a case that
 * does is reported as such, and is no failure.
 */
#define DELIVERY "KVM's software delivery makes every fault of it a double fault, and none of a second one"
#define STACKED  "KVM's software delivery does not fault on its stack"
#define NATIVE   "at CPL 3 what changes the level is #UD, save INT3 and INTO"
#define IRET     "KVM's instruction emulator does IRET without all of its checks"
#define SIZES    "KVM's instruction emulator does not know this operand size of IRET in long mode"
#define EMULATED "KVM's instruction emulator does not do it this way"
#define TRAPS    "KVM's instruction emulator has no data breakpoints and its own idea of TF"
#define WINDOW   "KVM looks for interrupts only when it leaves its instruction emulator"
#define CROSSING "KVM's instruction emulator writes the first page before it looks at the second"
#define AC       "KVM clears AC on the way to the handler, and the host decides about CR0.AM"

const struct ring0_deviation ring0_deviations[] = {
    {"a gate that is not present, for an exception", DELIVERY},
    {"a gate with a null selector, for an exception", DELIVERY},
    {"a non-canonical stack in the IST", DELIVERY},
    {"a stack that is not mapped", DELIVERY},
    {"a #GP while a #GP is delivered", DELIVERY},
    {"a #NP while a #UD is delivered is no double fault", DELIVERY},
    {"a #GP while a #PF is delivered", DELIVERY},
    {"a #PF while a #GP is delivered is a #PF", DELIVERY},
    {"a fault in a double fault ends the run", DELIVERY},
    {"#DF pushes RF as it was", DELIVERY},
    {"a page fault while a page fault is delivered", DELIVERY},
    {"an interrupt through a gate that is not present", DELIVERY},
    {"a stack that is half mapped: nothing is pushed", STACKED},
    {"a call gate whose inner stack is not mapped", STACKED},
    {"a call gate whose inner stack is not canonical", STACKED},
    {"IRETQ from a non-canonical stack", STACKED},
    {"a gate without privilege", NATIVE},
    {"INT n at CPL 3", NATIVE},
    {"a conforming handler stays at CPL 3", NATIVE},
    {"a call gate from CPL 3 to CPL 0 and back", NATIVE},
    {"a call gate to level 1 takes RSP1", NATIVE},
    {"a call gate that CPL 3 may not use", NATIVE},
    {"a far JMP through a call gate to an inner level", NATIVE},
    {"SYSCALL from CPL 3", "at CPL 3 SYSCALL goes to LSTAR without changing the level"},
    {"IRETQ nulls the data segments of the inner level", IRET},
    {"IRETQ to 16-bit code at CPL 3", IRET},
    {"IRETQ to a data segment", IRET},
    {"IRETQ to a segment with L and D", IRET},
    {"IRETQ to conforming code at CPL 3", IRET},
    {"IRETQ to 32-bit code with a null SS", IRET},
    {"IRETQ with a read-only stack", IRET},
    {"IRETQ to a non-canonical address", IRET},
    {"IRETQ to a high address in 32-bit code", IRET},
    {"IRET at CPL 0 changes every flag", IRET},
    {"IRETD in 64-bit code pops 32-bit values", SIZES},
    {"IRETW keeps the upper half of RFLAGS", SIZES},
    {"SYSRET to 32-bit code", EMULATED},
    {"SYSRET without EFER.SCE", EMULATED},
    {"SYSEXIT does not exist in long mode", EMULATED},
    {"the upper half of CR0", EMULATED},
    {"the upper half of CR4", EMULATED},
    {"FXSAVE that is not aligned", EMULATED},
    {"a non-canonical operand based on RBP", EMULATED},
    {"an operand that leaves the lower half", EMULATED},
    {"MOV SS puts the trap off by one instruction", TRAPS},
    {"POP SS is traced like MOV SS", TRAPS},
    {"IRET that clears TF is trapped", TRAPS},
    {"TF traps after each iteration of REP", TRAPS},
    {"an untaken trap of HLT wakes it", TRAPS},
    {"a breakpoint after MOV SS is not seen", TRAPS},
    {"a data breakpoint is a trap", TRAPS},
    {"a write breakpoint lets reads pass", TRAPS},
    {"a read or write breakpoint", TRAPS},
    {"an access that only touches the breakpoint", TRAPS},
    {"two breakpoints at once", TRAPS},
    {"a data breakpoint and TF together", TRAPS},
    {"a data breakpoint in REP", TRAPS},
    {"a data breakpoint on what MOV SS reads", TRAPS},
    {"an interrupt waits for IF, and one instruction after STI", WINDOW},
    {"POPF opens at once", WINDOW},
    {"only the first STI holds off", WINDOW},
    {"STI and MOV SS hold off twice", WINDOW},
    {"an NMI waits for the IRET of the one before", WINDOW},
    {"an NMI goes before an interrupt", WINDOW},
    {"IOPL 3 lets CPL 3 do ports and CLI", "at CPL 3 CLI and STI are always #GP"},
    {"#AC at CPL 3", AC},
    {"#AC needs CR0.AM", AC},
    {"#AC of a write", AC},
    {"#AC of the stack", AC},
    {"bytes and aligned operands raise no #AC", AC},
    {"a write across into an absent page writes nothing", CROSSING},
    {"a write across into a read-only page writes nothing", CROSSING},
    {"a read-modify-write across into a read-only page", CROSSING},
};
const size_t ring0_deviation_count = sizeof(ring0_deviations) / sizeof(ring0_deviations[0]);
