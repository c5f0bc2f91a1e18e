/*
 * The program that the tests' debug target has run: 64-bit or 32-bit code, loaded flat at 1 MiB, no operating system. It
 * spoils its own list, which is what the debugger is to find out.
 */
#include "tests/gdbstub/guest.h"

struct node {
    struct node *next;
    long value;
};

struct node nodes[4];
volatile long counter;
volatile unsigned char odd[32];
volatile long result;
const char banner[] = "a guest of the debugger";

__attribute__((noinline)) static long sum(const struct node *n)
{
    long total = 0;
    for (; n; n = n->next)
        total += n->value; /* line: sum */
    return total;
}

__attribute__((noinline)) static void build(void)
{
    for (int i = 0; i < 4; i++) {
        nodes[i].value = 10L * (i + 1);
        nodes[i].next = i < 3 ? &nodes[i + 1] : 0;
    }
}

__attribute__((noinline)) static void spoil(void)
{
    nodes[1].next = &nodes[3]; /* line: spoil */
}

__attribute__((noinline)) static void count(void)
{
    for (int i = 0; i < 100; i++)
        counter = counter + 1; /* line: count */
}

void guest_main(void)
{
    build();
    result = sum(nodes); /* line: first sum */
    odd[3] = banner[0];
    count();
    spoil();
    odd[7] = odd[3];
    count();
    result = sum(nodes); /* line: second sum */
    __asm__ volatile("hlt");
}
