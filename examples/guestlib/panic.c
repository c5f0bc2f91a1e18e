/* How a guest ends. */
#include "guest.h"

#define EXIT_PORT       0xf4
#define STACK_TRACE_MAX 16

extern char guest_stack[], guest_stack_end[]; /* the entry code's */

_Noreturn void guest_exit(uint8_t status)
{
    out8(EXIT_PORT, status);
    for (;;) /* no such port on this machine: nothing more to do */
        __asm__ volatile("cli; hlt");
}

void print_stack_trace(uintptr_t instruction, uintptr_t frame_pointer, uintptr_t low, uintptr_t high)
{
    const size_t frame_bytes = 2 * sizeof(uintptr_t); /* the caller's frame pointer, the return address */
    print("stack trace:\n");
    for (unsigned i = 0; i < STACK_TRACE_MAX; i++) {
        print("  #%u 0x%lx\n", i, (unsigned long)instruction);
        if (frame_pointer < low || frame_pointer > high - frame_bytes || frame_pointer % sizeof(uintptr_t))
            break;
        const uintptr_t *frame = (const uintptr_t *)frame_pointer;
        if (frame[0] <= frame_pointer && frame[0] != 0) /* the stack grows down, so callers are above */
            break;
        frame_pointer = frame[0];
        if (frame[1] == 0)
            break;
        instruction = frame[1] - 1;
    }
}

_Noreturn void panic(const char *format, ...)
{
    va_list args;
    print("PANIC: ");
    va_start(args, format);
    print_list(format, args);
    va_end(args);
    print("\n");
    print_stack_trace((uintptr_t)__builtin_return_address(0) - 1,
                      *(const uintptr_t *)__builtin_frame_address(0), (uintptr_t)guest_stack,
                      (uintptr_t)guest_stack_end);
    guest_exit(1);
}
