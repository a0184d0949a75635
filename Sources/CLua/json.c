// JSON for scripts. Encoding is deterministic (keys sorted); decoding refuses what two readers could take
// differently: repeated keys, control characters in strings, lone surrogates, trailing text.
#include "internal.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- UTF-8 ----

// Length of the well-formed sequence at p, or 0.
static size_t utf8_length(const unsigned char *p, const unsigned char *end) {
    size_t left = (size_t)(end - p);
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xC2) return 0;
    if (p[0] < 0xE0) return left >= 2 && (p[1] & 0xC0) == 0x80 ? 2 : 0;
    if (p[0] < 0xF0) {
        if (left < 3 || (p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80) return 0;
        if (p[0] == 0xE0 && p[1] < 0xA0) return 0;
        if (p[0] == 0xED && p[1] >= 0xA0) return 0;
        return 3;
    }
    if (p[0] < 0xF5) {
        if (left < 4 || (p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80 || (p[3] & 0xC0) != 0x80) return 0;
        if (p[0] == 0xF0 && p[1] < 0x90) return 0;
        if (p[0] == 0xF4 && p[1] >= 0x90) return 0;
        return 4;
    }
    return 0;
}

// ---- encoding ----

typedef struct {
    lua_State *L;
    buffer *out;
    int replace;
} encoder;

static void add(encoder *e, const char *bytes, size_t count) {
    if (e->out->count + count > MAX_STRING) luaL_error(e->L, "the JSON text is larger than 1 MiB");
    if (!buffer_append(e->out, bytes, count)) luaL_error(e->L, "out of memory");
}

static void add_string(encoder *e, const char *text, size_t count) {
    static const char hex[] = "0123456789abcdef";
    const unsigned char *p = (const unsigned char *)text, *end = p + count, *kept = p;
    vm_charge(e->L, 1 + count / 16);
    add(e, "\"", 1);
    while (p < end) {
        unsigned char c = *p;
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            p++;
            continue;
        }
        size_t length = c >= 0x80 ? utf8_length(p, end) : 0;
        if (length) {
            p += length;
            continue;
        }
        add(e, (const char *)kept, (size_t)(p - kept));
        char escape[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
        if (c >= 0x80) {
            if (!e->replace) luaL_error(e->L, "a string is not UTF-8 (byte %d)", (int)(p - (const unsigned char *)text) + 1);
            add(e, "\xEF\xBF\xBD", 3);
        } else if (c == '"' || c == '\\') {
            escape[1] = (char)c;
            add(e, escape, 2);
        } else if (c == '\n' || c == '\r' || c == '\t') {
            escape[1] = c == '\n' ? 'n' : c == '\r' ? 'r' : 't';
            add(e, escape, 2);
        } else {
            add(e, escape, 6);
        }
        kept = ++p;
    }
    add(e, (const char *)kept, (size_t)(p - kept));
    add(e, "\"", 1);
}

static void add_number(encoder *e, int index) {
    char text[40];
    int count;
    if (lua_isinteger(e->L, index)) {
        count = snprintf(text, sizeof text, "%lld", (long long)lua_tointeger(e->L, index));
    } else {
        double value = lua_tonumber(e->L, index);
        if (!isfinite(value)) luaL_error(e->L, "a number is not finite and has no JSON form");
        count = snprintf(text, sizeof text, "%.15g", value);
        if (strtod(text, NULL) != value) count = snprintf(text, sizeof text, "%.17g", value);
    }
    add(e, text, (size_t)count);
}

typedef struct {
    const char *text;
    size_t count;
} json_key;

static int compare_keys(const void *a, const void *b) {
    const json_key *x = a, *y = b;
    size_t n = x->count < y->count ? x->count : y->count;
    int order = memcmp(x->text, y->text, n);
    if (order) return order;
    return x->count < y->count ? -1 : x->count > y->count;
}

static void add_value(encoder *e, int index, int depth);

int json_has_array_mark(lua_State *L, int index) {
    if (!lua_getmetatable(L, index)) return 0;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_array);
    int marked = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return marked;
}

int json_is_place(lua_State *L, int index, lua_Unsigned length) {
    return lua_isinteger(L, index) && (lua_Unsigned)lua_tointeger(L, index) - 1 < length;
}

