// The VM: memory cap, budget, loading, and the protected calls through which everything runs.
//
// A budget cannot be an ordinary Lua error, because pcall would catch it and a script could go on for ever.
// So exhaustion sets `violation` and arms the count hook for every instruction; the hook raises each time it
// runs, our own pcall raises again when it sees the flag, and the functions that could hide from the hook (xpcall,
// coroutines, finalizers, __close) do not exist. Work inside C functions, which the hook cannot see, is
// charged by those functions.
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

const char key_env = 0, key_handles = 0, key_loaded = 0, key_array = 0, key_tests = 0, key_ops = 0,
           key_faces = 0, key_log = 0;

// ---- buffers ----

int buffer_reserve(buffer *b, size_t more) {
    if (more <= b->capacity - b->count) return 1;
    size_t wanted = b->capacity ? b->capacity * 2 : 256;
    while (wanted - b->count < more) wanted *= 2;
    uint8_t *bytes = realloc(b->bytes, wanted);
    if (!bytes) return 0;
    b->bytes = bytes;
    b->capacity = wanted;
    return 1;
}

int buffer_append(buffer *b, const void *bytes, size_t count) {
    if (!buffer_reserve(b, count)) return 0;
    if (count) memcpy(b->bytes + b->count, bytes, count);
    b->count += count;
    return 1;
}

void buffer_free(buffer *b) {
    free(b->bytes);
    b->bytes = NULL;
    b->count = b->capacity = 0;
}

// ---- clocks ----

uint64_t moonraft_monotonic_nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double moonraft_realtime_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

// ---- budget ----

static void budget_hook(lua_State *L, lua_Debug *unused);

static void arm(moonraft_vm *vm, int period) {
    vm->armed = period;
    lua_sethook(vm->L, budget_hook, LUA_MASKCOUNT, period);
}

void vm_violate(moonraft_vm *vm, int kind) {
    if (vm->violation) return;
    vm->violation = kind;
    if (vm->L) arm(vm, 1);
}

int vm_raise_violation(lua_State *L) {
    // No allocation here: the reason may be that there is no memory.
    lua_pushlightuserdata(L, (void *)&key_env);
    return lua_error(L);
}

static uint64_t thread_nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Whether the time budget is spent. On a busy machine a thread can stand still for longer than the budget; that is
// not the script's doing, so past the deadline the thread's own time decides, up to eight times the budget.
// The thread's clock is a system call: it is first read when a call takes a millisecond, and what passed until
// then counts as used.
static int late(moonraft_vm *vm) {
    uint64_t now = moonraft_monotonic_nanoseconds();
    if (vm->thread_start == 0 && now - vm->start > 1000000) {
        vm->thread_start = thread_nanoseconds();
        uint64_t quarter = (vm->deadline - vm->start) / 4;
        vm->thread_used = now - vm->start < quarter ? now - vm->start : quarter;
    }
    if (now <= vm->deadline) return 0;
    uint64_t budget = vm->deadline - vm->start;
    if (now - vm->start > 8 * budget) return 1;
    return thread_nanoseconds() - vm->thread_start + vm->thread_used >= budget;
}

static int spent(moonraft_vm *vm) {
    if (vm->violation) return 1;
    if (vm->used > vm->limit) {
        vm_violate(vm, MOONRAFT_INSTRUCTIONS);
    } else if (late(vm)) {
        vm_violate(vm, MOONRAFT_TIME);
    }
    return vm->violation != 0;
}

static void budget_hook(lua_State *L, lua_Debug *unused) {
    (void)unused;
    moonraft_vm *vm = vm_of(L);
    vm->used += (uint64_t)vm->armed;
    vm->since_clock += (uint64_t)vm->armed;
    if (vm->armed == 1 && !vm->violation && vm->big_class < 4 && vm->since_clock < 50) {
        if (vm->used <= vm->limit) return;
    }
    vm->since_clock = 0;
    if (spent(vm)) vm_raise_violation(L);
}

int vm_charge_quietly(moonraft_vm *vm, uint64_t units) {
    vm->used += units;
    vm->since_clock += units;
    if (vm->used <= vm->limit && vm->since_clock < 1000) return vm->violation != 0;
    vm->since_clock = 0;
    return spent(vm);
}

