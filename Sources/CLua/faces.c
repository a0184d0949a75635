// Faces: the objects that a hook receives (req, id, rec, cred, peer, op). Each is one userdata made with the
// VM and used again for every call; its fields are read from the current view when a script asks, so a hook pays
// only for what it looks at. Outside the call they were given to, reading one raises an error.
#include "internal.h"

#include <string.h>

const char *handle_kind_name(int32_t kind) {
    static const char *const names[MOONRAFT_HANDLES] = {
        "", "secret", "file", "keys", "sink", "metric", "plugin_under_test", "records", "req", "id", "rec",
        "cred", "peer", "op",
    };
    return kind > 0 && kind < MOONRAFT_HANDLES ? names[kind] : "";
}

// ---- ranges ----

static int compare(const uint8_t *a, size_t a_count, const uint8_t *b, size_t b_count) {
    size_t n = a_count < b_count ? a_count : b_count;
    int order = n ? memcmp(a, b, n) : 0;
    if (order) return order;
    return a_count < b_count ? -1 : a_count > b_count;
}

static int has_prefix(const uint8_t *s, size_t count, const uint8_t *prefix, size_t prefix_count) {
    return count >= prefix_count && (prefix_count == 0 || memcmp(s, prefix, prefix_count) == 0);
}

static int is_open(const uint8_t *end, size_t count) { return count == 1 && end[0] == 0; }

int range_within(
    const uint8_t *key, size_t key_count, const uint8_t *end, size_t end_count, const uint8_t *prefix,
    size_t prefix_count) {
    if (prefix_count == 0) return 1;
    if (!has_prefix(key, key_count, prefix, prefix_count)) return 0;
    if (end_count == 0) return 1;
    if (is_open(end, end_count)) {
        for (size_t i = 0; i < prefix_count; i++)
            if (prefix[i] != 0xFF) return 0;
        return 1;
    }
    // end <= successor of the prefix: the prefix without its trailing 0xff bytes, last byte plus one.
    size_t n = prefix_count;
    while (n > 0 && prefix[n - 1] == 0xFF) n--;
    if (n == 0) return 1;
    size_t common = end_count < n - 1 ? end_count : n - 1;
    int order = common ? memcmp(end, prefix, common) : 0;
    if (order) return order < 0;
    if (end_count < n) return 1;
    if (end[n - 1] != prefix[n - 1] + 1) return end[n - 1] < prefix[n - 1] + 1;
    return end_count == n;
}

int range_touches(
    const uint8_t *key, size_t key_count, const uint8_t *end, size_t end_count, const uint8_t *prefix,
    size_t prefix_count) {
    if (prefix_count == 0 || has_prefix(key, key_count, prefix, prefix_count)) return 1;
    if (end_count == 0) return 0;
    if (compare(key, key_count, prefix, prefix_count) > 0) return 0;
    return is_open(end, end_count) || compare(end, end_count, prefix, prefix_count) > 0;
}

// ---- fields ----

enum {
    // Fields that are texts, then integers, of the view; then the rest.
    FIELD_TEXT = 0,
    FIELD_INT = 100,
    FIELD_BOOL = 200,
    FIELD_OTHER = 300,
    FIELD_ROLES = FIELD_OTHER,
    FIELD_TIME,
    FIELD_LEASE_KEYS,
    FIELD_PASSWORD,
    FIELD_TOKEN,
    // Fields of an op; those of op 1 when asked of req or rec.
    FIELD_OP = 400,
    OP_KIND = FIELD_OP,
    OP_PATH,
    OP_KEY,
    OP_RANGE_END,
    OP_WRITE,
    OP_VALUE,
    OP_VALUE_SIZE,
    OP_LEASE,
    OP_LIMIT,
    OP_REVISION,
    OP_TARGET,
    OP_RESULT,
    OP_NUMBER,
    OP_FLAG,
};

typedef struct {
    const char *name;
    int code;
} field;

#define TEXT(x) (FIELD_TEXT + MOONRAFT_TEXT_##x)
#define INTEGER(x) (FIELD_INT + MOONRAFT_INT_##x)
#define BOOLEAN(x) (FIELD_BOOL + MOONRAFT_INT_##x)