static void add_table(encoder *e, int index, int depth) {
    lua_State *L = e->L;
    luaL_checkstack(L, 8, "value nested too deep");
    lua_Unsigned length = lua_rawlen(L, index);
    size_t keys = 0;
    int other = 0, outside = 0;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        keys++;
        if (lua_type(L, -2) != LUA_TSTRING) other = 1;
        if (!json_is_place(L, -2, length)) outside = 1;
        lua_pop(L, 1);
    }
    vm_charge(L, keys);
    // With a hole inside, the length says little: { 1, nil, 3, x = 4 } has as many keys as its length.
    if (keys == length && !outside && (length > 0 || json_has_array_mark(L, index))) {
        add(e, "[", 1);
        for (lua_Unsigned i = 1; i <= length; i++) {
            if (i > 1) add(e, ",", 1);
            lua_rawgeti(L, index, (lua_Integer)i);
            add_value(e, lua_gettop(L), depth + 1);
            lua_pop(L, 1);
        }
        add(e, "]", 1);
        return;
    }
    if (other) luaL_error(L, "a table is neither an array nor a map with string keys");
    // Keys sorted in a block of the VM's own memory, so that an error leaks nothing.
    json_key *sorted = lua_newuserdatauv(L, sizeof(json_key) * (keys ? keys : 1), 0);
    size_t i = 0;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        sorted[i].text = lua_tolstring(L, -2, &sorted[i].count);
        i++;
        lua_pop(L, 1);
    }
    qsort(sorted, keys, sizeof *sorted, compare_keys);
    vm_charge(L, keys * 4);
    add(e, "{", 1);
    for (i = 0; i < keys; i++) {
        if (i > 0) add(e, ",", 1);
        add_string(e, sorted[i].text, sorted[i].count);
        add(e, ":", 1);
        lua_pushlstring(L, sorted[i].text, sorted[i].count);
        lua_rawget(L, index);
        add_value(e, lua_gettop(L), depth + 1);
        lua_pop(L, 1);
    }
    add(e, "}", 1);
    lua_pop(L, 1);
}

static void add_value(encoder *e, int index, int depth) {
    lua_State *L = e->L;
    switch (lua_type(L, index)) {
    case LUA_TNIL: add(e, "null", 4); return;
    case LUA_TLIGHTUSERDATA: add(e, "null", 4); return;
    case LUA_TBOOLEAN: lua_toboolean(L, index) ? add(e, "true", 4) : add(e, "false", 5); return;
    case LUA_TNUMBER: add_number(e, index); return;
    case LUA_TSTRING: {
        size_t count;
        const char *text = lua_tolstring(L, index, &count);
        add_string(e, text, count);
        return;
    }
    case LUA_TTABLE:
        if (depth >= MAX_DEPTH) luaL_error(L, "the value is nested more than %d levels", MAX_DEPTH);
        add_table(e, index, depth);
        return;
    default: luaL_error(L, "a %s has no JSON form", luaL_typename(L, index));
    }
}

int json_encode(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    luaL_checkany(L, 1);
    encoder e = {L, &vm->scratch, 0};
    if (lua_istable(L, 2)) {
        lua_pushliteral(L, "invalid");
        lua_rawget(L, 2);
        const char *invalid = lua_isstring(L, -1) ? lua_tostring(L, -1) : "error";
        if (strcmp(invalid, "replace") == 0)
            e.replace = 1;
        else if (strcmp(invalid, "error") != 0)
            return luaL_error(L, "json.encode: invalid is \"error\" or \"replace\"");
    }
    lua_settop(L, 1);
    vm->scratch.count = 0;
    add_value(&e, 1, 0);
    lua_pushlstring(L, (const char *)vm->scratch.bytes, vm->scratch.count);
    return 1;
}

// ---- decoding ----

typedef struct {
    lua_State *L;
    const char *start;
    const char *p;
    const char *end;
    const char *problem;
} decoder;

static int bad(decoder *d, const char *problem) {
    if (!d->problem) d->problem = problem;
    return 0;
}

static void skip_space(decoder *d) {
    while (d->p < d->end && (*d->p == ' ' || *d->p == '\t' || *d->p == '\n' || *d->p == '\r')) d->p++;
}

static int hex_unit(decoder *d, unsigned *unit) {
    if (d->end - d->p < 4) return bad(d, "short \\u escape");
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        char c = *d->p++;
        unsigned digit;
        if (c >= '0' && c <= '9') digit = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f') digit = (unsigned)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') digit = (unsigned)(c - 'A' + 10);
        else return bad(d, "bad \\u escape");
        *unit = *unit * 16 + digit;
    }
    return 1;
}

