// Growing byte buffers, and what host functions put into them for the script that called.
#include "internal.h"

#include <stdlib.h>
#include <string.h>

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
