// The string library: matching on our own counted matcher, bounded results, and a charge on what copies
// or walks its argument. string.dump is absent. utf8 is here as well.
#define _GNU_SOURCE
#include "internal.h"

#include <string.h>

// ---- find, match, gmatch, gsub ----

static void check_subject(lua_State *L, size_t count) {
    if (count > MAX_SUBJECT)
        luaL_error(L, "a pattern's subject has at most 256 KiB, this one has %d", (int)(count < 1 << 30 ? count : 1 << 30));
}

static void check_matcher(lua_State *L, const matcher *m) {
    if (m->vm->violation) vm_raise_violation(L);
    if (m->message) luaL_error(L, "%s", m->message);
}

static void end_matching(lua_State *L, const matcher *m) { vm_charge(L, m->steps / 16 + 1); }

static void push_capture(lua_State *L, const matcher *m, int i, const char *s, const char *e) {
    if (i >= m->level) {
        if (i != 0) luaL_error(L, "invalid capture index %%%d", i + 1);
        lua_pushlstring(L, s, (size_t)(e - s));
    } else if (m->capture[i].length == CAPTURE_POSITION) {
        lua_pushinteger(L, m->capture[i].start - m->subject + 1);
    } else {
        lua_pushlstring(L, m->capture[i].start, (size_t)m->capture[i].length);
    }
}

static int push_captures(lua_State *L, const matcher *m, const char *s, const char *e) {
    int count = m->level == 0 && s ? 1 : m->level;
    luaL_checkstack(L, count, "too many captures");
    for (int i = 0; i < count; i++) push_capture(L, m, i, s, e);
    return count;
}

static size_t start_position(lua_Integer position, size_t count) {
    if (position > 0) return (size_t)position - 1;
    if (position == 0 || position < -(lua_Integer)count) return 0;
    return (size_t)((lua_Integer)count + position);
}

static const char *plain_find(const char *s, size_t s_count, const char *p, size_t p_count) {
    return p_count == 0 ? s : memmem(s, s_count, p, p_count);
}

static int is_plain(const char *p, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (p[i] != 0 && strchr("^$*+?.([%-", p[i])) return 0;
    return 1;
}

static int find_or_match(lua_State *L, int find) {
    size_t s_count, p_count;
    const char *s = luaL_checklstring(L, 1, &s_count);
    const char *p = luaL_checklstring(L, 2, &p_count);
    size_t start = start_position(luaL_optinteger(L, 3, 1), s_count);
    if (start > s_count) {
        luaL_pushfail(L);
        return 1;
    }
    if (find && (lua_toboolean(L, 4) || is_plain(p, p_count))) {
        vm_charge(L, (s_count - start) / 64);
        const char *found = plain_find(s + start, s_count - start, p, p_count);
        if (!found) {
            luaL_pushfail(L);
            return 1;
        }
        lua_pushinteger(L, found - s + 1);
        lua_pushinteger(L, found - s + (lua_Integer)p_count);
        return 2;
    }
    check_subject(L, s_count);
    int anchored = p_count > 0 && *p == '^';
    matcher m;
    matcher_start(&m, vm_of(L), s, s_count, p + p_count);
    for (const char *at = s + start;; at++) {
        const char *end = matcher_match(&m, at, p + anchored);
        check_matcher(L, &m);
        if (end) {
            end_matching(L, &m);
            if (!find) return push_captures(L, &m, at, end);
            lua_pushinteger(L, at - s + 1);
            lua_pushinteger(L, end - s);
            return push_captures(L, &m, NULL, NULL) + 2;
        }
        if (anchored || at >= m.subject_end) break;
    }
    end_matching(L, &m);
    luaL_pushfail(L);
    return 1;
}

static int string_find(lua_State *L) { return find_or_match(L, 1); }
static int string_match(lua_State *L) { return find_or_match(L, 0); }

