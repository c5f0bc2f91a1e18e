/* Printing over a 16550 serial port (polled) or the debug console at port 0xe9; reading from the former. */
#include "guest.h"

enum serial_port { /* 16550A data sheet, table II; COM1 */
                   SERIAL_THR = 0x3f8,
                   SERIAL_RBR = 0x3f8,
                   SERIAL_FCR = 0x3fa,
                   SERIAL_LCR = 0x3fb,
                   SERIAL_MCR = 0x3fc,
                   SERIAL_LSR = 0x3fd,
                   SERIAL_DIVISOR_LOW = 0x3f8, /* while LCR_DLAB is set */
                   SERIAL_DIVISOR_HIGH = 0x3f9,
};
#define FCR_ENABLE_AND_CLEAR 0x07
#define LCR_8N1              0x03
#define LCR_DLAB             0x80
#define MCR_DTR_RTS_OUT2     0x0b
#define LSR_DATA_READY       0x01
#define LSR_THRE             0x20
#define FIFO_BYTES           16
#define DEBUG_CONSOLE        0xe9

static enum console selected;
static bool serial_ready;
static int early_input = -1; /* what came before the FIFO was switched on, which would have lost it */

static void serial_init(void)
{
    out8(SERIAL_LCR, LCR_DLAB);
    out8(SERIAL_DIVISOR_LOW, 1);
    out8(SERIAL_DIVISOR_HIGH, 0);
    out8(SERIAL_LCR, LCR_8N1);
    if (in8(SERIAL_LSR) & LSR_DATA_READY)
        early_input = in8(SERIAL_RBR);
    out8(SERIAL_FCR, FCR_ENABLE_AND_CLEAR);
    out8(SERIAL_MCR, MCR_DTR_RTS_OUT2);
    serial_ready = true;
}

void console_select(enum console console)
{
    selected = console;
}

static void serial_write(const char *bytes, size_t length)
{
    if (!serial_ready)
        serial_init();
    for (size_t i = 0; i < length; i++) {
        /* An empty transmitter takes a whole FIFO: one look at the status for sixteen bytes. */
        if (i % FIFO_BYTES == 0)
            while (!(in8(SERIAL_LSR) & LSR_THRE))
                ;
        out8(SERIAL_THR, (uint8_t)bytes[i]);
    }
}

int serial_read(void)
{
    if (!serial_ready)
        serial_init();
    int early = early_input;
    early_input = -1;
    if (early >= 0)
        return early;
    return in8(SERIAL_LSR) & LSR_DATA_READY ? in8(SERIAL_RBR) : -1;
}

void print_bytes(const char *bytes, size_t length)
{
    if (selected == CONSOLE_SERIAL)
        serial_write(bytes, length);
    else
        for (size_t i = 0; i < length; i++)
            out8(DEBUG_CONSOLE, (uint8_t)bytes[i]);
}

/* Divides *n and returns the remainder; without the compiler's 64-bit division, which 32-bit code lacks. */
static unsigned divide(uint64_t *n, uint32_t by)
{
#ifdef __x86_64__
    unsigned remainder = (unsigned)(*n % by);
    *n /= by;
    return remainder;
#else
    uint32_t high = (uint32_t)(*n >> 32), low = (uint32_t)*n;
    uint32_t quotient_high = high / by, remainder = high % by;
    __asm__("divl %2" : "+a"(low), "+d"(remainder) : "r"(by));
    *n = (uint64_t)quotient_high << 32 | low;
    return remainder;
#endif
}

/* Output is collected, so that the FIFO is used and a line is not torn apart. */
struct output {
    char bytes[128];
    size_t length;
};

static void put(struct output *o, char c)
{
    if (o->length == sizeof(o->bytes)) {
        print_bytes(o->bytes, o->length);
        o->length = 0;
    }
    o->bytes[o->length++] = c;
}

struct field {
    unsigned width;
    bool zeros, left;
    unsigned longs; /* 0: int, 1: long or size_t, 2: long long */
};

static void put_padded(struct output *o, const struct field *f, const char *text, size_t length)
{
    size_t padding = length < f->width ? f->width - length : 0;
    for (size_t i = 0; i < padding && !f->left; i++)
        put(o, f->zeros ? '0' : ' ');
    for (size_t i = 0; i < length; i++)
        put(o, text[i]);
    for (size_t i = 0; i < padding && f->left; i++)
        put(o, ' ');
}

static void put_number(struct output *o, const struct field *f, uint64_t n, bool negative, uint32_t base)
{
    char digits[24];
    size_t at = sizeof(digits);
    do
        digits[--at] = "0123456789abcdef"[divide(&n, base)];
    while (n);
    if (negative)
        digits[--at] = '-';
    put_padded(o, f, digits + at, sizeof(digits) - at);
}

static const char *parse_field(const char *s, struct field *f)
{
    *f = (struct field){0};
    for (;; s++) {
        if (*s == '0')
            f->zeros = true;
        else if (*s == '-')
            f->left = true;
        else
            break;
    }
    for (; *s >= '0' && *s <= '9'; s++)
        f->width = f->width * 10 + (unsigned)(*s - '0');
    for (; *s == 'l' || *s == 'z'; s++)
        f->longs++;
    return s;
}

static uint64_t next_unsigned(const struct field *f, va_list *args)
{
    if (f->longs == 0)
        return va_arg(*args, unsigned);
    return f->longs == 1 ? va_arg(*args, unsigned long) : va_arg(*args, unsigned long long);
}

static int64_t next_signed(const struct field *f, va_list *args)
{
    if (f->longs == 0)
        return va_arg(*args, int);
    return f->longs == 1 ? va_arg(*args, long) : va_arg(*args, long long);
}

static void put_conversion(struct output *o, const struct field *f, char conversion, va_list *args)
{
    const char *s;
    int64_t n;
    char c;
    switch (conversion) {
    case 'c':
        c = (char)va_arg(*args, int);
        put_padded(o, f, &c, 1);
        break;
    case 's':
        s = va_arg(*args, const char *);
        put_padded(o, f, s ? s : "(null)", strlen(s ? s : "(null)"));
        break;
    case 'd':
        n = next_signed(f, args);
        put_number(o, f, n < 0 ? 0 - (uint64_t)n : (uint64_t)n, n < 0, 10);
        break;
    case 'u':
        put_number(o, f, next_unsigned(f, args), false, 10);
        break;
    case 'x':
        put_number(o, f, next_unsigned(f, args), false, 16);
        break;
    case 'p':
        put(o, '0');
        put(o, 'x');
        put_number(o, f, (uintptr_t)va_arg(*args, void *), false, 16);
        break;
    default:
        put(o, conversion);
        break;
    }
}

void print_list(const char *format, va_list args)
{
    struct output o = {.length = 0};
    va_list rest;
    va_copy(rest, args);
    for (const char *s = format; *s; s++) {
        if (*s != '%') {
            put(&o, *s);
            continue;
        }
        struct field f;
        s = parse_field(s + 1, &f);
        if (!*s)
            break;
        put_conversion(&o, &f, *s, &rest);
    }
    va_end(rest);
    print_bytes(o.bytes, o.length);
}

void print(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_list(format, args);
    va_end(args);
}
