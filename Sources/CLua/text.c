// Small text functions for scripts: base64, hex, CRC-32, glob and prefix matching. All are linear or
// charged, and bounded in size.
#include "internal.h"

#include <string.h>

static const char *checked(lua_State *L, int index, size_t *count) {
    const char *text = luaL_checklstring(L, index, count);
    if (*count > MAX_STRING) luaL_error(L, "the text is larger than 1 MiB");
    vm_charge(L, *count / 16);
    return text;
}

// ---- base64 ----

static int wants_url(lua_State *L) {
    const char *form = luaL_optstring(L, 2, "standard");
    if (strcmp(form, "url") == 0) return 1;
    if (strcmp(form, "standard") != 0) luaL_error(L, "base64: the form is \"standard\" or \"url\"");
    return 0;
}

int text_base64_encode(lua_State *L) {
    static const char standard[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const char safe[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    size_t count;
    const unsigned char *in = (const unsigned char *)checked(L, 1, &count);
    int url = wants_url(L);
    const char *digits = url ? safe : standard;
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, (count + 2) / 3 * 4);
    size_t n = 0;
    for (size_t i = 0; i < count; i += 3) {
        size_t left = count - i;
        uint32_t bits = (uint32_t)in[i] << 16;
        if (left > 1) bits |= (uint32_t)in[i + 1] << 8;
        if (left > 2) bits |= in[i + 2];
        out[n++] = digits[bits >> 18];
        out[n++] = digits[bits >> 12 & 63];
        if (left > 1) out[n++] = digits[bits >> 6 & 63];
        else if (!url) out[n++] = '=';
        if (left > 2) out[n++] = digits[bits & 63];
        else if (!url) out[n++] = '=';
    }
    luaL_pushresultsize(&b, n);
    return 1;
}

static int base64_digit(char c, int url) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == (url ? '-' : '+')) return 62;
    if (c == (url ? '_' : '/')) return 63;
    return -1;
}

int text_base64_decode(lua_State *L) {
    size_t count;
    const char *in = checked(L, 1, &count);
    int url = wants_url(L);
    if (!url && count % 4 != 0) goto fail;
    if (!url && count > 0 && in[count - 1] == '=') count -= in[count - 2] == '=' ? 2 : 1;
    if (count % 4 == 1) goto fail;
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, count / 4 * 3 + 3);
    size_t n = 0;
    uint32_t bits = 0;
    for (size_t i = 0; i < count; i++) {
        int digit = base64_digit(in[i], url);
        if (digit < 0) goto fail;
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 == 1) out[n++] = (char)(bits >> 4);
        if (i % 4 == 2) out[n++] = (char)(bits >> 2);
        if (i % 4 == 3) out[n++] = (char)bits;
    }
    // Bits that belong to no byte must be zero, so that a text has one encoding.
    if ((count % 4 == 2 && bits & 15) || (count % 4 == 3 && bits & 3)) goto fail;
    luaL_pushresultsize(&b, n);
    return 1;
fail:
    luaL_pushfail(L);
    return 1;
}

// ---- hex ----

int text_hex_encode(lua_State *L) {
    static const char digits[] = "0123456789abcdef";
    size_t count;
    const unsigned char *in = (const unsigned char *)checked(L, 1, &count);
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, count * 2);
    for (size_t i = 0; i < count; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    luaL_pushresultsize(&b, count * 2);
    return 1;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

int text_hex_decode(lua_State *L) {
    size_t count;
    const char *in = checked(L, 1, &count);
    luaL_Buffer b;
    if (count % 2 != 0) goto fail;
    char *out = luaL_buffinitsize(L, &b, count / 2);
    for (size_t i = 0; i < count / 2; i++) {
        int high = hex_digit(in[2 * i]), low = hex_digit(in[2 * i + 1]);
        if (high < 0 || low < 0) goto fail;
        out[i] = (char)(high << 4 | low);
    }
    luaL_pushresultsize(&b, count / 2);
    return 1;
fail:
    luaL_pushfail(L);
    return 1;
}

// ---- CRC-32 (IEEE 802.3) ----

uint32_t moonraft_crc32(const uint8_t *bytes, size_t count) {
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
    }
    return ~crc;
}

int text_crc32(lua_State *L) {
    size_t count;
    const char *in = checked(L, 1, &count);
    lua_pushinteger(L, moonraft_crc32((const uint8_t *)in, count));
    return 1;
}