void vm_charge(lua_State *L, uint64_t units) {
    if (vm_charge_quietly(vm_of(L), units)) vm_raise_violation(L);
}

// ---- memory ----

// One instruction on a long string (a comparison, a concatenation, a conversion) is work that no hook
// interrupts. While such strings exist the hook comes more often; see period_for.
static int class_of(size_t size) {
    int class = 0;
    size >>= BIG_SHIFT + 1;
    while (size) {
        class++;
        size >>= 1;
    }
    return class < BIG_CLASSES ? class : BIG_CLASSES - 1;
}

static int period_for(const moonraft_vm *vm) {
    if (vm->big_class < 0) return vm->period;
    int period = vm->period >> vm->big_class;
    return period > 1 ? period : 1;
}

static void big_recount(moonraft_vm *vm) {
    vm->big_class = vm->big_sticky;
    for (int i = 0; i < vm->big_count; i++)
        if (vm->big[i].class > vm->big_class) vm->big_class = vm->big[i].class;
}

static void big_made(moonraft_vm *vm, void *block, size_t size) {
    int class = class_of(size);
    if (vm->big_count < MAX_BIG) {
        vm->big[vm->big_count++] = (big_block){block, (uint8_t)class};
    } else if (class > vm->big_sticky) {
        vm->big_sticky = class;
    }
    if (class > vm->big_class) {
        vm->big_class = class;
        // Only ever shortened within a call: a restart of the count must not be something to play with.
        if (vm->L && period_for(vm) < vm->armed) arm(vm, period_for(vm));
    }
}

static void big_gone(moonraft_vm *vm, void *block) {
    for (int i = 0; i < vm->big_count; i++) {
        if (vm->big[i].block != block) continue;
        vm->big[i] = vm->big[--vm->big_count];
        big_recount(vm);
        return;
    }
}

static void *allocate(void *context, void *block, size_t old, size_t size) {
    moonraft_vm *vm = context;
    size_t before = block ? old : 0;
    if (size == 0) {
        if (block && old >= (size_t)1 << BIG_SHIFT) big_gone(vm, block);
        free(block);
        vm->bytes -= before;
        return NULL;
    }
    if (size > before && (size > vm->block_cap || vm->bytes - before + size > vm->cap)) {
        // Lua collects everything and asks once more; that walk of the heap is work without a hook.
        if (++vm->refusals > MAX_REFUSALS) vm_violate(vm, MOONRAFT_MEMORY);
        return NULL;
    }
    void *fresh = realloc(block, size);
    if (!fresh) return size <= before ? block : NULL;
    vm->bytes = vm->bytes - before + size;
    // For a new block `old` is the kind of object.
    if (!block && size >= (size_t)1 << BIG_SHIFT && old == LUA_TSTRING) big_made(vm, fresh, size);
    return fresh;
}

// ---- sources ----

typedef struct {
    char *module;
    char *chunk;
    uint8_t *bytes;
    size_t count;
} source;

struct moonraft_sources {
    source *items;
    int count;
};

moonraft_sources *moonraft_sources_create(void) { return calloc(1, sizeof(moonraft_sources)); }

void moonraft_sources_add(
    moonraft_sources *sources, const char *module, const char *chunk, const uint8_t *bytes,
    size_t count) {
    source *items = realloc(sources->items, sizeof(source) * (size_t)(sources->count + 1));
    if (!items) abort();
    sources->items = items;
    source *s = &items[sources->count++];
    s->module = strdup(module);
    s->chunk = strdup(chunk);
    s->bytes = malloc(count ? count : 1);
    s->count = count;
    if (!s->module || !s->chunk || !s->bytes) abort();
    if (count) memcpy(s->bytes, bytes, count);
}

void moonraft_sources_destroy(moonraft_sources *sources) {
    if (!sources) return;
    for (int i = 0; i < sources->count; i++) {
        free(sources->items[i].module);
        free(sources->items[i].chunk);
        free(sources->items[i].bytes);
    }
    free(sources->items);
    free(sources);
}

// ---- compiling ----