// Upvalues: subject, pattern, next position, end of the last match (-1: none).
static int gmatch_next(lua_State *L) {
    size_t s_count, p_count;
    const char *s = lua_tolstring(L, lua_upvalueindex(1), &s_count);
    const char *p = lua_tolstring(L, lua_upvalueindex(2), &p_count);
    lua_Integer position = lua_tointeger(L, lua_upvalueindex(3));
    lua_Integer last = lua_tointeger(L, lua_upvalueindex(4));
    matcher m;
    matcher_start(&m, vm_of(L), s, s_count, p + p_count);
    for (const char *at = s + position; at <= m.subject_end; at++) {
        const char *end = matcher_match(&m, at, p);
        check_matcher(L, &m);
        if (!end || end - s == last) continue;
        end_matching(L, &m);
        lua_pushinteger(L, end - s);
        lua_copy(L, -1, lua_upvalueindex(3));
        lua_copy(L, -1, lua_upvalueindex(4));
        lua_pop(L, 1);
        return push_captures(L, &m, at, end);
    }
    end_matching(L, &m);
    lua_pushinteger(L, (lua_Integer)s_count + 1);
    lua_replace(L, lua_upvalueindex(3));
    return 0;
}

static int string_gmatch(lua_State *L) {
    size_t count;
    luaL_checklstring(L, 1, &count);
    luaL_checkstring(L, 2);
    check_subject(L, count);
    size_t start = start_position(luaL_optinteger(L, 3, 1), count);
    if (start > count) start = count + 1;
    lua_settop(L, 2);
    lua_pushinteger(L, (lua_Integer)start);
    lua_pushinteger(L, -1);
    lua_pushcclosure(L, gmatch_next, 4);
    return 1;
}

// Appends to the VM's scratch, which survives an error raised on the way.
static void scratch_add(lua_State *L, const char *bytes, size_t count) {
    moonraft_vm *vm = vm_of(L);
    if (vm->scratch.count + count > MAX_STRING) luaL_error(L, "the result is larger than 1 MiB");
    if (!buffer_append(&vm->scratch, bytes, count)) luaL_error(L, "out of memory");
}

// Pushes the replacement of one match, or false to keep the text.
static void push_replacement(lua_State *L, const matcher *m, const char *s, const char *e) {
    switch (lua_type(L, 3)) {
    case LUA_TFUNCTION: {
        lua_pushvalue(L, 3);
        int count = push_captures(L, m, s, e);
        lua_call(L, count, 1);
        break;
    }
    case LUA_TTABLE:
        push_capture(L, m, 0, s, e);
        lua_gettable(L, 3);
        break;
    default: {
        size_t count;
        const char *text = lua_tolstring(L, 3, &count);
        luaL_Buffer b;
        luaL_buffinit(L, &b);
        for (size_t i = 0; i < count; i++) {
            if (text[i] != '%') {
                luaL_addchar(&b, text[i]);
                continue;
            }
            i++;
            if (i < count && text[i] == '%') {
                luaL_addchar(&b, '%');
            } else if (i < count && text[i] == '0') {
                luaL_addlstring(&b, s, (size_t)(e - s));
                vm_charge(L, (uint64_t)(e - s) / 64);
            } else if (i < count && text[i] >= '1' && text[i] <= '9') {
                push_capture(L, m, text[i] - '1', s, e);
                luaL_tolstring(L, -1, NULL);
                lua_remove(L, -2);
                vm_charge(L, lua_rawlen(L, -1) / 64);
                luaL_addvalue(&b);
            } else {
                luaL_error(L, "invalid use of '%%' in replacement string");
            }
            if (luaL_bufflen(&b) > MAX_STRING) luaL_error(L, "the result is larger than 1 MiB");
        }
        vm_charge(L, count / 16);
        luaL_pushresult(&b);
        return;
    }
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 0);
    } else if (!lua_isstring(L, -1)) {
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    }
}