static const field req_fields[] = {
    {"rpc", TEXT(RPC)}, {"name", TEXT(NAME)}, {"revision", INTEGER(REVISION)}, {"ttl", INTEGER(TTL)},
    {"lease", INTEGER(LEASE)}, {"lease_keys", FIELD_LEASE_KEYS}, {"write", BOOLEAN(WRITE)}, {"kind", OP_KIND},
    {"key", OP_KEY}, {"range_end", OP_RANGE_END}, {"value", OP_VALUE}, {"value_size", OP_VALUE_SIZE}, {NULL, 0},
};
static const field id_fields[] = {
    {"user", TEXT(USER)}, {"roles", FIELD_ROLES}, {"cn", TEXT(CN)}, {"peer", TEXT(PEER)},
    {"source", TEXT(SOURCE)}, {NULL, 0},
};
static const field rec_fields[] = {
    {"id", TEXT(ID)}, {"stage", TEXT(STAGE)}, {"time", FIELD_TIME}, {"rpc", TEXT(RPC)},
    {"name", TEXT(NAME)}, {"revision", INTEGER(REVISION)}, {"ttl", INTEGER(TTL)}, {"lease", INTEGER(LEASE)},
    {"write", BOOLEAN(WRITE)}, {"kind", OP_KIND}, {"key", OP_KEY}, {"range_end", OP_RANGE_END},
    {"value", OP_VALUE}, {"value_size", OP_VALUE_SIZE}, {"user", TEXT(USER)}, {"roles", FIELD_ROLES},
    {"cn", TEXT(CN)}, {"peer", TEXT(PEER)}, {"source", TEXT(SOURCE)}, {"code", INTEGER(CODE)},
    {"message", TEXT(MESSAGE)}, {"allowed", BOOLEAN(ALLOWED)}, {"result_revision", INTEGER(RESULT_REVISION)},
    {"term", INTEGER(TERM)}, {"index", INTEGER(INDEX)}, {"hooks_us", INTEGER(HOOKS)},
    {"queue_us", INTEGER(QUEUE)}, {"raft_us", INTEGER(RAFT)}, {"apply_us", INTEGER(APPLY)},
    {"total_us", INTEGER(TOTAL)}, {NULL, 0},
};
static const field cred_fields[] = {
    {"kind", TEXT(CREDENTIAL)}, {"user", TEXT(CREDENTIAL_USER)}, {"password", FIELD_PASSWORD},
    {"token", FIELD_TOKEN}, {"cn", TEXT(CN)}, {NULL, 0},
};
static const field peer_fields[] = {
    {"address", TEXT(PEER)}, {"tls", BOOLEAN(TLS)}, {"cn", TEXT(CN)}, {NULL, 0},
};
static const field op_fields[] = {
    {"kind", OP_KIND}, {"path", OP_PATH}, {"key", OP_KEY}, {"range_end", OP_RANGE_END},
    {"write", OP_WRITE}, {"value", OP_VALUE}, {"value_size", OP_VALUE_SIZE}, {"lease", OP_LEASE},
    {"limit", OP_LIMIT}, {"revision", OP_REVISION}, {"target", OP_TARGET}, {"result", OP_RESULT},
    {"number", OP_NUMBER}, {"prev_kv", OP_FLAG + MOONRAFT_FLAG_PREV_KV},
    {"ignore_value", OP_FLAG + MOONRAFT_FLAG_IGNORE_VALUE},
    {"ignore_lease", OP_FLAG + MOONRAFT_FLAG_IGNORE_LEASE},
    {"keys_only", OP_FLAG + MOONRAFT_FLAG_KEYS_ONLY}, {"count_only", OP_FLAG + MOONRAFT_FLAG_COUNT_ONLY},
    {"serializable", OP_FLAG + MOONRAFT_FLAG_SERIALIZABLE}, {NULL, 0},
};

// The view a face stands for, or an error when its call is over.
static moonraft_view *live_view(lua_State *L, const handle *h) {
    moonraft_vm *vm = vm_of(L);
    if (!vm->view || !((vm->live >> h->kind) & 1))
        luaL_error(L, "%s is valid during the call it was given to only", handle_kind_name(h->kind));
    return vm->view;
}

static const uint8_t *at(const moonraft_view *view, slice s) { return view->arena.bytes + s.start; }

static int push_slice(lua_State *L, const moonraft_view *view, slice s) {
    if (s.count == 0)
        lua_pushnil(L);
    else
        lua_pushlstring(L, (const char *)at(view, s), s.count);
    return 1;
}

