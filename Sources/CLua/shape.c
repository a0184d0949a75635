// The shape of JSON documents, for scripts that check what clients write: json.shape compiles a flat description once,
// and the function it returns checks texts. Native since it runs while a request waits; the work is charged like Lua's.
//
// A description maps the path of a field to its type:
//
//   ["spec"] = "object"   ["spec.port"] = "integer"   ["spec.tags"] = "array?"   ["spec.tags.*"] = "string|null"
//
// The empty path is the document. "*" stands for every item of an array and every field of an object without an entry
// of its own. It becomes a tree of Lua tables, one a path, that no script ever sees.
#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FIELDS = 1024 };

// Slots of a node. FIELDS: name -> node; EACH: the node of "*"; REQUIRED: names, sorted. The last three may be nil.
enum { NODE_TYPES = 1, NODE_TEXT, NODE_FIELDS, NODE_EACH, NODE_REQUIRED };

enum { STRING = 1, INTEGER = 2, NUMBER = 4, BOOLEAN = 8, OBJECT = 16, ARRAY = 32, NUL = 64 };

static const struct {
    const char *name;
    int types;
} names[] = {
    {"string", STRING}, {"integer", INTEGER}, {"number", NUMBER | INTEGER}, {"boolean", BOOLEAN}, {"object", OBJECT},
    {"array", ARRAY}, {"null", NUL}, {"any", STRING | INTEGER | NUMBER | BOOLEAN | OBJECT | ARRAY | NUL},
};
enum { NAMES = sizeof names / sizeof names[0] };

// ---- compiling ----

// The types that a text names; raises on a name that is none.
static int types_of(lua_State *L, const char *path, const char *text, size_t count) {
    int types = 0;
    const char *end = text + count;
    for (;;) {
        const char *bar = memchr(text, '|', (size_t)(end - text));
        size_t length = (size_t)((bar ? bar : end) - text);
        int found = 0;
        for (int i = 0; i < NAMES; i++)
            if (strlen(names[i].name) == length && memcmp(names[i].name, text, length) == 0) found = names[i].types;
        if (!found) {
            lua_pushlstring(L, text, length);
            return luaL_error(L, "%s: \"%s\" is no type", path, lua_tostring(L, -1));
        }
        types |= found;
        if (!bar) return types;
        text = bar + 1;
    }
}

// Pushes a node; returns whether the field may be absent.
static int push_node(lua_State *L, const char *path, const char *type, size_t count) {
    // The same long text may stand at every path.
    vm_charge(L, count / 8);
    int optional = count > 0 && type[count - 1] == '?';
    if (optional) count--;
    int types = types_of(L, path, type, count);
    lua_createtable(L, NODE_REQUIRED, 0);
    lua_pushinteger(L, types);
    lua_rawseti(L, -2, NODE_TYPES);
    lua_pushlstring(L, type, count);
    lua_rawseti(L, -2, NODE_TEXT);
    return optional;
}

// Pushes the table in a slot of the node at `node`, made when absent.
static void push_slot(lua_State *L, int node, int slot) {
    if (lua_rawgeti(L, node, slot) == LUA_TTABLE) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, node, slot);
}

