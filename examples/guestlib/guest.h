/*
 * The guest library: what a small bare-metal program for dejavm needs. No libc, no operating system.
 *
 * Everything here runs at CPL 0, on one CPU. All of it works for 64-bit guests; what 32-bit guests
 * have as well is marked [32].
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* ---- ports [32] ---- */

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint16_t in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* ---- printing [32], print.c ---- */

enum console { CONSOLE_SERIAL, CONSOLE_DEBUG }; /* port 0x3f8 and port 0xe9 */

/* Where print() goes. At the start: the serial port, 115200 baud 8N1, FIFO on. */
void console_select(enum console console);
void print_bytes(const char *bytes, size_t length);

/*
 * Like printf: %c %s %d %u %x %p %%, with l, ll or z, a width and a leading 0 or -. No floating point.
 */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_list(const char *format, va_list args);

/* The next byte that came in on the serial line, or -1 if there is none. */
int serial_read(void);

/* ---- memory and strings [32], string.c ---- */

void *memcpy(void *to, const void *from, size_t length);
void *memmove(void *to, const void *from, size_t length);
void *memset(void *to, int value, size_t length);
int memcmp(const void *a, const void *b, size_t length);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t length);

/* ---- the end [32], panic.c ---- */

/* Ends the guest: the status goes to the exit port 0xf4. */
_Noreturn void guest_exit(uint8_t status);

/* Prints "PANIC: ..." and a stack trace, and ends the guest with status 1. */
_Noreturn void panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Prints the return addresses found by following frame pointers, the innermost first, each less one: so
 * that it lies in the call itself, which addr2line and debuggers name right. Frames outside
 * [low, high) end it: so a smashed stack cannot lead it astray.
 */
void print_stack_trace(uintptr_t instruction, uintptr_t frame_pointer, uintptr_t low, uintptr_t high);

/* ---- what the loader said [32], boot.c ---- */

/* The words of the command line: "name=value" or just "name". */
const char *command_line(void);
bool option_present(const char *name);
uint64_t option_number(const char *name, uint64_t otherwise); /* decimal, or hexadecimal with 0x */
/* Copies the value, cut to size - 1 characters; false (and "") if the option is not there. */
bool option_string(const char *name, char *out, size_t size);

struct memory_region {
    uint64_t start, length;
    uint32_t type; /* 1 = RAM, else not */
};
unsigned memory_regions(struct memory_region *out, unsigned max);

struct boot_module {
    uintptr_t start, end;
    const char *name; /* "" where the boot protocol has none */
};
unsigned boot_modules(struct boot_module *out, unsigned max);

/* Called by the entry code with what the loader left in RSI (64-bit) or EBX (Multiboot). */
void boot_information_set(const void *information);

/* Every guest has one. Returning from it is guest_exit(0). */
void guest_main(void);

#endif