static void load_text(lua_State *L, const char *chunk, const uint8_t *bytes, size_t count) {
    if (count > 0 && bytes[0] == 0x1B)
        luaL_error(L, "%s: precompiled Lua is refused", *chunk ? chunk + 1 : chunk);
    vm_charge(L, count / 16);
    if (luaL_loadbufferx(L, (const char *)bytes, count, chunk, "t") != LUA_OK) lua_error(L);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_env);
    lua_setupvalue(L, -2, 1);
}

// require("package.module"): only names in the VM's own source list exist, so no path is ever formed.
int vm_require(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    const char *name = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    if (vm->phase > MOONRAFT_PHASE_INIT && vm->phase != MOONRAFT_PHASE_TEST)
        return luaL_error(L, "require is legal at file scope and in init only");
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_loaded);
    lua_pushvalue(L, 1);
    lua_rawget(L, -2);
    if (lua_islightuserdata(L, -1)) return luaL_error(L, "module '%s' requires itself", name);
    if (!lua_isnil(L, -1)) return 1;
    lua_pop(L, 1);
    const source *found = NULL;
    for (int i = 0; vm->sources && i < vm->sources->count; i++)
        if (strcmp(vm->sources->items[i].module, name) == 0) found = &vm->sources->items[i];
    if (!found) return luaL_error(L, "module '%s' is not part of this plugin", name);
    lua_pushvalue(L, 1);
    lua_pushlightuserdata(L, (void *)&key_loaded);
    lua_rawset(L, -3);
    load_text(L, found->chunk, found->bytes, found->count);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, 1);
    lua_pushvalue(L, -2);
    lua_rawset(L, 2);
    return 1;
}

// pcall that lets the error of a spent budget through, and takes a memory error as final: a retry loop
// around a failing allocation would otherwise go on until the clock stops it.
int vm_pcall(lua_State *L) {
    luaL_checkany(L, 1);
    lua_pushboolean(L, 1);
    lua_insert(L, 1);
    int status = lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, 0);
    moonraft_vm *vm = vm_of(L);
    if (status == LUA_ERRMEM) vm_violate(vm, MOONRAFT_MEMORY);
    if (vm->violation) return vm_raise_violation(L);
    if (status != LUA_OK) {
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    return lua_gettop(L);
}

// ---- setting up ----

static int frozen_write(lua_State *L) {
    if (lua_type(L, 2) == LUA_TSTRING)
        return luaL_error(L, "cannot assign '%s': globals and libraries are read-only, declare it local", lua_tostring(L, 2));
    return luaL_error(L, "globals and libraries are read-only");
}

// Replaces the table on top by an empty one that reads through to it and cannot be written.
static void freeze(lua_State *L) {
    lua_createtable(L, 0, 0);
    lua_createtable(L, 0, 3);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, frozen_write);
    lua_setfield(L, -2, "__newindex");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_remove(L, -2);
}

static void push_function(lua_State *L, const moonraft_function *f) {
    if (f->id < 0) {
        lua_CFunction native = native_find(f->module, f->name);
        if (!native) luaL_error(L, "no native function %s.%s", f->module, f->name);
        lua_pushcfunction(L, native);
        return;
    }
    // One light userdata instead of two integers: every call of the function reads it.
    lua_pushlightuserdata(L, (void *)((uintptr_t)f->phases << 8 | (uintptr_t)f->id));
    if (f->module[0] == ':')
        lua_pushfstring(L, "%s:%s", f->module + 1, f->name);
    else if (f->module[0])
        lua_pushfstring(L, "%s.%s", f->module, f->name);
    else
        lua_pushstring(L, f->name);
    lua_pushcclosure(L, wire_host_call, 2);
}

// Table `module` of the table at `parent`, made when absent; left on the stack.
static void push_module(lua_State *L, int parent, const char *module) {
    lua_getfield(L, parent, module);
    if (lua_istable(L, -1)) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, parent, module);
}

static int32_t handle_kind_named(const char *name) {
    for (int32_t kind = 1; kind < MOONRAFT_HANDLES; kind++)
        if (strcmp(handle_kind_name(kind), name) == 0) return kind;
    return 0;
}

static int call_hook(lua_State *L);