static int string_gsub(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    size_t s_count, p_count;
    const char *s = luaL_checklstring(L, 1, &s_count);
    const char *p = luaL_checklstring(L, 2, &p_count);
    int type = lua_type(L, 3);
    luaL_argexpected(
        L, type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION || type == LUA_TTABLE, 3,
        "string/function/table");
    lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)s_count + 1);
    check_subject(L, s_count);
    lua_settop(L, 3);
    int anchored = p_count > 0 && *p == '^';
    matcher m;
    matcher_start(&m, vm, s, s_count, p + p_count);
    // A callback may call gsub again, so this level's output must not stand in the shared scratch while
    // script code runs: pieces are kept on a table and joined at the end.
    lua_newtable(L);
    int pieces = lua_gettop(L);
    lua_Integer piece = 0, count = 0;
    size_t total = 0;
    const char *at = s, *kept = s, *last = NULL;
    while (count < most) {
        const char *end = matcher_match(&m, at, p + anchored);
        check_matcher(L, &m);
        if (end && end != last) {
            count++;
            vm_charge(L, 2);
            push_replacement(L, &m, at, end);
            if (lua_isstring(L, -1)) {
                size_t length;
                lua_tolstring(L, -1, &length);
                total += length + (size_t)(at - kept);
                if (total > MAX_STRING) return luaL_error(L, "the result is larger than 1 MiB");
                if (at > kept) {
                    lua_pushlstring(L, kept, (size_t)(at - kept));
                    lua_rawseti(L, pieces, ++piece);
                }
                lua_rawseti(L, pieces, ++piece);
                kept = end;
            } else {
                lua_pop(L, 1);
            }
            at = last = end;
        } else if (at < m.subject_end) {
            at++;
        } else {
            break;
        }
        if (anchored) break;
    }
    end_matching(L, &m);
    if (piece == 0) {
        lua_pushvalue(L, 1);
    } else {
        vm->scratch.count = 0;
        for (lua_Integer i = 1; i <= piece; i++) {
            lua_rawgeti(L, pieces, i);
            size_t length;
            const char *text = lua_tolstring(L, -1, &length);
            scratch_add(L, text, length);
            lua_pop(L, 1);
        }
        scratch_add(L, kept, (size_t)(m.subject_end - kept));
        vm_charge(L, vm->scratch.count / 16);
        lua_pushlstring(L, (const char *)vm->scratch.bytes, vm->scratch.count);
    }
    lua_pushinteger(L, count);
    return 2;
}

// ---- bounded and charged ----

static int string_rep(lua_State *L) {
    size_t s_count, gap_count;
    const char *s = luaL_checklstring(L, 1, &s_count);
    lua_Integer times = luaL_checkinteger(L, 2);
    const char *gap = luaL_optlstring(L, 3, "", &gap_count);
    if (times <= 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    size_t unit = s_count + gap_count;
    if (unit == 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    if (times > MAX_STRING || unit > MAX_STRING || (size_t)times * unit - gap_count > MAX_STRING)
        return luaL_error(L, "the result is larger than 1 MiB");
    size_t total = (size_t)times * unit - gap_count;
    vm_charge(L, total / 64 + 1);
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, total);
    // One unit, then what is there copied behind itself: the cost is that of the bytes, not of the times.
    size_t filled = unit < total ? unit : total;
    memcpy(out, s, s_count < filled ? s_count : filled);
    if (filled > s_count) memcpy(out + s_count, gap, filled - s_count);
    while (filled < total) {
        size_t next = filled < total - filled ? filled : total - filled;
        memcpy(out + filled, out, next);
        filled += next;
    }
    luaL_pushresultsize(&b, total);
    return 1;
}

static int string_byte(lua_State *L) {
    size_t count;
    const char *s = luaL_checklstring(L, 1, &count);
    lua_Integer from = luaL_optinteger(L, 2, 1);
    size_t start = start_position(from, count);
    lua_Integer to = luaL_optinteger(L, 3, lua_isnoneornil(L, 2) ? 1 : from);
    if (to < 0) to = to < -(lua_Integer)count ? 0 : (lua_Integer)count + to + 1;
    if (to > (lua_Integer)count) to = (lua_Integer)count;
    if ((lua_Integer)start >= to) return 0;
    lua_Integer results = to - (lua_Integer)start;
    if (results > MAX_RESULTS) return luaL_error(L, "more than %d results", MAX_RESULTS);
    luaL_checkstack(L, (int)results, "too many results");
    for (lua_Integer i = 0; i < results; i++) lua_pushinteger(L, (unsigned char)s[start + (size_t)i]);
    return (int)results;
}

// Upvalue: the stock function. Charges by the length of the string arguments first.
static int charged(lua_State *L) {
    int count = lua_gettop(L);
    uint64_t units = 1;
    for (int i = 1; i <= count; i++) {
        if (lua_type(L, i) != LUA_TSTRING) continue;
        size_t length;
        lua_tolstring(L, i, &length);
        units += length / 16;
    }
    vm_charge(L, units);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, count, LUA_MULTRET);
    return lua_gettop(L);
}

