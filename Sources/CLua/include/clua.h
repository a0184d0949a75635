// The border between Swift and Lua. Swift sees an opaque VM, byte slices and status codes; it never
// calls Lua's own interface. Lua reports errors with longjmp, which must not cross a Swift frame, so every call
// into Lua happens inside a protected call in this target, and a host function written in Swift only
// fills a buffer owned by the VM and returns a status; the C caller raises the error afterwards.
//
// A VM is confined to one thread at a time. No function here is thread-safe but moonraft_pattern_test.
#ifndef MOONRAFT_CLUA_H
#define MOONRAFT_CLUA_H

#include <stddef.h>
#include <stdint.h>

typedef struct moonraft_vm moonraft_vm;
typedef struct moonraft_view moonraft_view;
typedef struct moonraft_sources moonraft_sources;

// ---- status of a protected call ----

enum {
    MOONRAFT_OK = 0,
    MOONRAFT_LUA_ERROR = 1,
    MOONRAFT_INSTRUCTIONS = 2,
    MOONRAFT_TIME = 3,
    MOONRAFT_MEMORY = 4,
    // The hook returned something its contract does not allow.
    MOONRAFT_BAD_RESULT = 5,
};

// ---- phases: what the VM is running; a host function is legal in a set of them (bit = 1 << phase) ----

enum {
    MOONRAFT_PHASE_LOAD = 0,
    MOONRAFT_PHASE_INIT,
    MOONRAFT_PHASE_SHUTDOWN,
    MOONRAFT_PHASE_AUTHN,
    MOONRAFT_PHASE_AUTHZ,
    MOONRAFT_PHASE_ADMIT_MUTATE,
    MOONRAFT_PHASE_ADMIT_VALIDATE,
    MOONRAFT_PHASE_AUDIT,
    MOONRAFT_PHASE_ON_EVENT,
    MOONRAFT_PHASE_METRICS_COLLECT,
    MOONRAFT_PHASE_HEALTH,
    // The driver VM of a test file.
    MOONRAFT_PHASE_TEST,
    MOONRAFT_PHASES,
};

// ---- values that cross the border ----

enum {
    MOONRAFT_NIL = 0,
    MOONRAFT_FALSE = 1,
    MOONRAFT_TRUE = 2,
    MOONRAFT_INTEGER = 3,
    MOONRAFT_NUMBER = 4,
    MOONRAFT_STRING = 5,
    // Start of key, value pairs up to MOONRAFT_END.
    MOONRAFT_MAP = 6,
    MOONRAFT_END = 7,
    // Start of values up to MOONRAFT_END.
    MOONRAFT_ARRAY = 8,
    // One byte kind, four bytes number.
    MOONRAFT_HANDLE = 9,
    // JSON null.
    MOONRAFT_NULL = 10,
};

// Kinds of handles: opaque objects that a script holds and only the host can look into.
enum {
    MOONRAFT_HANDLE_SECRET = 1,
    MOONRAFT_HANDLE_FILE,
    MOONRAFT_HANDLE_KEYS,
    MOONRAFT_HANDLE_SINK,
    MOONRAFT_HANDLE_METRIC,
    MOONRAFT_HANDLE_PLUGIN,
    MOONRAFT_HANDLE_RECORDS,
    MOONRAFT_HANDLE_REQ,
    MOONRAFT_HANDLE_ID,
    MOONRAFT_HANDLE_REC,
    MOONRAFT_HANDLE_CRED,
    MOONRAFT_HANDLE_PEER,
    MOONRAFT_HANDLE_OP,
    MOONRAFT_HANDLES,
};

// One argument of a host function. `bytes` points into the VM and is valid during the call only; for a
// table (type MAP or ARRAY) it is the encoded form, tag included.
typedef struct {
    int32_t type;
    int32_t handle_kind;
    int64_t integer;
    double number;
    const uint8_t *bytes;
    size_t count;
} moonraft_value;

// A function offered to scripts. `module` is "" for a global, "x" for x.name, ":kind" for a method of a handle
// kind (":secret"). id >= 0: written in Swift, reached through `call`; id -1: native, found by "module.name".
typedef struct {
    const char *module;
    const char *name;
    int32_t id;
    uint32_t phases;
} moonraft_function;

typedef struct {
    void *context;
    // Runs host function `id`. 0: results were appended with moonraft_vm_return_*; 1: an error, text set
    // with moonraft_vm_set_error.
    int32_t (*call)(void *context, int32_t id, const moonraft_value *arguments, int32_t count);
    // Appends the value of op `index` (from 0) of the current view.
    void (*value)(void *context, int32_t index);
    // Seconds since 1970 on the host's clock.
    double (*now)(void *context);
} moonraft_host;

