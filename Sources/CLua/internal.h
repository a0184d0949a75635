// Shared by the files of this target; not seen by Swift.
#ifndef MOONRAFT_CLUA_INTERNAL_H
#define MOONRAFT_CLUA_INTERNAL_H

#include "clua.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

enum {
    // Large strings a VM keeps apart from other blocks; past this many the largest seen counts for good.
    MAX_BIG = 32,
    // log2 of the size from which a string is "big": one instruction can work on it for 0.1 ms.
    BIG_SHIFT = 14,
    BIG_CLASSES = 20,
    MAX_TEXT = 512,
    MAX_CODE = 32,
    MAX_TESTS = 256,
    MAX_HOOK_NAMES = 32,
    MAX_ARGUMENTS = 12,
    // Emergency collections in one call after which the call is over: each may walk the whole heap.
    MAX_REFUSALS = 12,
    // Bounds of values that cross the border.
    MAX_DEPTH = 32,
    MAX_ENCODED = 1 << 20,
    // Result of string.rep, table.concat and the like.
    MAX_STRING = 1 << 20,
    // Subject of a pattern.
    MAX_SUBJECT = 256 << 10,
    MAX_RESULTS = 8000,
    // Registry-free references: upvalues of the call trampoline.
    UPVALUE_HOOK = 1,
    UPVALUE_FACE = UPVALUE_HOOK + MOONRAFT_PHASES,
};

typedef struct {
    uint8_t *bytes;
    size_t count;
    size_t capacity;
} buffer;

// 0 when out of memory.
int buffer_reserve(buffer *b, size_t more);
int buffer_append(buffer *b, const void *bytes, size_t count);
static inline int buffer_byte(buffer *b, uint8_t byte) { return buffer_append(b, &byte, 1); }
void buffer_free(buffer *b);

typedef struct {
    void *block;
    uint8_t class;
} big_block;

struct moonraft_vm {
    lua_State *L;
    moonraft_host host;
    const moonraft_sources *sources;

    // Memory.
    size_t bytes;
    size_t cap;
    size_t block_cap;
    int refusals;
    big_block big[MAX_BIG];
    int big_count;
    int big_sticky;
    int big_class;

    // Budget of the running call. Invariant: once `violation` is set the hook fires at every instruction and
    // raises, and own pcall raises again, so no script code runs on.
    int violation;
    int period;
    int armed;
    uint64_t used;
    uint64_t limit;
    uint64_t since_clock;
    uint64_t start;
    uint64_t deadline;
    uint64_t thread_start;
    uint64_t thread_used;
    uint64_t pending;

    int phase;
    int depth;
    moonraft_view *view;
    // Bit set of face kinds that are valid in this call.
    uint32_t live;

    moonraft_outcome outcome;
    char text[MAX_TEXT];
    char code[MAX_CODE];
    size_t text_count;
    size_t code_count;

    // Results of the host function that is running, and the text of its error.
    buffer results;
    char error[MAX_TEXT];
    size_t error_count;
    // Encoded arguments and tables going to Swift.
    buffer encoded;
    // Scratch of native functions.
    buffer scratch;

    uint32_t present;
    char hook_names[MAX_HOOK_NAMES][32];
    int hook_name_count;

    char *test_names[MAX_TESTS];
    int test_count;
};

// Registry keys: addresses of these.
extern const char key_env, key_handles, key_loaded, key_array, key_tests, key_ops, key_faces, key_log;

// A face or a handle: full userdata.
typedef struct {
    int32_t kind;
    int32_t number;
} handle;

static inline moonraft_vm *vm_of(lua_State *L) { return *(moonraft_vm **)lua_getextraspace(L); }

// budget.c
// Charges work that the count hook cannot see; raises when the budget is spent.
void vm_charge(lua_State *L, uint64_t units);
// The same without raising: 1 when spent (for matchers that unwind first).
int vm_charge_quietly(moonraft_vm *vm, uint64_t units);
// Raises the uncatchable error of a spent budget.
int vm_raise_violation(lua_State *L);
void vm_violate(moonraft_vm *vm, int kind);
// Instructions until the hook runs again, and what they should be while big strings exist.
void vm_arm(moonraft_vm *vm, int period);
int vm_period(const moonraft_vm *vm);
// Lua's allocator.
void *vm_allocate(void *context, void *block, size_t old, size_t size);
int vm_pcall(lua_State *L);