static int set_up(lua_State *L) {
    const moonraft_vm_options *options = lua_touserdata(L, 1);
    lua_settop(L, 0);

    // Libraries, reduced, in a table of globals (index 1).
    base_open(L);
    string_open(L);
    lua_setfield(L, 1, "string");
    table_open(L);
    lua_setfield(L, 1, "table");

    // math, seeded.
    luaopen_math(L);
    lua_getfield(L, -1, "randomseed");
    lua_pushinteger(L, (lua_Integer)options->seed);
    lua_call(L, 1, 0);
    lua_setfield(L, 1, "math");

    // Handles: one metatable a kind, methods in __index (index 2).
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_handles);
    faces_open(L);

    // Host functions.
    for (int32_t i = 0; i < options->function_count; i++) {
        const moonraft_function *f = &options->functions[i];
        if (f->module[0] == ':') {
            int32_t kind = handle_kind_named(f->module + 1);
            if (!kind) return luaL_error(L, "no handle kind %s", f->module);
            lua_rawgeti(L, 2, kind);
            lua_getfield(L, -1, "methods");
            push_function(L, f);
            lua_setfield(L, -2, f->name);
            lua_pop(L, 2);
        } else if (f->module[0]) {
            push_module(L, 1, f->module);
            push_function(L, f);
            lua_setfield(L, -2, f->name);
            lua_pop(L, 1);
        } else {
            push_function(L, f);
            lua_setfield(L, 1, f->name);
        }
    }
    lua_getfield(L, 1, "log");
    if (lua_istable(L, -1)) {
        lua_getfield(L, -1, "info");
        lua_rawsetp(L, LUA_REGISTRYINDEX, &key_log);
    }
    lua_settop(L, 2);
    lua_getfield(L, 1, "json");
    if (lua_istable(L, -1)) {
        lua_pushlightuserdata(L, NULL);
        lua_setfield(L, -2, "null");
    }
    lua_settop(L, 2);
    // Mark of JSON arrays.
    lua_newtable(L);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_array);

    // The string metatable: methods, locked.
    lua_pushliteral(L, "");
    lua_newtable(L);
    lua_getfield(L, 1, "string");
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_pop(L, 1);

    // Freeze the libraries, then the globals.
    lua_newtable(L);
    int names = lua_gettop(L);
    int count = 0;
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        if (lua_istable(L, -1)) {
            lua_pushvalue(L, -2);
            lua_rawseti(L, names, ++count);
        }
        lua_pop(L, 1);
    }
    for (int i = 1; i <= count; i++) {
        lua_rawgeti(L, names, i);
        lua_pushvalue(L, -1);
        lua_rawget(L, 1);
        freeze(L);
        lua_rawset(L, 1);
    }
    lua_settop(L, 1);
    lua_pushvalue(L, 1);
    freeze(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, 1, "_G");
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_env);
    // Nothing reaches the state's own table of globals, but leave nothing in it either.
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_loaded);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_tests);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key_ops);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);

    // The trampoline of hook calls: hooks and faces are its upvalues, so a call looks nothing up.
    lua_settop(L, 0);
    for (int i = 0; i < MOONRAFT_PHASES; i++) lua_pushnil(L);
    for (int32_t kind = MOONRAFT_HANDLE_REQ; kind <= MOONRAFT_HANDLE_PEER; kind++) wire_push_handle(L, kind, 0);
    lua_pushcclosure(L, call_hook, lua_gettop(L));
    return 1;
}

static int panic(lua_State *L) {
    (void)L;
    // Unreachable: every entry is protected.
    abort();
}

moonraft_vm *moonraft_vm_create(const moonraft_vm_options *options) {
    moonraft_vm *vm = calloc(1, sizeof *vm);
    if (!vm) return NULL;
    vm->cap = options->memory_bytes;
    vm->block_cap = options->memory_bytes / 4;
    vm->period = options->hook_period > 0 ? options->hook_period : 100;
    vm->big_class = vm->big_sticky = -1;
    vm->host = options->host;
    vm->sources = options->sources;
    vm->limit = UINT64_MAX;
    vm->start = moonraft_monotonic_nanoseconds();
    vm->deadline = vm->start + (UINT64_C(1) << 60);
    lua_State *L = lua_newstate(allocate, vm);
    if (!L) {
        free(vm);
        return NULL;
    }
    lua_atpanic(L, panic);
    *(moonraft_vm **)lua_getextraspace(L) = vm;
    vm->L = L;
    lua_pushcfunction(L, set_up);
    lua_pushlightuserdata(L, (void *)options);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
        moonraft_vm_destroy(vm);
        return NULL;
    }
    // Slot 1 stays the trampoline for the life of the VM.
    arm(vm, vm->period);
    return vm;
}