typedef struct {
    size_t memory_bytes;
    // Seed of math.random.
    uint64_t seed;
    // The count hook's period; 100, or 1 for exact instruction counts.
    int32_t hook_period;
    const moonraft_function *functions;
    int32_t function_count;
    // Private modules, or NULL. Must outlive the VM.
    const moonraft_sources *sources;
    moonraft_host host;
} moonraft_vm_options;

// ---- sources: module name -> text; immutable once built ----

moonraft_sources *moonraft_sources_create(void);
void moonraft_sources_add(
    moonraft_sources *sources, const char *module, const char *chunk, const uint8_t *bytes, size_t count);
void moonraft_sources_destroy(moonraft_sources *sources);

// ---- VM ----

typedef struct {
    uint64_t instructions;
    uint64_t nanoseconds;
} moonraft_budget;

// What a call left behind; pointers are valid until the next call into the VM.
typedef struct {
    // 0 nothing or true, 1 false, 2 a table (encoded in data).
    int32_t verdict;
    const uint8_t *text;
    size_t text_count;
    const uint8_t *code;
    size_t code_count;
    const uint8_t *data;
    size_t data_count;
    uint64_t instructions;
    uint64_t nanoseconds;
} moonraft_outcome;

// A new VM with its libraries, or NULL when memory_bytes does not suffice.
moonraft_vm *moonraft_vm_create(const moonraft_vm_options *options);
void moonraft_vm_destroy(moonraft_vm *vm);

// Compiles and runs the entry chunk. It must return a table; its function fields become the hooks.
// With `driver` the chunk's result is not looked at.
int32_t moonraft_vm_load(
    moonraft_vm *vm, const char *chunk, const uint8_t *bytes, size_t count, int32_t driver,
    moonraft_budget budget);

// Compiles without running: MOONRAFT_OK or an error whose text names the line.
int32_t moonraft_vm_check(moonraft_vm *vm, const char *chunk, const uint8_t *bytes, size_t count);

// Sets a global of scripts to one encoded value (plugin.*).
int32_t moonraft_vm_set_global(
    moonraft_vm *vm, const char *name, const uint8_t *bytes, size_t count);

// After a load: 1 when the entry table has a function under this name. `index` walks the names of all
// function fields: 0 when there are no more.
int32_t moonraft_vm_has_hook(const moonraft_vm *vm, int32_t phase);
int32_t moonraft_vm_hook_name(const moonraft_vm *vm, int32_t index, const char **name);

// Runs a hook. `faces` is a list of handle kinds (REQ, ID, REC, CRED, PEER) passed as arguments and backed by `view`;
// `data` is an encoded value passed first when data_count > 0. A missing hook is MOONRAFT_OK with verdict 0.
int32_t moonraft_vm_call(
    moonraft_vm *vm, int32_t phase, moonraft_view *view, int32_t face1, int32_t face2,
    const uint8_t *data, size_t data_count, moonraft_budget budget);

// Runs function number `index` of those that a driver chunk registered with test(name, fn).
int32_t moonraft_vm_test_count(const moonraft_vm *vm);
const char *moonraft_vm_test_name(const moonraft_vm *vm, int32_t index);
int32_t moonraft_vm_test_run(moonraft_vm *vm, int32_t index, moonraft_budget budget);

// Runs a library chunk in a driver VM and makes its result a global.
int32_t moonraft_vm_prelude(
    moonraft_vm *vm, const char *global, const uint8_t *bytes, size_t count, moonraft_budget budget);

const moonraft_outcome *moonraft_vm_outcome(const moonraft_vm *vm);
size_t moonraft_vm_memory(const moonraft_vm *vm);

// ---- for host functions, during a call ----

void moonraft_vm_return_nil(moonraft_vm *vm);
void moonraft_vm_return_boolean(moonraft_vm *vm, int32_t value);
void moonraft_vm_return_integer(moonraft_vm *vm, int64_t value);
void moonraft_vm_return_number(moonraft_vm *vm, double value);
void moonraft_vm_return_string(moonraft_vm *vm, const uint8_t *bytes, size_t count);
// Appends encoded values as they are.
void moonraft_vm_return_encoded(moonraft_vm *vm, const uint8_t *bytes, size_t count);
void moonraft_vm_set_error(moonraft_vm *vm, const uint8_t *bytes, size_t count);
// Adds work to the current call, in instructions; takes effect when the host function returns.
void moonraft_vm_charge(moonraft_vm *vm, uint64_t instructions);
// Time that shall not count against the wall-time budget.
void moonraft_vm_extend(moonraft_vm *vm, uint64_t nanoseconds);

// ---- view: the request or record that a hook looks at; filled by Swift, read lazily by scripts ----

