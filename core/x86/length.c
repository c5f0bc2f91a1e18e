/*
 * The length of an instruction, whether it is defined or not. A CPU finds the length of what it fetched before it looks at
 * what it is: an undefined instruction of more than 15 bytes is #GP, not #UD (SDM 2, 2.3.11), and one that goes on in a page
 * that is absent is #PF. Zydis measures defined instructions only. Where manuals say nothing (opcodes that nobody has
 * defined), the lengths are those that an AMD CPU takes, found by putting prefixes in front until it raised #GP.
 */
#include "core/x86/plan.h"

/*
 * What follows an opcode:
 *   .  nothing                1  8 bits            2  16 bits        3  16 and 8 bits (ENTER)
 *   z  16 or 32 bits          v  16, 32 or 64      a  an address     p  a far pointer
 *   m  ModRM                  B  ModRM, 8 bits     W  ModRM, 16      Z  ModRM, 16 or 32
 *   r  ModRM, a register whatever mod says         T, U  ModRM; TEST (reg 0 and 1) has B and Z
 *   x  a prefix or an escape: read before
 */
static const char one_byte[] = "mmmm1z..mmmm1z.xmmmm1z..mmmm1z.."
                               "mmmm1zx.mmmm1zx.mmmm1zx.mmmm1zx."
                               "................................"
                               "..mmxxxxzZ1B....1111111111111111"
                               "BZBBmmmmmmmmmmmm..........p....."
                               "aaaa....1z......11111111vvvvvvvv"
                               "BB2.mmBZ3.2..1..mmmm11..mmmmmmmm"
                               "11111111zzp1....x.xx..TU......mm";

static const char two_bytes[] = "mmmm.........m.Bmmmmmmmmmmmmmmmm"
                                "rrrr....mmmmmmmm........x.x....."
                                "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm"
                                "mmmmmmmmmmmmmmmmBBBBmmm.Wm..mmmm"
                                "zzzzzzzzzzzzzzzzmmmmmmmmmmmmmmmm"
                                "...mBm.....mBmmmmmmmmmmmm.Bmmmmm"
                                "mmBmBBBm........mmmmmmmmmmmmmmmm"
                                "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm.";

enum encoding { LEGACY, VEX, XOP, EVEX };

struct cursor {
    const uint8_t *bytes;
    size_t at, available;
    unsigned op_size, addr_size; /* in bytes */
    bool rex;
    uint8_t encoding; /* enum encoding */
    struct plan_layout layout;
};

/* Past the end there are zeros: the length found is then more than what is available, which is all that is told of it. */
static uint8_t peek(const struct cursor *c)
{
    return c->at < c->available ? c->bytes[c->at] : 0;
}

static bool is_prefix(uint8_t byte)
{
    return (byte & 0xe7) == 0x26 || (byte & 0xfc) == 0x64 || byte == 0xf0 || (byte & 0xfe) == 0xf2;
}

static void read_prefixes(struct cursor *c, unsigned code_size)
{
    bool op_override = false, addr_override = false, wide = false;
    for (; c->at < c->available; c->at++) {
        uint8_t byte = c->bytes[c->at];
        bool rex = code_size == 8 && (byte & 0xf0) == 0x40;
        if (!rex && !is_prefix(byte))
            break;
        op_override |= byte == 0x66;
        addr_override |= byte == 0x67;
        c->rex = rex; /* only the last one before the opcode counts */
        wide = rex && (byte & 8);
    }
    unsigned other = code_size == 2 ? 4 : 2;
    unsigned plain = code_size == 8 ? 4 : code_size;
    c->op_size = wide ? 8 : op_override ? other : plain;
    c->addr_size = !addr_override ? code_size : code_size == 8 ? 4 : other;
}