// Puts the node on top of the stack below its parent, and pops it.
static void add_child(lua_State *L, int parent, const char *name, size_t count, int optional) {
    int child = lua_gettop(L);
    if (count == 1 && name[0] == '*') {
        lua_rawseti(L, parent, NODE_EACH);
        return;
    }
    push_slot(L, parent, NODE_FIELDS);
    lua_pushlstring(L, name, count);
    lua_pushvalue(L, child);
    lua_rawset(L, -3);
    if (!optional) {
        push_slot(L, parent, NODE_REQUIRED);
        lua_pushlstring(L, name, count);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    lua_settop(L, child - 1);
}

static int compare_paths(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static int check_text(lua_State *L);

int json_shape(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    int closed = lua_toboolean(L, 2);
    lua_settop(L, 1);
    // The paths, sorted: a parent then stands before its children, and the same problem is reported every time.
    const char **paths = lua_newuserdatauv(L, sizeof(char *) * MAX_FIELDS, 0);
    size_t count = 0;
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            return luaL_error(L, "fields must be a table of paths and types");
        if (count == MAX_FIELDS) return luaL_error(L, "a shape has at most %d fields", MAX_FIELDS);
        // The table keeps the string.
        size_t length;
        paths[count] = lua_tolstring(L, -2, &length);
        if (strlen(paths[count]) != length) return luaL_error(L, "a path has a zero byte inside");
        count++;
        lua_pop(L, 1);
    }
    vm_charge(L, count * 8);
    qsort(paths, count, sizeof *paths, compare_paths);

    lua_createtable(L, 0, (int)count + 1); // index 3: nodes by path
    if (count == 0 || paths[0][0] != 0) {
        push_node(L, "", count ? "object" : "any", count ? 6 : 3);
        lua_setfield(L, 3, "");
    }
    for (size_t i = 0; i < count; i++) {
        size_t length;
        lua_getfield(L, 1, paths[i]);
        const char *type = lua_tolstring(L, -1, &length);
        int optional = push_node(L, paths[i], type, length);
        lua_pushvalue(L, -1);
        lua_setfield(L, 3, paths[i]);
        if (paths[i][0]) {
            const char *dot = strrchr(paths[i], '.');
            const char *name = dot ? dot + 1 : paths[i];
            lua_pushlstring(L, paths[i], dot ? (size_t)(dot - paths[i]) : 0);
            lua_pushvalue(L, -1);
            if (lua_rawget(L, 3) != LUA_TTABLE)
                return luaL_error(L, "\"%s\" needs an entry for \"%s\"", paths[i], lua_tostring(L, -2));
            lua_insert(L, 4);
            lua_pop(L, 1);
            add_child(L, 4, name, strlen(name), optional);
        }
        lua_settop(L, 3);
    }
    lua_getfield(L, 3, "");
    lua_pushboolean(L, closed);
    lua_pushcclosure(L, check_text, 2);
    return 1;
}

// ---- checking ----

static int type_of(lua_State *L, int index) {
    switch (lua_type(L, index)) {
    case LUA_TLIGHTUSERDATA: return NUL;
    case LUA_TBOOLEAN: return BOOLEAN;
    case LUA_TSTRING: return STRING;
    case LUA_TNUMBER: {
        int whole;
        lua_tointegerx(L, index, &whole);
        return whole ? INTEGER : NUMBER;
    }
    default: return json_has_array_mark(L, index) ? ARRAY : OBJECT;
    }
}

static const char *name_of(int type) {
    for (int i = 0; i < NAMES; i++)
        if (names[i].types & type) return names[i].name;
    return "any";
}

// Puts `.NAME` before the place on top of the stack.
static void add_place(lua_State *L, int name) {
    lua_pushliteral(L, ".");
    lua_pushvalue(L, name);
    lua_pushvalue(L, -3);
    lua_concat(L, 3);
    lua_remove(L, -2);
}

static int check_items(lua_State *L, int node, int value, int closed);
static int check_fields(lua_State *L, int node, int value, int closed);

// Whether the value at `value` has the shape of the node; if not, two strings are pushed: what is wrong, and where.
// Values nest no deeper than json.decode allows.
static int check(lua_State *L, int node, int value, int closed) {
    luaL_checkstack(L, 12, "value nested too deep");
    vm_charge(L, 2);
    int type = type_of(L, value);
    lua_rawgeti(L, node, NODE_TYPES);
    int types = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    if (!(types & type)) {
        lua_rawgeti(L, node, NODE_TEXT);
        lua_pushfstring(L, "must be %s, is %s", lua_tostring(L, -1), name_of(type));
        lua_remove(L, -2);
        lua_pushliteral(L, "");
        return 0;
    }
    if (type == ARRAY) return check_items(L, node, value, closed);
    return type != OBJECT || check_fields(L, node, value, closed);
}

static int check_items(lua_State *L, int node, int value, int closed) {
    if (lua_rawgeti(L, node, NODE_EACH) != LUA_TTABLE) {
        lua_pop(L, 1);
        return 1;
    }
    int each = lua_gettop(L);
    lua_Integer count = (lua_Integer)lua_rawlen(L, value);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, value, i);
        if (!check(L, each, each + 1, closed)) {
            lua_pushfstring(L, "[%I]%s", (LUAI_UACINT)(i - 1), lua_tostring(L, -1));
            lua_remove(L, -2);
            return 0;
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return 1;
}

static int check_fields(lua_State *L, int node, int value, int closed) {
    int base = lua_gettop(L);
    lua_rawgeti(L, node, NODE_FIELDS);   // base + 1
    lua_rawgeti(L, node, NODE_EACH);     // base + 2
    lua_rawgeti(L, node, NODE_REQUIRED); // base + 3
    int has_fields = lua_istable(L, base + 1), has_each = lua_istable(L, base + 2);
    lua_Integer required = lua_istable(L, base + 3) ? (lua_Integer)lua_rawlen(L, base + 3) : 0;
    vm_charge(L, (uint64_t)required);
    for (lua_Integer i = 1; i <= required; i++) {
        lua_rawgeti(L, base + 3, i);
        lua_pushvalue(L, -1);
        if (lua_rawget(L, value) == LUA_TNIL) {
            lua_pop(L, 1);
            lua_pushliteral(L, "is missing");
            lua_pushliteral(L, "");
            add_place(L, base + 4);
            return 0;
        }
        lua_pop(L, 2);
    }
    if (!has_fields && !has_each) {
        lua_settop(L, base);
        return 1;
    }
    lua_pushnil(L);
    while (lua_next(L, value)) { // key: base + 4, item: base + 5
        int found = 0;
        if (has_fields) {
            lua_pushvalue(L, base + 4);
            found = lua_rawget(L, base + 1) == LUA_TTABLE;
            if (!found) lua_pop(L, 1);
        }
        if (!found && has_each) {
            lua_pushvalue(L, base + 2);
            found = 1;
        }
        if (found && !check(L, base + 6, base + 5, closed)) {
            add_place(L, base + 4);
            return 0;
        }
        if (!found && closed) {
            lua_pushliteral(L, "is not allowed");
            lua_pushliteral(L, "");
            add_place(L, base + 4);
            return 0;
        }
        lua_settop(L, base + 4);
    }
    lua_settop(L, base);
    return 1;
}

// Upvalues: the document's node, whether the shape is closed. Argument: a text. Nil, or what is wrong with it.
static int check_text(lua_State *L) {
    luaL_checktype(L, 1, LUA_TSTRING);
    lua_settop(L, 1);
    json_decode(L);
    if (lua_type(L, -1) == LUA_TSTRING && lua_isnil(L, -2)) {
        lua_pushfstring(L, "the document is not JSON: %s", lua_tostring(L, -1));
        return 1;
    }
    int value = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    if (check(L, value + 1, value, lua_toboolean(L, lua_upvalueindex(2)))) {
        lua_pushnil(L);
        return 1;
    }
    const char *place = lua_tostring(L, -1);
    lua_pushfstring(L, "%s %s", *place ? place + (*place == '.') : "the document", lua_tostring(L, -2));
    return 1;
}