// ---- glob ----

// Matches one '[...]' set at p (after '['); sets *next behind it. -1 for a malformed set.
static int glob_set(const char *p, const char *end, unsigned char c, const char **next) {
    int negated = p < end && (*p == '!' || *p == '^');
    if (negated) p++;
    int found = 0, first = 1;
    while (p < end && (*p != ']' || first)) {
        first = 0;
        unsigned char low = (unsigned char)*p++;
        if (low == '\\' && p < end) low = (unsigned char)*p++;
        unsigned char high = low;
        if (p + 1 < end && *p == '-' && p[1] != ']') {
            p++;
            high = (unsigned char)*p++;
            if (high == '\\' && p < end) high = (unsigned char)*p++;
        }
        if (low <= c && c <= high) found = 1;
    }
    if (p >= end) return -1;
    *next = p + 1;
    return found != negated;
}

// One pass with two places to fall back to, the last '*' and the last '**': at most |pattern| * |text| work
// for each, charged as it goes.
int text_glob_match(lua_State *L) {
    size_t p_count, s_count;
    const char *pattern = checked(L, 1, &p_count);
    const char *text = checked(L, 2, &s_count);
    const char *p = pattern, *p_end = pattern + p_count, *s = text, *s_end = text + s_count;
    const char *star_p = NULL, *star_s = NULL, *deep_p = NULL, *deep_s = NULL;
    uint64_t steps = 0;
    int matched = 0;
    for (;;) {
        if (++steps >= 1024) {
            vm_charge(L, steps / 16);
            steps = 0;
        }
        if (p < p_end && *p == '*') {
            if (p + 1 < p_end && p[1] == '*') {
                p += 2;
                deep_p = p;
                deep_s = s;
                star_p = NULL;
            } else {
                p++;
                star_p = p;
                star_s = s;
            }
            continue;
        }
        if (p == p_end && s == s_end) {
            matched = 1;
            break;
        }
        if (p < p_end && s < s_end) {
            unsigned char c = (unsigned char)*s;
            const char *next = p + 1;
            int ok;
            if (*p == '?') {
                ok = c != '/';
            } else if (*p == '[') {
                ok = glob_set(p + 1, p_end, c, &next);
                if (ok < 0) return luaL_error(L, "glob: missing ']' in the pattern");
                // A set may be as long as a string, and is walked again at each byte of the text.
                steps += (uint64_t)(next - p) / 16;
            } else if (*p == '\\' && p + 1 < p_end) {
                ok = (unsigned char)p[1] == c;
                next = p + 2;
            } else {
                ok = (unsigned char)*p == c;
            }
            if (ok) {
                p = next;
                s++;
                continue;
            }
        }
        if (star_p && star_s < s_end && *star_s != '/') {
            p = star_p;
            s = ++star_s;
            continue;
        }
        if (deep_p && deep_s < s_end) {
            p = deep_p;
            s = ++deep_s;
            star_p = NULL;
            continue;
        }
        break;
    }
    vm_charge(L, steps / 16);
    lua_pushboolean(L, matched);
    return 1;
}

// ---- prefixes ----

int text_prefix_of(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    size_t count;
    const char *key = luaL_checklstring(L, 2, &count);
    lua_Integer size = (lua_Integer)lua_rawlen(L, 1), best = 0;
    size_t best_count = 0;
    vm_charge(L, (uint64_t)size / 2);
    for (lua_Integer i = 1; i <= size; i++) {
        lua_rawgeti(L, 1, i);
        size_t prefix_count;
        if (lua_type(L, -1) != LUA_TSTRING) return luaL_error(L, "prefix.of: the list holds strings only");
        const char *prefix = lua_tolstring(L, -1, &prefix_count);
        if (prefix_count <= count && (best == 0 || prefix_count > best_count)
            // Charged by length: a list may hold one long string a hundred thousand times.
            && (vm_charge(L, prefix_count / 64), memcmp(prefix, key, prefix_count) == 0)) {
            best = i;
            best_count = prefix_count;
        }
        lua_pop(L, 1);
    }
    if (best == 0) {
        luaL_pushfail(L);
        return 1;
    }
    lua_pushinteger(L, best);
    lua_rawgeti(L, 1, best);
    return 2;
}