// A conversion makes up to some 400 bytes from a few of the format, hence the bound on the format.
static int string_format(lua_State *L) {
    size_t count;
    luaL_checklstring(L, 1, &count);
    if (count > 4096) return luaL_error(L, "the format is longer than 4096 bytes");
    vm_charge(L, count);
    return charged(L);
}

// utf8 functions push or walk one element a character.
static int utf8_bounded(lua_State *L) {
    size_t count;
    if (lua_type(L, 1) == LUA_TSTRING && (lua_tolstring(L, 1, &count), count > 64 << 10))
        return luaL_error(L, "utf8 functions take at most 64 KiB");
    return charged(L);
}

static int utf8_codepoint(lua_State *L) {
    size_t count;
    luaL_checklstring(L, 1, &count);
    lua_Integer from = luaL_optinteger(L, 2, 1);
    lua_Integer to = luaL_optinteger(L, 3, from);
    if (from < 0) from += (lua_Integer)count + 1;
    if (to < 0) to += (lua_Integer)count + 1;
    if (to >= from && (lua_Unsigned)to - (lua_Unsigned)from >= MAX_RESULTS)
        return luaL_error(L, "more than %d results", MAX_RESULTS);
    return utf8_bounded(L);
}

static void wrap(lua_State *L, int from, int to, const char *name, lua_CFunction wrapper) {
    lua_getfield(L, from, name);
    if (wrapper) lua_pushcclosure(L, wrapper, 1);
    lua_setfield(L, to, name);
}

// Leaves the string table; sets utf8 in the table of globals below it.
int string_open(lua_State *L) {
    int globals = lua_gettop(L);
    lua_newtable(L);
    int own = lua_gettop(L);
    luaopen_string(L);
    int stock = lua_gettop(L);
    wrap(L, stock, own, "char", NULL);
    wrap(L, stock, own, "len", NULL);
    wrap(L, stock, own, "sub", NULL);
    wrap(L, stock, own, "packsize", NULL);
    wrap(L, stock, own, "lower", charged);
    wrap(L, stock, own, "upper", charged);
    wrap(L, stock, own, "reverse", charged);
    wrap(L, stock, own, "pack", charged);
    wrap(L, stock, own, "unpack", charged);
    wrap(L, stock, own, "format", string_format);
    lua_settop(L, own);
    static const luaL_Reg functions[] = {
        {"find", string_find}, {"match", string_match}, {"gmatch", string_gmatch}, {"gsub", string_gsub},
        {"rep", string_rep}, {"byte", string_byte}, {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);

    lua_newtable(L);
    int utf8 = lua_gettop(L);
    luaopen_utf8(L);
    stock = lua_gettop(L);
    wrap(L, stock, utf8, "char", NULL);
    wrap(L, stock, utf8, "charpattern", NULL);
    wrap(L, stock, utf8, "codes", utf8_bounded);
    wrap(L, stock, utf8, "len", utf8_bounded);
    wrap(L, stock, utf8, "offset", utf8_bounded);
    wrap(L, stock, utf8, "codepoint", utf8_codepoint);
    lua_settop(L, utf8);
    lua_setfield(L, globals, "utf8");
    return 1;
}