void moonraft_vm_destroy(moonraft_vm *vm) {
    if (!vm) return;
    if (vm->L) {
        // Scripts cannot register finalizers, so closing runs no script code.
        lua_sethook(vm->L, NULL, 0, 0);
        lua_close(vm->L);
    }
    for (int i = 0; i < vm->test_count; i++) free(vm->test_names[i]);
    buffer_free(&vm->results);
    buffer_free(&vm->encoded);
    buffer_free(&vm->scratch);
    free(vm);
}

// ---- calls ----

typedef struct {
    const char *chunk;
    const uint8_t *bytes;
    size_t count;
    int driver;
    int32_t face1, face2;
    int index;
} request;

static void begin(moonraft_vm *vm, int phase, moonraft_budget budget) {
    vm->phase = phase;
    vm->violation = 0;
    vm->used = 0;
    vm->since_clock = 0;
    vm->pending = 0;
    vm->refusals = 0;
    vm->depth = 0;
    vm->limit = budget.instructions;
    vm->start = moonraft_monotonic_nanoseconds();
    vm->deadline = vm->start + budget.nanoseconds;
    vm->thread_start = vm->thread_used = 0;
    vm->text_count = vm->code_count = 0;
    memset(&vm->outcome, 0, sizeof vm->outcome);
    if (period_for(vm) != vm->armed) arm(vm, period_for(vm));
}

static void copy_error(moonraft_vm *vm) {
    lua_State *L = vm->L;
    const char *text = NULL;
    size_t count = 0;
    char kind[64];
    // Never luaL_tolstring here: an error object may have a __tostring that loops.
    if (lua_type(L, -1) == LUA_TSTRING) {
        text = lua_tolstring(L, -1, &count);
    } else {
        strcpy(kind, "the error value is a ");
        strncat(kind, lua_typename(L, lua_type(L, -1)), 24);
        text = kind;
        count = strlen(kind);
    }
    if (count > MAX_TEXT) count = MAX_TEXT;
    memcpy(vm->text, text, count);
    vm->text_count = count;
}

static int32_t finish(moonraft_vm *vm, int status, int base) {
    int32_t result = MOONRAFT_OK;
    if (vm->violation) {
        static const char *const reasons[] = {
            "", "", "the instruction budget is spent", "the time budget is spent",
            "the memory budget is spent", "",
        };
        result = vm->violation;
        vm->text_count = strlen(reasons[vm->violation]);
        memcpy(vm->text, reasons[vm->violation], vm->text_count);
    } else if (status == LUA_ERRMEM) {
        result = MOONRAFT_MEMORY;
        vm->text_count = strlen("the memory budget is spent");
        memcpy(vm->text, "the memory budget is spent", vm->text_count);
    } else if (status != LUA_OK) {
        result = MOONRAFT_LUA_ERROR;
        copy_error(vm);
    } else if (vm->outcome.verdict < 0) {
        result = MOONRAFT_BAD_RESULT;
    }
    lua_settop(vm->L, base);
    vm->view = NULL;
    vm->live = 0;
    vm->outcome.text = (const uint8_t *)vm->text;
    vm->outcome.text_count = vm->text_count;
    vm->outcome.code = (const uint8_t *)vm->code;
    vm->outcome.code_count = vm->code_count;
    vm->outcome.data = vm->encoded.bytes;
    vm->outcome.data_count = vm->outcome.verdict == 2 ? vm->encoded.count : 0;
    vm->outcome.instructions = vm->used;
    vm->outcome.nanoseconds = moonraft_monotonic_nanoseconds() - vm->start;
    return result;
}

static int32_t protected_call(moonraft_vm *vm, lua_CFunction function, request *r, int results) {
    int base = lua_gettop(vm->L);
    lua_pushcfunction(vm->L, function);
    lua_pushlightuserdata(vm->L, r);
    int status = lua_pcall(vm->L, 1, results, 0);
    return finish(vm, status, base);
}

