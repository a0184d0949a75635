// The table library on raw access and raw lengths: a __len that answers 2^60 or an __index function cannot
// make one call run for ever, and every element moved is charged.
#include "internal.h"

static lua_Integer length_of(lua_State *L, int index) {
    luaL_checktype(L, index, LUA_TTABLE);
    return (lua_Integer)lua_rawlen(L, index);
}

static int table_insert(lua_State *L) {
    lua_Integer end = length_of(L, 1) + 1;
    switch (lua_gettop(L)) {
    case 2: lua_rawseti(L, 1, end); return 0;
    case 3: {
        lua_Integer position = luaL_checkinteger(L, 2);
        luaL_argcheck(L, position >= 1 && position <= end, 2, "position out of bounds");
        vm_charge(L, (uint64_t)(end - position));
        for (lua_Integer i = end; i > position; i--) {
            lua_rawgeti(L, 1, i - 1);
            lua_rawseti(L, 1, i);
        }
        lua_rawseti(L, 1, position);
        return 0;
    }
    default: return luaL_error(L, "wrong number of arguments to 'insert'");
    }
}

static int table_remove(lua_State *L) {
    lua_Integer size = length_of(L, 1);
    lua_Integer position = luaL_optinteger(L, 2, size);
    if (!lua_isnoneornil(L, 2))
        luaL_argcheck(L, position >= 0 && position <= size + 1 && (position > 0 || size == 0), 2, "position out of bounds");
    lua_rawgeti(L, 1, position);
    if (position < size) vm_charge(L, (uint64_t)(size - position));
    for (; position < size; position++) {
        lua_rawgeti(L, 1, position + 1);
        lua_rawseti(L, 1, position);
    }
    if (position == size) {
        lua_pushnil(L);
        lua_rawseti(L, 1, position);
    }
    return 1;
}

static int table_move(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3), to = luaL_checkinteger(L, 4);
    int target = lua_isnoneornil(L, 5) ? 1 : 5;
    luaL_checktype(L, target, LUA_TTABLE);
    if (last >= first) {
        lua_Unsigned count = (lua_Unsigned)last - (lua_Unsigned)first + 1;
        luaL_argcheck(L, count > 0 && count <= 1 << 20, 3, "too many elements to move");
        luaL_argcheck(L, to <= LUA_MAXINTEGER - (lua_Integer)count + 1, 4, "destination wrap around");
        vm_charge(L, count);
        if (to > last || to <= first || !lua_rawequal(L, 1, target)) {
            for (lua_Integer i = 0; i < (lua_Integer)count; i++) {
                lua_rawgeti(L, 1, first + i);
                lua_rawseti(L, target, to + i);
            }
        } else {
            for (lua_Integer i = (lua_Integer)count - 1; i >= 0; i--) {
                lua_rawgeti(L, 1, first + i);
                lua_rawseti(L, target, to + i);
            }
        }
    }
    lua_pushvalue(L, target);
    return 1;
}

static int table_concat(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    lua_Integer size = length_of(L, 1);
    size_t gap_count;
    const char *gap = luaL_optlstring(L, 2, "", &gap_count);
    lua_Integer first = luaL_optinteger(L, 3, 1);
    lua_Integer last = luaL_optinteger(L, 4, size);
    vm->scratch.count = 0;
    for (lua_Integer i = first; i <= last; i++) {
        int type = lua_rawgeti(L, 1, i);
        if (type != LUA_TSTRING && type != LUA_TNUMBER)
            return luaL_error(L, "invalid value (at index %I) in table for 'concat'", (LUAI_UACINT)i);
        size_t count;
        const char *text = lua_tolstring(L, -1, &count);
        if (vm->scratch.count + count + gap_count > MAX_STRING) return luaL_error(L, "the result is larger than 1 MiB");
        vm_charge(L, 1 + count / 16);
        if (!buffer_append(&vm->scratch, text, count)) return luaL_error(L, "out of memory");
        if (i < last && !buffer_append(&vm->scratch, gap, gap_count)) return luaL_error(L, "out of memory");
        lua_pop(L, 1);
        // i + 1 past the largest integer would wrap.
        if (i == LUA_MAXINTEGER) break;
    }
    lua_pushlstring(L, (const char *)vm->scratch.bytes, vm->scratch.count);
    return 1;
}

static int table_unpack(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer first = luaL_optinteger(L, 2, 1);
    lua_Integer last = lua_isnoneornil(L, 3) ? (lua_Integer)lua_rawlen(L, 1) : luaL_checkinteger(L, 3);
    if (first > last) return 0;
    lua_Unsigned count = (lua_Unsigned)last - (lua_Unsigned)first;
    if (count >= MAX_RESULTS) return luaL_error(L, "more than %d results", MAX_RESULTS);
    int results = (int)count + 1;
    luaL_checkstack(L, results, "too many results");
    vm_charge(L, count / 4);
    for (int i = 0; i < results; i++) lua_rawgeti(L, 1, first + i);
    return results;
}

static int table_pack(lua_State *L) {
    int count = lua_gettop(L);
    vm_charge(L, (uint64_t)count / 4);
    lua_createtable(L, count, 1);
    lua_insert(L, 1);
    for (int i = count; i >= 1; i--) lua_rawseti(L, 1, i);
    lua_pushinteger(L, count);
    lua_setfield(L, 1, "n");
    return 1;
}

// ---- sort ----

// Heap sort: the number of comparisons is bounded whatever the comparator answers.
static int less(lua_State *L, int a, int b) {
    uint64_t units = 2;
    size_t count;
    if (lua_isnoneornil(L, 2)) {
        if (lua_type(L, a) == LUA_TSTRING && lua_type(L, b) == LUA_TSTRING) {
            lua_tolstring(L, a, &count);
            units += count / 8;
        }
        vm_charge(L, units);
        return lua_compare(L, a, b, LUA_OPLT);
    }
    vm_charge(L, units);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, a);
    lua_pushvalue(L, b);
    lua_call(L, 2, 1);
    int result = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return result;
}

// Moves the element on top of the stack down from `root` in a heap of `size`; pops it.
static void sift(lua_State *L, lua_Integer root, lua_Integer size) {
    int moving = lua_gettop(L);
    for (;;) {
        lua_Integer child = 2 * root;
        if (child > size) break;
        lua_rawgeti(L, 1, child);
        if (child < size) {
            lua_rawgeti(L, 1, child + 1);
            if (less(L, moving + 1, moving + 2)) {
                lua_remove(L, moving + 1);
                child++;
            } else {
                lua_pop(L, 1);
            }
        }
        if (!less(L, moving, moving + 1)) {
            lua_pop(L, 1);
            break;
        }
        lua_rawseti(L, 1, root);
        root = child;
    }
    lua_rawseti(L, 1, root);
}

static int table_sort(lua_State *L) {
    lua_Integer size = length_of(L, 1);
    if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    luaL_checkstack(L, 16, "sort");
    for (lua_Integer root = size / 2; root >= 1; root--) {
        lua_rawgeti(L, 1, root);
        sift(L, root, size);
    }
    for (lua_Integer last = size; last > 1; last--) {
        lua_rawgeti(L, 1, last);
        lua_rawgeti(L, 1, 1);
        lua_rawseti(L, 1, last);
        sift(L, 1, last - 1);
    }
    return 0;
}

int table_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"insert", table_insert}, {"remove", table_remove}, {"move", table_move}, {"concat", table_concat},
        {"unpack", table_unpack}, {"pack", table_pack}, {"sort", table_sort}, {NULL, NULL},
    };
    luaL_newlib(L, functions);
    return 1;
}