enum {
    MOONRAFT_TEXT_RPC = 0,
    MOONRAFT_TEXT_USER,
    MOONRAFT_TEXT_CN,
    MOONRAFT_TEXT_PEER,
    MOONRAFT_TEXT_SOURCE,
    MOONRAFT_TEXT_NAME,
    MOONRAFT_TEXT_STAGE,
    MOONRAFT_TEXT_ID,
    MOONRAFT_TEXT_MESSAGE,
    MOONRAFT_TEXT_CREDENTIAL,
    MOONRAFT_TEXT_CREDENTIAL_USER,
    MOONRAFT_TEXTS,
};

enum {
    MOONRAFT_INT_REVISION = 0,
    MOONRAFT_INT_TTL,
    MOONRAFT_INT_LEASE,
    // One more than the number, 0: not known.
    MOONRAFT_INT_LEASE_KEYS,
    MOONRAFT_INT_CODE,
    MOONRAFT_INT_TIME_MICROSECONDS,
    MOONRAFT_INT_RESULT_REVISION,
    MOONRAFT_INT_TERM,
    MOONRAFT_INT_INDEX,
    MOONRAFT_INT_HOOKS,
    MOONRAFT_INT_QUEUE,
    MOONRAFT_INT_RAFT,
    MOONRAFT_INT_APPLY,
    MOONRAFT_INT_TOTAL,
    MOONRAFT_INT_ALLOWED,
    MOONRAFT_INT_WRITE,
    MOONRAFT_INT_TLS,
    MOONRAFT_INT_PASSWORD,
    MOONRAFT_INT_TOKEN,
    MOONRAFT_INTS,
};

enum {
    MOONRAFT_OP_PUT = 0,
    MOONRAFT_OP_RANGE,
    MOONRAFT_OP_DELETE_RANGE,
    MOONRAFT_OP_COMPARE,
    MOONRAFT_OP_WATCH,
};

enum {
    MOONRAFT_FLAG_PREV_KV = 1,
    MOONRAFT_FLAG_IGNORE_VALUE = 2,
    MOONRAFT_FLAG_IGNORE_LEASE = 4,
    MOONRAFT_FLAG_KEYS_ONLY = 8,
    MOONRAFT_FLAG_COUNT_ONLY = 16,
    MOONRAFT_FLAG_SERIALIZABLE = 32,
    MOONRAFT_FLAG_HAS_VALUE = 64,
};

typedef struct {
    uint8_t kind;
    // 0 version 1 create 2 mod 3 value 4 lease; 0 = 1 > 2 < 3 != (as in etcd's Compare)
    uint8_t target;
    uint8_t result;
    uint8_t flags;
    uint64_t value_size;
    int64_t lease;
    int64_t limit;
    int64_t revision;
    int64_t number;
} moonraft_op;

moonraft_view *moonraft_view_create(void);
void moonraft_view_destroy(moonraft_view *view);
// Forgets everything; keeps the memory.
void moonraft_view_reset(moonraft_view *view);
// The identity's texts and roles are set first; moonraft_view_rewind forgets what was set after the mark, so
// that requests of one caller in a row need not set them again.
void moonraft_view_mark(moonraft_view *view);
void moonraft_view_rewind(moonraft_view *view);
// An empty text reads as nil.
void moonraft_view_set_text(moonraft_view *view, int32_t field, const uint8_t *bytes, size_t count);
void moonraft_view_set_integer(moonraft_view *view, int32_t field, int64_t value);
void moonraft_view_clear_roles(moonraft_view *view);
void moonraft_view_add_role(moonraft_view *view, const uint8_t *bytes, size_t count);
void moonraft_view_clear_ops(moonraft_view *view);
// An empty range_end is a single key.
void moonraft_view_add_op(
    moonraft_view *view, const moonraft_op *op, const uint8_t *path, size_t path_count,
    const uint8_t *key, size_t key_count, const uint8_t *range_end, size_t range_end_count);
// Replaces what a setter changed; index from 0.
void moonraft_view_update_op(
    moonraft_view *view, int32_t index, const moonraft_op *op, const uint8_t *key, size_t key_count,
    const uint8_t *range_end, size_t range_end_count);

// ---- without a VM ----

// Whether a Lua pattern is found in text: 1, 0, or -1 with a message for a bad pattern or one that takes
// more than `steps`.
int32_t moonraft_pattern_test(
    const char *pattern, size_t pattern_count, const char *text, size_t text_count, uint64_t steps,
    const char **message);

uint32_t moonraft_crc32(const uint8_t *bytes, size_t count);
uint64_t moonraft_monotonic_nanoseconds(void);
double moonraft_realtime_seconds(void);

#endif
