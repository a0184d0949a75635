// CRC32C in two forms chosen once at load time. The instruction handles 8 bytes in 3 cycles; the tables
// are for processors without it.
#include "csupport.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define MOONRAFT_HAVE_SSE42 1
#else
#define MOONRAFT_HAVE_SSE42 0
#endif

#define POLYNOMIAL 0x82f63b78u

static uint32_t tables[8][256];
static int has_instruction;

__attribute__((constructor)) static void prepare(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) ? POLYNOMIAL : 0);
        }
        tables[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++) {
        for (int slice = 1; slice < 8; slice++) {
            uint32_t before = tables[slice - 1][i];
            tables[slice][i] = (before >> 8) ^ tables[0][before & 0xff];
        }
    }
#if MOONRAFT_HAVE_SSE42
    has_instruction = __builtin_cpu_supports("sse4.2") ? 1 : 0;
#endif
}

static uint64_t load_little_endian(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

uint32_t moonraft_crc32c_software(uint32_t seed, const void *bytes, size_t length) {
    const uint8_t *p = bytes;
    uint32_t crc = ~seed;
    while (length >= 8) {
        uint64_t word = load_little_endian(p) ^ crc;
        crc = tables[7][word & 0xff] ^ tables[6][(word >> 8) & 0xff] ^
              tables[5][(word >> 16) & 0xff] ^ tables[4][(word >> 24) & 0xff] ^
              tables[3][(word >> 32) & 0xff] ^ tables[2][(word >> 40) & 0xff] ^
              tables[1][(word >> 48) & 0xff] ^ tables[0][word >> 56];
        p += 8;
        length -= 8;
    }
    while (length-- > 0) {
        crc = (crc >> 8) ^ tables[0][(crc ^ *p++) & 0xff];
    }
    return ~crc;
}

#if MOONRAFT_HAVE_SSE42
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(
    uint32_t seed, const uint8_t *p, size_t length) {
    uint64_t crc = (uint32_t)~seed;
    while (length >= 8) {
        crc = _mm_crc32_u64(crc, load_little_endian(p));
        p += 8;
        length -= 8;
    }
    uint32_t rest = (uint32_t)crc;
    while (length-- > 0) {
        rest = _mm_crc32_u8(rest, *p++);
    }
    return ~rest;
}
#endif

uint32_t moonraft_crc32c(uint32_t seed, const void *bytes, size_t length) {
#if MOONRAFT_HAVE_SSE42
    if (has_instruction) {
        return crc32c_sse42(seed, bytes, length);
    }
#endif
    return moonraft_crc32c_software(seed, bytes, length);
}

uint32_t moonraft_crc32c_u64(uint32_t seed, uint64_t value) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    return moonraft_crc32c(seed, bytes, sizeof bytes);
}

int moonraft_crc32c_is_hardware(void) { return has_instruction; }
