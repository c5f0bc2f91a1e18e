/* A program whose names and lines test_symbols.c looks up. It is never run. */
unsigned global_counter;
static volatile unsigned local_table[16];

static __attribute__((noinline)) unsigned leaf(unsigned x)
{
    local_table[x & 15] = x; /* MARK leaf */
    return x * 3;
}

__attribute__((noinline)) unsigned branch(unsigned x)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < x; i++)
        sum += leaf(i); /* MARK branch */
    return sum;
}

__asm__(".text\n"
        ".globl bare_label\n"
        "bare_label:\n"
        "    nop\n"
        "    nop\n"
        ".globl outer\n"
        ".type outer, @function\n"
        "outer:\n"
        "    nop\n"
        "inner_label:\n"
        "    nop\n"
        "    nop\n"
        ".size outer, . - outer\n"
        ".globl an_absolute_constant\n"
        ".set an_absolute_constant, 0x1234\n");

void _start(void)
{
    for (;;)
        global_counter += branch(global_counter);
}