static int add_code_point(buffer *out, unsigned code) {
    unsigned char b[4];
    size_t n;
    if (code < 0x80) {
        b[0] = (unsigned char)code;
        n = 1;
    } else if (code < 0x800) {
        b[0] = (unsigned char)(0xC0 | code >> 6);
        b[1] = (unsigned char)(0x80 | (code & 63));
        n = 2;
    } else if (code < 0x10000) {
        b[0] = (unsigned char)(0xE0 | code >> 12);
        b[1] = (unsigned char)(0x80 | ((code >> 6) & 63));
        b[2] = (unsigned char)(0x80 | (code & 63));
        n = 3;
    } else {
        b[0] = (unsigned char)(0xF0 | code >> 18);
        b[1] = (unsigned char)(0x80 | ((code >> 12) & 63));
        b[2] = (unsigned char)(0x80 | ((code >> 6) & 63));
        b[3] = (unsigned char)(0x80 | (code & 63));
        n = 4;
    }
    return buffer_append(out, b, n);
}

static int read_escape(decoder *d, buffer *out) {
    if (d->p >= d->end) return bad(d, "unfinished string");
    char c = *d->p++;
    switch (c) {
    case '"': case '\\': case '/': return buffer_byte(out, (uint8_t)c);
    case 'b': return buffer_byte(out, '\b');
    case 'f': return buffer_byte(out, '\f');
    case 'n': return buffer_byte(out, '\n');
    case 'r': return buffer_byte(out, '\r');
    case 't': return buffer_byte(out, '\t');
    case 'u': break;
    default: return bad(d, "bad escape");
    }
    unsigned unit, low;
    if (!hex_unit(d, &unit)) return 0;
    if (unit >= 0xDC00 && unit < 0xE000) return bad(d, "lone surrogate");
    if (unit >= 0xD800 && unit < 0xDC00) {
        if (d->end - d->p < 2 || d->p[0] != '\\' || d->p[1] != 'u') return bad(d, "lone surrogate");
        d->p += 2;
        if (!hex_unit(d, &low)) return 0;
        if (low < 0xDC00 || low >= 0xE000) return bad(d, "lone surrogate");
        unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
    }
    return add_code_point(out, unit);
}

// Pushes a string; d->p stands after the opening quote.
static int read_string(decoder *d) {
    buffer *out = &vm_of(d->L)->scratch;
    const char *kept = d->p;
    out->count = 0;
    while (d->p < d->end) {
        unsigned char c = (unsigned char)*d->p;
        if (c == '"') {
            size_t tail = (size_t)(d->p - kept);
            d->p++;
            if (out->count == 0) {
                lua_pushlstring(d->L, kept, tail);
            } else {
                if (!buffer_append(out, kept, tail)) return bad(d, "out of memory");
                lua_pushlstring(d->L, (const char *)out->bytes, out->count);
            }
            return 1;
        }
        if (c == '\\') {
            if (!buffer_append(out, kept, (size_t)(d->p - kept))) return bad(d, "out of memory");
            d->p++;
            if (!read_escape(d, out)) return 0;
            kept = d->p;
            continue;
        }
        if (c < 0x20) return bad(d, "control character in a string");
        size_t length = c < 0x80 ? 1 : utf8_length((const unsigned char *)d->p, (const unsigned char *)d->end);
        if (!length) return bad(d, "text that is not UTF-8");
        d->p += length;
    }
    return bad(d, "unfinished string");
}

static int digits(decoder *d) {
    const char *start = d->p;
    while (d->p < d->end && *d->p >= '0' && *d->p <= '9') d->p++;
    return d->p > start;
}

static int read_number(decoder *d) {
    const char *start = d->p;
    int integer = 1;
    if (*d->p == '-') d->p++;
    if (d->p < d->end && *d->p == '0') d->p++;
    else if (!digits(d)) return bad(d, "unexpected character");
    if (d->p < d->end && *d->p == '.') {
        integer = 0;
        d->p++;
        if (!digits(d)) return bad(d, "bad number");
    }
    if (d->p < d->end && (*d->p == 'e' || *d->p == 'E')) {
        integer = 0;
        d->p++;
        if (d->p < d->end && (*d->p == '+' || *d->p == '-')) d->p++;
        if (!digits(d)) return bad(d, "bad number");
    }
    size_t count = (size_t)(d->p - start);
    char text[64];
    if (count >= sizeof text) return bad(d, "a number with more than 63 characters");
    memcpy(text, start, count);
    text[count] = 0;
    // An integer out of range becomes a float, as in Lua's own reader.
    if (integer && count < 19) {
        lua_pushinteger(d->L, (lua_Integer)strtoll(text, NULL, 10));
    } else if (lua_stringtonumber(d->L, text) == 0) {
        return bad(d, "bad number");
    }
    return 1;
}

static int read_value(decoder *d, int depth);