static int push_op_field(lua_State *L, moonraft_view *view, int index, int code) {
    static const char *const kinds[] = {"put", "range", "delete_range", "compare", "watch"};
    static const char *const targets[] = {"version", "create", "mod", "value", "lease"};
    static const char *const results[] = {"=", ">", "<", "!="};
    if (index >= view->op_count) {
        lua_pushnil(L);
        return 1;
    }
    const view_op *op = &view->ops[index];
    switch (code) {
    case OP_KIND: lua_pushstring(L, op->op.kind < 5 ? kinds[op->op.kind] : "?"); return 1;
    case OP_PATH: lua_pushlstring(L, (const char *)at(view, op->path), op->path.count); return 1;
    case OP_KEY: lua_pushlstring(L, (const char *)at(view, op->key), op->key.count); return 1;
    case OP_RANGE_END: return push_slice(L, view, op->range_end);
    case OP_WRITE:
        lua_pushboolean(L, op->op.kind == MOONRAFT_OP_PUT || op->op.kind == MOONRAFT_OP_DELETE_RANGE);
        return 1;
    case OP_VALUE: {
        if (!(op->op.flags & MOONRAFT_FLAG_HAS_VALUE)) break;
        moonraft_vm *vm = vm_of(L);
        vm_charge(L, op->op.value_size / 64);
        vm->results.count = 0;
        vm->host.value(vm->host.context, index);
        return wire_decode(L, vm->results.bytes, vm->results.count) == 1
            ? 1 : luaL_error(L, "malformed value from the host");
    }
    case OP_VALUE_SIZE:
        if (!(op->op.flags & MOONRAFT_FLAG_HAS_VALUE)) break;
        lua_pushinteger(L, (lua_Integer)op->op.value_size);
        return 1;
    case OP_LEASE:
        if (op->op.kind != MOONRAFT_OP_PUT) break;
        lua_pushinteger(L, op->op.lease);
        return 1;
    case OP_LIMIT:
        if (op->op.kind != MOONRAFT_OP_RANGE) break;
        lua_pushinteger(L, op->op.limit);
        return 1;
    case OP_REVISION:
        if (op->op.kind != MOONRAFT_OP_RANGE && op->op.kind != MOONRAFT_OP_WATCH) break;
        lua_pushinteger(L, op->op.revision);
        return 1;
    case OP_TARGET:
        if (op->op.kind != MOONRAFT_OP_COMPARE) break;
        lua_pushstring(L, op->op.target < 5 ? targets[op->op.target] : "?");
        return 1;
    case OP_RESULT:
        if (op->op.kind != MOONRAFT_OP_COMPARE) break;
        lua_pushstring(L, op->op.result < 4 ? results[op->op.result] : "?");
        return 1;
    case OP_NUMBER:
        if (op->op.kind != MOONRAFT_OP_COMPARE) break;
        lua_pushinteger(L, op->op.number);
        return 1;
    default: lua_pushboolean(L, op->op.flags & (code - OP_FLAG)); return 1;
    }
    lua_pushnil(L);
    return 1;
}

// Upvalues: table field name -> code (light userdata, which is cheaper to read than an integer) or method (function).
static int face_index(lua_State *L) {
    handle *h = lua_touserdata(L, 1);
    if (!h || lua_type(L, 2) != LUA_TSTRING) return luaL_error(L, "field names are strings");
    lua_pushvalue(L, 2);
    int type = lua_rawget(L, lua_upvalueindex(1));
    if (type == LUA_TFUNCTION) return 1;
    if (type != LUA_TLIGHTUSERDATA)
        return luaL_error(L, "%s has no field '%s'", handle_kind_name(h->kind), lua_tostring(L, 2));
    int code = (int)(uintptr_t)lua_touserdata(L, -1);
    moonraft_view *view = live_view(L, h);
    if (code >= FIELD_OP) return push_op_field(L, view, h->kind == MOONRAFT_HANDLE_OP ? h->number : 0, code);
    if (code < FIELD_INT) return push_slice(L, view, view->texts[code]);
    if (code < FIELD_BOOL) {
        // The lease of req is that of its first op when it is a put.
        if (code == INTEGER(LEASE) && view->op_count && view->ops[0].op.kind == MOONRAFT_OP_PUT)
            return push_op_field(L, view, 0, OP_LEASE);
        lua_pushinteger(L, view->integers[code - FIELD_INT]);
        return 1;
    }
    if (code < FIELD_OTHER) {
        lua_pushboolean(L, view->integers[code - FIELD_BOOL] != 0);
        return 1;
    }
    switch (code) {
    case FIELD_ROLES:
        lua_createtable(L, view->role_count, 0);
        for (int i = 0; i < view->role_count; i++) {
            lua_pushlstring(L, (const char *)at(view, view->roles[i]), view->roles[i].count);
            lua_rawseti(L, -2, i + 1);
        }
        if (view->role_count == 0) {
            lua_rawgetp(L, LUA_REGISTRYINDEX, &key_array);
            lua_setmetatable(L, -2);
        }
        return 1;
    case FIELD_TIME:
        lua_pushnumber(L, (double)view->integers[MOONRAFT_INT_TIME_MICROSECONDS] / 1e6);
        return 1;
    case FIELD_LEASE_KEYS:
        if (view->integers[MOONRAFT_INT_LEASE_KEYS] == 0)
            lua_pushnil(L);
        else
            lua_pushinteger(L, view->integers[MOONRAFT_INT_LEASE_KEYS] - 1);
        return 1;
    case FIELD_PASSWORD:
    case FIELD_TOKEN: {
        int64_t number = view->integers[code == FIELD_TOKEN ? MOONRAFT_INT_TOKEN : MOONRAFT_INT_PASSWORD];
        if (number == 0)
            lua_pushnil(L);
        else
            wire_push_handle(L, MOONRAFT_HANDLE_SECRET, (int32_t)number);
        return 1;
    }
    default: lua_pushnil(L); return 1;
    }
}