static const char *const phase_names[MOONRAFT_PHASES] = {
    "load", "init", "shutdown", "authn", "authz", "admit_mutate", "admit_validate",
    "audit", "on_event", "metrics_collect", "health", "test",
};

static int load_entry(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    request *r = lua_touserdata(L, 1);
    load_text(L, r->chunk, r->bytes, r->count);
    lua_call(L, 0, 1);
    if (r->driver) return 0;
    if (!lua_istable(L, -1))
        return luaL_error(L, "the entry file must return a table of hooks, not a %s", luaL_typename(L, -1));
    int table = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, table)) {
        if (lua_isfunction(L, -1)) {
            if (lua_type(L, -2) != LUA_TSTRING) return luaL_error(L, "a hook's name must be a string");
            if (vm->hook_name_count == MAX_HOOK_NAMES) return luaL_error(L, "too many hooks");
            const char *name = lua_tostring(L, -2);
            if (strlen(name) > 31) return luaL_error(L, "'%s' is not a hook", name);
            strcpy(vm->hook_names[vm->hook_name_count++], name);
            for (int phase = MOONRAFT_PHASE_INIT; phase <= MOONRAFT_PHASE_HEALTH; phase++) {
                if (strcmp(name, phase_names[phase]) == 0) vm->present |= 1u << phase;
            }
        }
        lua_settop(L, table + 1);
    }
    lua_settop(L, table);
    return 1;
}

// Puts the hook functions of the entry table (argument 2) into the trampoline (argument 1).
static int install(lua_State *L) {
    for (int phase = MOONRAFT_PHASE_INIT; phase <= MOONRAFT_PHASE_HEALTH; phase++) {
        lua_pushstring(L, phase_names[phase]);
        lua_rawget(L, 2);
        if (lua_isfunction(L, -1))
            lua_setupvalue(L, 1, UPVALUE_HOOK + phase);
        else
            lua_pop(L, 1);
    }
    return 0;
}

int32_t moonraft_vm_load(
    moonraft_vm *vm, const char *chunk, const uint8_t *bytes, size_t count, int32_t driver,
    moonraft_budget budget) {
    request r = {.chunk = chunk, .bytes = bytes, .count = count, .driver = driver};
    begin(vm, driver ? MOONRAFT_PHASE_TEST : MOONRAFT_PHASE_LOAD, budget);
    lua_State *L = vm->L;
    int base = lua_gettop(L);
    lua_pushcfunction(L, load_entry);
    lua_pushlightuserdata(L, &r);
    int status = lua_pcall(L, 1, driver ? 0 : 1, 0);
    if (status == LUA_OK && !driver && !vm->violation) {
        lua_pushcfunction(L, install);
        lua_pushvalue(L, 1);
        lua_pushvalue(L, -3);
        status = lua_pcall(L, 2, 0, 0);
    }
    return finish(vm, status, base);
}

static int check_entry(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    load_text(L, r->chunk, r->bytes, r->count);
    return 0;
}

int32_t moonraft_vm_check(moonraft_vm *vm, const char *chunk, const uint8_t *bytes, size_t count) {
    request r = {.chunk = chunk, .bytes = bytes, .count = count};
    begin(vm, MOONRAFT_PHASE_LOAD, (moonraft_budget){UINT64_MAX / 2, 10000000000u});
    return protected_call(vm, check_entry, &r, 0);
}

static int set_global(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_env);
    lua_getmetatable(L, -1);
    lua_getfield(L, -1, "__index");
    wire_decode(L, r->bytes, r->count);
    if (lua_istable(L, -1)) freeze(L);
    lua_setfield(L, -2, r->chunk);
    return 0;
}

int32_t moonraft_vm_set_global(
    moonraft_vm *vm, const char *name, const uint8_t *bytes, size_t count) {
    request r = {.chunk = name, .bytes = bytes, .count = count};
    begin(vm, MOONRAFT_PHASE_LOAD, (moonraft_budget){UINT64_MAX / 2, 10000000000u});
    return protected_call(vm, set_global, &r, 0);
}

int32_t moonraft_vm_has_hook(const moonraft_vm *vm, int32_t phase) {
    return phase >= 0 && phase < MOONRAFT_PHASES && (vm->present >> phase) & 1;
}

