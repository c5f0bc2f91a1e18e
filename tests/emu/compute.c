/*
 * Freestanding C, compiled several times with other options, for the host and for guests. COMPUTE names the function.
 * The compilers' calls of memcpy and memset are served by the functions at the end (guests have no C library).
 */
#include <stddef.h>
#include <stdint.h>

#include "tests/emu/compute.h"

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

/* ---- integers ---- */

static uint32_t rotate(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

static uint64_t sha_like(const uint8_t *data, size_t length)
{
    uint32_t s[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (size_t i = 0; i + 4 <= length; i += 4) {
        uint32_t w =
            (uint32_t)data[i] << 24 | (uint32_t)data[i + 1] << 16 | (uint32_t)data[i + 2] << 8 | data[i + 3];
        uint32_t a = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
        uint32_t t = s[7] + a + ((s[4] & s[5]) ^ (~s[4] & s[6])) + w;
        uint32_t b = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
        for (unsigned k = 7; k > 0; k--)
            s[k] = s[k - 1];
        s[4] += t;
        s[0] = t + b + ((s[1] & s[2]) ^ (s[1] & s[3]) ^ (s[2] & s[3]));
    }
    uint64_t h = 0;
    for (unsigned k = 0; k < 8; k++)
        h = mix(h, s[k]);
    return h;
}

static void sort(int32_t *v, int low, int high)
{
    if (low >= high)
        return;
    int32_t pivot = v[(low + high) / 2];
    int i = low, j = high;
    while (i <= j) {
        while (v[i] < pivot)
            i++;
        while (v[j] > pivot)
            j--;
        if (i <= j) {
            int32_t t = v[i];
            v[i++] = v[j];
            v[j--] = t;
        }
    }
    sort(v, low, j);
    sort(v, i, high);
}

static uint64_t widths(uint64_t x)
{
    int8_t a = (int8_t)x;
    int16_t b = (int16_t)(x >> 8);
    int32_t c = (int32_t)(x >> 24);
    int64_t d = (int64_t)(x * 3);
    uint64_t h = 0;
    h = mix(h, (uint64_t)(a * b) + (uint64_t)(c >> (a & 7)));
    h = mix(h, (uint64_t)(d / (b | 1)) + (uint64_t)(c % (a | 3)));
    h = mix(h, (uint64_t)__builtin_popcountll(x) + (uint64_t)__builtin_ctzll(x | 256) +
                   (uint64_t)__builtin_clzll(x | 1));
    h = mix(h, __builtin_bswap64(x) + __builtin_bswap32((uint32_t)x));
    unsigned __int128 p = (unsigned __int128)x * (h | 1);
    h = mix(h, (uint64_t)(p >> 64) + (uint64_t)p);
    return mix(h, (a > b) + (c < d) * 2u + ((uint32_t)c > (uint16_t)b) * 4u);
}

static unsigned fibonacci(unsigned n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static uint64_t interpret(const uint8_t *code, unsigned length, uint64_t x)
{
    for (unsigned i = 0; i < length; i++) {
        switch (code[i] % 9) {
        case 0:
            x += i;
            break;
        case 1:
            x = x << 3 | x >> 61;
            break;
        case 2:
            x ^= x >> 7;
            break;
        case 3:
            x *= 11;
            break;
        case 4:
            x -= code[i];
            break;
        case 5:
            x = ~x;
            break;
        case 6:
            x = x & 1 ? x / 3 : x * 5;
            break;
        case 7:
            x = (uint64_t)((int64_t)x >> 3);
            break;
        default:
            x = mix(x, i);
            break;
        }
    }
    return x;
}

/* ---- floating point ---- */

static uint64_t bits(double d)
{
    uint64_t u;
    __builtin_memcpy(&u, &d, sizeof(u));
    return u;
}

static double matrix(double seed)
{
    static double a[12][12], b[12][12], c[12][12];
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 12; j++) {
            a[i][j] = seed + i * 0.5 - j;
            b[i][j] = seed / (1 + i + j);
        }
    double sum = 0;
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 12; j++) {
            c[i][j] = 0;
            for (int k = 0; k < 12; k++)
                c[i][j] += a[i][k] * b[k][j];
            sum += __builtin_sqrt(c[i][j] < 0 ? -c[i][j] : c[i][j]);
        }
    return sum;
}

static float series(float x)
{
    float term = x, sum = 0;
    for (int n = 1; n < 20; n++) {
        sum += term;
        term *= -x * x / (float)((2 * n) * (2 * n + 1));
    }
    return sum;
}

static uint64_t extended(unsigned n)
{
    long double x = 1, y = 0.3L;
    for (unsigned i = 1; i <= n; i++) {
        x = x * 1.0000001L + y / (long double)i;
        y = -y;
        if (x > 1000)
            x -= 999.5L;
    }
    return (uint64_t)(x * 1000000000.0L) + bits((double)y) + (uint64_t)(int64_t)(float)x;
}

static uint64_t vectors(const uint8_t *bytes, size_t length)
{
    static uint16_t out[4096];
    uint32_t sum = 0, worst = 0;
    for (size_t i = 0; i < length; i++)
        out[i] = (uint16_t)(bytes[i] * 3 + (bytes[i] >> 2));
    for (size_t i = 0; i < length; i++) {
        sum += out[i];
        worst = out[i] > worst ? out[i] : worst;
    }
    return mix(sum, worst);
}

uint64_t COMPUTE(unsigned turns)
{
    static uint8_t data[4096];
    static int32_t numbers[2048];
    uint64_t h = 1;
    for (unsigned turn = 0; turn < turns; turn++) {
        for (size_t i = 0; i < sizeof(data); i++) {
            h = h * 6364136223846793005u + 1442695040888963407u;
            data[i] = (uint8_t)(h >> 33);
        }
        for (size_t i = 0; i < 2048; i++)
            numbers[i] = (int32_t)(mix(h, i) >> 13);
        sort(numbers, 0, 2047);
        for (size_t i = 0; i < 2048; i += 7)
            h = mix(h, (uint32_t)numbers[i]);
        h = mix(h, sha_like(data, sizeof(data)));
        for (unsigned i = 0; i < 300; i++)
            h = mix(h, widths(h + i));
        h = mix(h, fibonacci(12 + turn % 3));
        h = mix(h, interpret(data, sizeof(data), h));
        h = mix(h, bits(matrix((double)(h >> 40) / 3.0)));
        h = mix(h, bits((double)series((float)(h >> 60) / 7.0f)));
        h = mix(h, extended(500));
        h = mix(h, vectors(data, sizeof(data)));
    }
    return h;
}