// ---- methods ----

static handle *check_face(lua_State *L, int32_t kind1, int32_t kind2) {
    handle *h = wire_to_handle(L, 1);
    if (!h || (h->kind != kind1 && h->kind != kind2))
        luaL_error(L, "call this method with a colon, as %s:method()", handle_kind_name(kind1));
    return h;
}

static int face_length(lua_State *L) {
    lua_pushinteger(L, live_view(L, check_face(L, MOONRAFT_HANDLE_REQ, MOONRAFT_HANDLE_REC))->op_count);
    return 1;
}

static void push_op(lua_State *L, int index) {
    // One userdata for each index, kept: an op of a later request is the same object.
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_ops);
    if (lua_rawgeti(L, -1, index + 1) == LUA_TUSERDATA) {
        lua_remove(L, -2);
        return;
    }
    lua_pop(L, 1);
    wire_push_handle(L, MOONRAFT_HANDLE_OP, index);
    if (index < 1024) {
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, index + 1);
    }
    lua_remove(L, -2);
}

static int face_op(lua_State *L) {
    moonraft_view *view = live_view(L, check_face(L, MOONRAFT_HANDLE_REQ, MOONRAFT_HANDLE_REC));
    lua_Integer i = luaL_checkinteger(L, 2);
    if (i < 1 || i > view->op_count) {
        lua_pushnil(L);
        return 1;
    }
    push_op(L, (int)i - 1);
    return 1;
}

static int next_op(lua_State *L) {
    moonraft_view *view = live_view(L, check_face(L, MOONRAFT_HANDLE_REQ, MOONRAFT_HANDLE_REC));
    lua_Integer i = luaL_checkinteger(L, 2);
    if (i < 0 || i >= view->op_count) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushinteger(L, i + 1);
    push_op(L, (int)i);
    return 2;
}

static int face_ops(lua_State *L) {
    live_view(L, check_face(L, MOONRAFT_HANDLE_REQ, MOONRAFT_HANDLE_REC));
    lua_pushcfunction(L, next_op);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, 0);
    return 3;
}

static int face_has_role(lua_State *L) {
    moonraft_view *view = live_view(L, check_face(L, MOONRAFT_HANDLE_ID, MOONRAFT_HANDLE_REC));
    size_t count;
    const char *name = luaL_checklstring(L, 2, &count);
    int found = 0;
    for (int i = 0; i < view->role_count && !found; i++)
        found = view->roles[i].count == count && memcmp(at(view, view->roles[i]), name, count) == 0;
    lua_pushboolean(L, found);
    return 1;
}

// Whether a text stands in the array at `index`.
static int contains(lua_State *L, int index, const uint8_t *text, size_t count) {
    lua_Unsigned length = lua_rawlen(L, index);
    vm_charge(L, length / 4);
    int found = 0;
    for (lua_Unsigned i = 1; i <= length && !found; i++) {
        lua_rawgeti(L, index, (lua_Integer)i);
        size_t size;
        const char *item = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &size) : NULL;
        found = item && size == count && memcmp(item, text, count) == 0;
        lua_pop(L, 1);
    }
    return found;
}