// source.c
// Leaves the compiled chunk on the stack, its globals the plugin's; raises on errors.
void vm_load_text(lua_State *L, const char *chunk, const uint8_t *bytes, size_t count);
int vm_require(lua_State *L);

// setup.c
// Argument: the options. Leaves the trampoline of hook calls, whose upvalues are the hooks and faces.
int vm_set_up(lua_State *L);
// Replaces the table on top by an empty one that reads through to it and cannot be written.
void vm_freeze(lua_State *L);

// vm.c
typedef struct {
    const char *chunk;
    const uint8_t *bytes;
    size_t count;
    int driver;
    int32_t face1, face2;
    int index;
} vm_request;
// Every entry into the script: begin, a protected call, finish, which gives a MOONRAFT_ result.
void vm_begin(moonraft_vm *vm, int phase, moonraft_budget budget);
int32_t vm_finish(moonraft_vm *vm, int status, int base);
int32_t vm_protected_call(moonraft_vm *vm, lua_CFunction function, vm_request *r, int results);
int vm_call_hook(lua_State *L);

// driver.c
int vm_register_test(lua_State *L);

// wire.c
// Appends the value at `index`; raises on what cannot be passed.
void wire_encode(lua_State *L, buffer *out, int index);
// Pushes the values of the stream; returns their number.
int wire_decode(lua_State *L, const uint8_t *bytes, size_t count);
void wire_push_handle(lua_State *L, int32_t kind, int32_t number);
handle *wire_to_handle(lua_State *L, int index);
// Upvalues: phase mask and id packed, name. Marshals, calls Swift, pushes results.
int wire_host_call(lua_State *L);
int wire_phase_error(lua_State *L, const char *name, uint32_t phases);

// faces.c
// Gives the metatables of faces their fields; called once per VM with the handles table on top.
void faces_open(lua_State *L);
const char *handle_kind_name(int32_t kind);

// libraries: each leaves a table on the stack
int base_open(lua_State *L);
int string_open(lua_State *L);
int table_open(lua_State *L);
lua_CFunction native_find(const char *module, const char *name);

// json.c, text.c
int json_encode(lua_State *L);
int json_decode(lua_State *L);
int json_array(lua_State *L);
int json_is_array(lua_State *L);
// Whether a table is marked as an array, as decoded ones are.
int json_has_array_mark(lua_State *L, int index);
// Whether the value is an integer from 1 to length: a table with so many keys and only such is an array.
int json_is_place(lua_State *L, int index, lua_Unsigned length);
// shape.c
int json_shape(lua_State *L);
int text_base64_encode(lua_State *L);
int text_base64_decode(lua_State *L);
int text_hex_encode(lua_State *L);
int text_hex_decode(lua_State *L);
int text_crc32(lua_State *L);
int text_glob_match(lua_State *L);
int text_prefix_of(lua_State *L);

// pattern.c
enum { MAX_CAPTURES = 32, CAPTURE_POSITION = -2, CAPTURE_OPEN = -1 };
typedef struct {
    const char *subject;
    const char *subject_end;
    const char *pattern_end;
    // NULL outside a VM; then `steps_left` bounds the work.
    moonraft_vm *vm;
    uint64_t steps;
    uint64_t steps_left;
    const char *message;
    int depth;
    int level;
    struct {
        const char *start;
        ptrdiff_t length;
    } capture[MAX_CAPTURES];
} matcher;
void matcher_start(matcher *m, moonraft_vm *vm, const char *s, size_t s_count, const char *p_end);
// End of the match that begins at s, or NULL: no match, or an error when m->message or the VM's
// violation is set.
const char *matcher_match(matcher *m, const char *s, const char *p);

// view
typedef struct {
    uint32_t start;
    uint32_t count;
} slice;
typedef struct {
    moonraft_op op;
    slice path;
    slice key;
    slice range_end;
} view_op;
struct moonraft_view {
    buffer arena;
    slice texts[MOONRAFT_TEXTS];
    int64_t integers[MOONRAFT_INTS];
    slice *roles;
    int role_count;
    int role_capacity;
    size_t mark;
    view_op *ops;
    int op_count;
    int op_capacity;
};
int range_within(
    const uint8_t *key, size_t key_count, const uint8_t *end, size_t end_count, const uint8_t *prefix,
    size_t prefix_count);
int range_touches(
    const uint8_t *key, size_t key_count, const uint8_t *end, size_t end_count, const uint8_t *prefix,
    size_t prefix_count);

#endif