int32_t moonraft_vm_hook_name(const moonraft_vm *vm, int32_t index, const char **name) {
    if (index < 0 || index >= vm->hook_name_count) return 0;
    *name = vm->hook_names[index];
    return 1;
}

// Reads what a hook returned (three values from `first`) into the outcome.
static void take_results(lua_State *L, moonraft_vm *vm, int first) {
    moonraft_outcome *outcome = &vm->outcome;
    switch (lua_type(L, first)) {
    case LUA_TNIL: break;
    case LUA_TBOOLEAN: outcome->verdict = lua_toboolean(L, first) ? 0 : 1; break;
    case LUA_TTABLE:
        if (vm->phase != MOONRAFT_PHASE_AUTHN) goto bad;
        vm->encoded.count = 0;
        wire_encode(L, &vm->encoded, first);
        outcome->verdict = 2;
        return;
    default: goto bad;
    }
    if (outcome->verdict != 1) return;
    size_t count;
    if (lua_type(L, first + 1) == LUA_TSTRING) {
        const char *text = lua_tolstring(L, first + 1, &count);
        if (count > MAX_TEXT) count = MAX_TEXT;
        memcpy(vm->text, text, count);
        vm->text_count = count;
    } else if (!lua_isnil(L, first + 1)) {
        goto bad_text;
    }
    if (lua_type(L, first + 2) == LUA_TSTRING) {
        const char *code = lua_tolstring(L, first + 2, &count);
        if (count > MAX_CODE) count = MAX_CODE;
        memcpy(vm->code, code, count);
        vm->code_count = count;
    } else if (!lua_isnil(L, first + 2)) {
        goto bad_text;
    }
    return;
bad_text:
    outcome->verdict = -1;
    vm->text_count = strlen("a hook's text and code must be strings");
    memcpy(vm->text, "a hook's text and code must be strings", vm->text_count);
    return;
bad:
    outcome->verdict = -1;
    strcpy(vm->text, "the hook returned a ");
    strncat(vm->text, luaL_typename(L, first), 24);
    vm->text_count = strlen(vm->text);
}

// Upvalues: hooks by phase, then faces. Argument: request.
static int call_hook(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    request *r = lua_touserdata(L, 1);
    lua_settop(L, 0);
    lua_pushvalue(L, lua_upvalueindex(UPVALUE_HOOK + vm->phase));
    int arguments = 0;
    if (r->count) arguments += wire_decode(L, r->bytes, r->count);
    if (r->face1) {
        lua_pushvalue(L, lua_upvalueindex(UPVALUE_FACE + r->face1 - MOONRAFT_HANDLE_REQ));
        arguments++;
    }
    if (r->face2) {
        lua_pushvalue(L, lua_upvalueindex(UPVALUE_FACE + r->face2 - MOONRAFT_HANDLE_REQ));
        arguments++;
    }
    lua_call(L, arguments, 3);
    take_results(L, vm, 1);
    return 0;
}

int32_t moonraft_vm_call(
    moonraft_vm *vm, int32_t phase, moonraft_view *view, int32_t face1, int32_t face2,
    const uint8_t *data, size_t data_count, moonraft_budget budget) {
    begin(vm, phase, budget);
    if (!moonraft_vm_has_hook(vm, phase)) return finish(vm, LUA_OK, lua_gettop(vm->L));
    request r = {.bytes = data, .count = data_count, .face1 = face1, .face2 = face2};
    vm->view = view;
    vm->live = (face1 ? 1u << face1 : 0) | (face2 ? 1u << face2 : 0);
    if (vm->live & (1u << MOONRAFT_HANDLE_REQ | 1u << MOONRAFT_HANDLE_REC)) vm->live |= 1u << MOONRAFT_HANDLE_OP;
    lua_State *L = vm->L;
    int base = lua_gettop(L);
    lua_pushvalue(L, 1);
    lua_pushlightuserdata(L, &r);
    int status = lua_pcall(L, 1, 0, 0);
    return finish(vm, status, base);
}

const moonraft_outcome *moonraft_vm_outcome(const moonraft_vm *vm) { return &vm->outcome; }
size_t moonraft_vm_memory(const moonraft_vm *vm) { return vm->bytes; }

// ---- test drivers ----