// matches(users, roles): see docs/plugin-api.md 5.3.
static int face_matches(lua_State *L) {
    moonraft_view *view = live_view(L, check_face(L, MOONRAFT_HANDLE_ID, MOONRAFT_HANDLE_REC));
    lua_settop(L, 3);
    int has_users = lua_istable(L, 2), has_roles = lua_istable(L, 3);
    if (!has_users && !lua_isnil(L, 2)) return luaL_error(L, "users must be an array or nil");
    if (!has_roles && !lua_isnil(L, 3)) return luaL_error(L, "roles must be an array or nil");
    int found = !has_users && !has_roles;
    slice user = view->texts[MOONRAFT_TEXT_USER];
    if (has_users) {
        found = contains(L, 2, at(view, user), user.count);
        if (!found && user.count) found = contains(L, 2, (const uint8_t *)"*", 1);
    }
    for (int i = 0; has_roles && i < view->role_count && !found; i++)
        found = contains(L, 3, at(view, view->roles[i]), view->roles[i].count);
    lua_pushboolean(L, found);
    return 1;
}

static const view_op *checked_op(lua_State *L, moonraft_view **view) {
    handle *h = check_face(L, MOONRAFT_HANDLE_OP, MOONRAFT_HANDLE_OP);
    *view = live_view(L, h);
    if (h->number < 0 || h->number >= (*view)->op_count) luaL_error(L, "this request has no op %d", (int)h->number + 1);
    return &(*view)->ops[h->number];
}

static int op_within(lua_State *L) {
    moonraft_view *view;
    const view_op *op = checked_op(L, &view);
    size_t count;
    const char *prefix = luaL_checklstring(L, 2, &count);
    lua_pushboolean(
        L, range_within(
               at(view, op->key), op->key.count, at(view, op->range_end), op->range_end.count,
               (const uint8_t *)prefix, count));
    return 1;
}

static int op_touches(lua_State *L) {
    moonraft_view *view;
    const view_op *op = checked_op(L, &view);
    size_t count;
    const char *prefix = luaL_checklstring(L, 2, &count);
    lua_pushboolean(
        L, range_touches(
               at(view, op->key), op->key.count, at(view, op->range_end), op->range_end.count,
               (const uint8_t *)prefix, count));
    return 1;
}

static int handle_tostring(lua_State *L) {
    handle *h = wire_to_handle(L, 1);
    lua_pushfstring(L, "<%s>", h ? handle_kind_name(h->kind) : "?");
    return 1;
}

// ---- metatables ----

static void set_method(lua_State *L, const char *name, lua_CFunction function) {
    lua_pushcfunction(L, function);
    lua_setfield(L, -2, name);
}

static const field *fields_of(int32_t kind) {
    switch (kind) {
    case MOONRAFT_HANDLE_REQ: return req_fields;
    case MOONRAFT_HANDLE_ID: return id_fields;
    case MOONRAFT_HANDLE_REC: return rec_fields;
    case MOONRAFT_HANDLE_CRED: return cred_fields;
    case MOONRAFT_HANDLE_PEER: return peer_fields;
    case MOONRAFT_HANDLE_OP: return op_fields;
    default: return NULL;
    }
}

void faces_open(lua_State *L) {
    int handles = lua_gettop(L);
    for (int32_t kind = 1; kind < MOONRAFT_HANDLES; kind++) {
        lua_newtable(L);
        int meta = lua_gettop(L);
        lua_newtable(L);
        const field *fields = fields_of(kind);
        for (const field *f = fields; f && f->name; f++) {
            lua_pushlightuserdata(L, (void *)(uintptr_t)f->code);
            lua_setfield(L, -2, f->name);
        }
        switch (kind) {
        case MOONRAFT_HANDLE_REC:
            set_method(L, "has_role", face_has_role);
            set_method(L, "matches", face_matches);
            // fall through
        case MOONRAFT_HANDLE_REQ:
            set_method(L, "op", face_op);
            set_method(L, "ops", face_ops);
            break;
        case MOONRAFT_HANDLE_ID:
            set_method(L, "has_role", face_has_role);
            set_method(L, "matches", face_matches);
            break;
        case MOONRAFT_HANDLE_OP:
            set_method(L, "within", op_within);
            set_method(L, "touches", op_touches);
            break;
        default: break;
        }
        lua_pushvalue(L, -1);
        lua_setfield(L, meta, "methods");
        if (fields) lua_pushcclosure(L, face_index, 1);
        lua_setfield(L, meta, "__index");
        if (kind == MOONRAFT_HANDLE_REQ || kind == MOONRAFT_HANDLE_REC) set_method(L, "__len", face_length);
        set_method(L, "__tostring", handle_tostring);
        lua_pushstring(L, handle_kind_name(kind));
        lua_setfield(L, meta, "__name");
        lua_pushboolean(L, 0);
        lua_setfield(L, meta, "__metatable");
        lua_rawseti(L, handles, kind);
    }
}