static int read_array(decoder *d, int depth) {
    lua_State *L = d->L;
    lua_newtable(L);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_array);
    lua_setmetatable(L, -2);
    lua_Integer i = 0;
    skip_space(d);
    if (d->p < d->end && *d->p == ']') {
        d->p++;
        return 1;
    }
    for (;;) {
        if (!read_value(d, depth + 1)) return 0;
        lua_rawseti(L, -2, ++i);
        skip_space(d);
        if (d->p < d->end && *d->p == ',') {
            d->p++;
            continue;
        }
        if (d->p < d->end && *d->p == ']') {
            d->p++;
            return 1;
        }
        return bad(d, "expected ',' or ']'");
    }
}

static int read_object(decoder *d, int depth) {
    lua_State *L = d->L;
    lua_newtable(L);
    skip_space(d);
    if (d->p < d->end && *d->p == '}') {
        d->p++;
        return 1;
    }
    for (;;) {
        skip_space(d);
        if (d->p >= d->end || *d->p != '"') return bad(d, "expected a key");
        d->p++;
        if (!read_string(d)) return 0;
        lua_pushvalue(L, -1);
        if (lua_rawget(L, -3) != LUA_TNIL) return bad(d, "repeated key");
        lua_pop(L, 1);
        skip_space(d);
        if (d->p >= d->end || *d->p != ':') return bad(d, "expected ':'");
        d->p++;
        if (!read_value(d, depth + 1)) return 0;
        lua_rawset(L, -3);
        skip_space(d);
        if (d->p < d->end && *d->p == ',') {
            d->p++;
            continue;
        }
        if (d->p < d->end && *d->p == '}') {
            d->p++;
            return 1;
        }
        return bad(d, "expected ',' or '}'");
    }
}

static int read_word(decoder *d, const char *word) {
    size_t count = strlen(word);
    if ((size_t)(d->end - d->p) < count || memcmp(d->p, word, count) != 0) return bad(d, "unexpected character");
    d->p += count;
    return 1;
}

static int read_value(decoder *d, int depth) {
    lua_State *L = d->L;
    if (depth > MAX_DEPTH) return bad(d, "nested too deep");
    luaL_checkstack(L, 8, "nested too deep");
    vm_charge(L, 2);
    skip_space(d);
    if (d->p >= d->end) return bad(d, "unexpected end");
    switch (*d->p) {
    case '{': d->p++; return read_object(d, depth);
    case '[': d->p++; return read_array(d, depth);
    case '"': d->p++; return read_string(d);
    case 't':
        if (!read_word(d, "true")) return 0;
        lua_pushboolean(L, 1);
        return 1;
    case 'f':
        if (!read_word(d, "false")) return 0;
        lua_pushboolean(L, 0);
        return 1;
    case 'n':
        if (!read_word(d, "null")) return 0;
        lua_pushlightuserdata(L, NULL);
        return 1;
    default: return read_number(d);
    }
}

int json_decode(lua_State *L) {
    size_t count;
    const char *text = luaL_checklstring(L, 1, &count);
    if (count > MAX_STRING) {
        luaL_pushfail(L);
        lua_pushliteral(L, "the JSON text is larger than 1 MiB");
        return 2;
    }
    vm_charge(L, count / 32);
    decoder d = {L, text, text, text + count, NULL};
    if (read_value(&d, 0)) {
        skip_space(&d);
        if (d.p == d.end) return 1;
        bad(&d, "text after the value");
    }
    luaL_pushfail(L);
    lua_pushfstring(L, "%s at byte %d", d.problem ? d.problem : "malformed", (int)(d.p - d.start) + 1);
    return 2;
}

int json_array(lua_State *L) {
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL) lua_pop(L, 1);
    if (lua_getmetatable(L, 1)) {
        if (json_has_array_mark(L, 1)) {
            lua_settop(L, 1);
            return 1;
        }
        return luaL_error(L, "the table has a metatable of its own");
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_array);
    lua_setmetatable(L, 1);
    return 1;
}

int json_is_array(lua_State *L) {
    int array = lua_istable(L, 1);
    if (array && !json_has_array_mark(L, 1)) {
        lua_Unsigned length = lua_rawlen(L, 1);
        size_t keys = 0;
        int outside = 0;
        lua_pushnil(L);
        while (lua_next(L, 1)) {
            keys++;
            if (!json_is_place(L, -2, length)) outside = 1;
            lua_pop(L, 1);
        }
        vm_charge(L, keys);
        array = length > 0 && keys == length && !outside;
    }
    lua_pushboolean(L, array);
    return 1;
}