// test(name, fn)
int vm_register_test(lua_State *L) {
    moonraft_vm *vm = vm_of(L);
    const char *name = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (vm->phase != MOONRAFT_PHASE_TEST || vm->depth) return luaL_error(L, "test is called at file scope");
    if (vm->test_count == MAX_TESTS) return luaL_error(L, "more than %d tests in a file", MAX_TESTS);
    char *copy = strdup(name);
    if (!copy) return luaL_error(L, "out of memory");
    vm->test_names[vm->test_count++] = copy;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_tests);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, vm->test_count);
    return 0;
}

int32_t moonraft_vm_test_count(const moonraft_vm *vm) { return vm->test_count; }

const char *moonraft_vm_test_name(const moonraft_vm *vm, int32_t index) {
    return index >= 0 && index < vm->test_count ? vm->test_names[index] : "";
}

static int run_test(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_tests);
    lua_rawgeti(L, -1, r->index + 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_env);
    lua_getfield(L, -1, "t");
    lua_remove(L, -2);
    lua_call(L, 1, 0);
    return 0;
}

int32_t moonraft_vm_test_run(moonraft_vm *vm, int32_t index, moonraft_budget budget) {
    request r = {.index = index};
    begin(vm, MOONRAFT_PHASE_TEST, budget);
    vm->depth = 1;
    return protected_call(vm, run_test, &r, 0);
}

static int run_prelude(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    const char *global = lua_touserdata(L, 2);
    load_text(L, r->chunk, r->bytes, r->count);
    lua_call(L, 0, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key_env);
    lua_getmetatable(L, -1);
    lua_getfield(L, -1, "__index");
    lua_pushvalue(L, -4);
    lua_setfield(L, -2, global);
    return 0;
}

int32_t moonraft_vm_prelude(
    moonraft_vm *vm, const char *global, const uint8_t *bytes, size_t count, moonraft_budget budget) {
    request r = {.chunk = "=test library", .bytes = bytes, .count = count};
    begin(vm, MOONRAFT_PHASE_TEST, budget);
    lua_State *L = vm->L;
    int base = lua_gettop(L);
    lua_pushcfunction(L, run_prelude);
    lua_pushlightuserdata(L, &r);
    lua_pushlightuserdata(L, (void *)global);
    int status = lua_pcall(L, 2, 0, 0);
    return finish(vm, status, base);
}

// ---- for host functions ----

static void append(moonraft_vm *vm, const void *bytes, size_t count) {
    if (!buffer_append(&vm->results, bytes, count)) abort();
}

static void append_tag(moonraft_vm *vm, uint8_t tag) { append(vm, &tag, 1); }

void moonraft_vm_return_nil(moonraft_vm *vm) { append_tag(vm, MOONRAFT_NIL); }
void moonraft_vm_return_boolean(moonraft_vm *vm, int32_t value) { append_tag(vm, value ? MOONRAFT_TRUE : MOONRAFT_FALSE); }

void moonraft_vm_return_integer(moonraft_vm *vm, int64_t value) {
    append_tag(vm, MOONRAFT_INTEGER);
    append(vm, &value, sizeof value);
}

void moonraft_vm_return_number(moonraft_vm *vm, double value) {
    append_tag(vm, MOONRAFT_NUMBER);
    append(vm, &value, sizeof value);
}

void moonraft_vm_return_string(moonraft_vm *vm, const uint8_t *bytes, size_t count) {
    uint32_t length = (uint32_t)count;
    append_tag(vm, MOONRAFT_STRING);
    append(vm, &length, sizeof length);
    append(vm, bytes, count);
}

void moonraft_vm_return_encoded(moonraft_vm *vm, const uint8_t *bytes, size_t count) { append(vm, bytes, count); }

void moonraft_vm_set_error(moonraft_vm *vm, const uint8_t *bytes, size_t count) {
    if (count > MAX_TEXT) count = MAX_TEXT;
    if (count) memcpy(vm->error, bytes, count);
    vm->error_count = count;
}

void moonraft_vm_charge(moonraft_vm *vm, uint64_t instructions) { vm->pending += instructions; }
void moonraft_vm_extend(moonraft_vm *vm, uint64_t nanoseconds) { vm->deadline += nanoseconds; }
