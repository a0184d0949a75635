// What a script may use: instructions, time and memory, and how it is stopped when that is spent.
//
// A budget cannot be an ordinary Lua error, because pcall would catch it and a script could go on for ever.
// So exhaustion sets `violation` and arms the count hook for every instruction; the hook raises each time it
// runs, our own pcall raises again when it sees the flag, and the functions that could hide from the hook (xpcall,
// coroutines, finalizers, __close) do not exist. Work inside C functions, which the hook cannot see, is
// charged by those functions.
#include "internal.h"

#include <stdlib.h>
#include <time.h>

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

void vm_arm(moonraft_vm *vm, int period) {
    vm->armed = period;
    lua_sethook(vm->L, budget_hook, LUA_MASKCOUNT, period);
}

void vm_violate(moonraft_vm *vm, int kind) {
    if (vm->violation) return;
    vm->violation = kind;
    if (vm->L) vm_arm(vm, 1);
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

// ---- memory ----

// One instruction on a long string (a comparison, a concatenation, a conversion) is work that no hook
// interrupts. While such strings exist the hook comes more often; see vm_period.
static int class_of(size_t size) {
    int class = 0;
    size >>= BIG_SHIFT + 1;
    while (size) {
        class++;
        size >>= 1;
    }
    return class < BIG_CLASSES ? class : BIG_CLASSES - 1;
}

int vm_period(const moonraft_vm *vm) {
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
        if (vm->L && vm_period(vm) < vm->armed) vm_arm(vm, vm_period(vm));
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

void *vm_allocate(void *context, void *block, size_t old, size_t size) {
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