/* Reads the escape bytes in front of the opcode. Returns what follows the opcodes of the map, NULL for what mixed says. */
static const char *read_escape(struct cursor *c, unsigned code_size, char *mixed)
{
    uint8_t first = peek(c), second = c->at + 1 < c->available ? c->bytes[c->at + 1] : 0;
    bool free_byte = code_size == 8 || second >= 0xc0; /* else LES, LDS, BOUND */
    c->encoding = first == 0x62 && free_byte                      ? EVEX
                  : first == 0x8f && (second & 0x1f) >= 8         ? XOP
                  : (first == 0xc4 || first == 0xc5) && free_byte ? VEX
                                                                  : LEGACY;
    if (c->encoding == LEGACY && first != 0x0f)
        return one_byte;
    if (c->encoding == LEGACY) {
        *mixed = second == 0x38 ? 'm' : 'B';
        bool three = second == 0x38 || second == 0x3a;
        c->at += three ? 2 : 1;
        return three ? NULL : two_bytes;
    }
    /* Behind REX they are undefined, and as long as what they are in other modes: LES, LDS, BOUND, POP. */
    if (c->rex) {
        c->encoding = LEGACY;
        return one_byte;
    }
    c->at += first == 0xc5 ? 2 : c->encoding == EVEX ? 4 : 3;
    c->op_size = 4;
    unsigned map = first == 0xc5 ? 1 : second & (c->encoding == EVEX ? 7 : 31);
    if (c->encoding == XOP)
        *mixed = map == 10 ? 'Z' : 'm';
    else
        *mixed = map == 3 || (map == 7 && c->encoding == EVEX) ? 'B' : 'm';
    bool as_two_bytes = map == 1 || (map == 5 && c->encoding == EVEX);
    return c->encoding != XOP && as_two_bytes ? two_bytes : NULL;
}

/* ModRM, SIB and displacement (SDM 2, tables 2-1 to 2-3). */
static void read_modrm(struct cursor *c)
{
    uint8_t modrm = peek(c), mod = modrm >> 6, rm = modrm & 7;
    c->at++;
    if (mod == 3)
        return;
    bool narrow = c->addr_size == 2;
    if (!narrow && rm == 4) {
        rm = peek(c) & 7;
        c->at++;
    } else if (narrow && rm == 6) {
        rm = 5;
    } else if (narrow && rm == 5) {
        rm = 0;
    }
    c->layout.disp_at = (uint8_t)c->at;
    if (mod == 1)
        c->layout.disp_bytes = 1;
    else if (mod == 2 || rm == 5)
        c->layout.disp_bytes = narrow ? 2 : 4;
    c->at += c->layout.disp_bytes;
}

static unsigned immediate_bytes(const struct cursor *c, char what, unsigned half, bool test)
{
    switch (what) {
    case '1':
    case 'B':
        return 1;
    case '2':
    case 'W':
        return 2;
    case '3':
        return 3;
    case 'z':
    case 'Z':
        return half;
    case 'v':
        return c->op_size;
    case 'p':
        return half + 2;
    case 'T':
        return test ? 1 : 0;
    case 'U':
        return test ? half : 0;
    default:
        return 0;
    }
}

static void read_operands(struct cursor *c, char what)
{
    size_t modrm = c->at;
    unsigned half = c->op_size == 2 ? 2 : 4;
    bool test = modrm < c->available && (c->bytes[modrm] & 0x30) == 0;
    switch (what) {
    case 'm':
    case 'B':
    case 'W':
    case 'Z':
    case 'T':
    case 'U':
        read_modrm(c);
        break;
    case 'r':
        c->at++;
        break;
    case 'a':
        c->layout.disp_at = (uint8_t)c->at;
        c->layout.disp_bytes = (uint8_t)c->addr_size;
        c->at += c->addr_size;
        break;
    default:
        break;
    }
    c->layout.imm_at = (uint8_t)c->at;
    c->layout.imm_bytes = (uint8_t)immediate_bytes(c, what, half, test);
    c->at += c->layout.imm_bytes;
}

/* Stops early where more bytes are needed than there are. */
static void measure(struct cursor *c, unsigned code_size)
{
    char what = '.';
    read_prefixes(c, code_size);
    const char *map = read_escape(c, code_size, &what);
    uint8_t opcode = peek(c);
    c->at++;
    if (map)
        what = map[opcode];
    /* AVX-512 has instructions where SSE4A has them. */
    if (c->encoding == EVEX && map && (opcode == 0x78 || opcode == 0x7a || opcode == 0x7b))
        what = 'm';
    if (c->at <= c->available)
        read_operands(c, what);
}

size_t plan_instruction_length(const uint8_t *bytes, size_t available, unsigned code_size)
{
    struct cursor c = {.bytes = bytes, .available = available};
    measure(&c, code_size);
    return c.at;
}

bool plan_find_layout(const uint8_t *bytes, size_t available, unsigned code_size, struct plan_layout *out)
{
    struct cursor c = {.bytes = bytes, .available = available};
    measure(&c, code_size);
    *out = c.layout;
    out->length = (uint8_t)c.at;
    return c.at <= available;
}
