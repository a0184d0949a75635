// The view: one request or record in flat memory, filled by Swift before a chain of hooks runs and read by
// the faces. Texts and keys are copied into one arena that keeps its memory from request to request; values, which
// may be large, stay with Swift and are fetched when a script asks.
#include "internal.h"

#include <stdlib.h>
#include <string.h>

moonraft_view *moonraft_view_create(void) {
    moonraft_view *view = calloc(1, sizeof *view);
    if (!view || !buffer_reserve(&view->arena, 512)) abort();
    return view;
}

void moonraft_view_destroy(moonraft_view *view) {
    if (!view) return;
    buffer_free(&view->arena);
    free(view->roles);
    free(view->ops);
    free(view);
}

void moonraft_view_reset(moonraft_view *view) {
    // A request with large keys must not pin its memory for ever.
    if (view->arena.capacity > 256 << 10) {
        buffer_free(&view->arena);
        if (!buffer_reserve(&view->arena, 512)) abort();
    }
    view->arena.count = 0;
    memset(view->texts, 0, sizeof view->texts);
    memset(view->integers, 0, sizeof view->integers);
    view->role_count = 0;
    view->op_count = 0;
    view->mark = 0;
}

void moonraft_view_mark(moonraft_view *view) { view->mark = view->arena.count; }

void moonraft_view_rewind(moonraft_view *view) {
    if (view->arena.capacity > 256 << 10 && view->mark < 64 << 10) {
        buffer small = {0};
        if (!buffer_append(&small, view->arena.bytes, view->mark)) abort();
        buffer_free(&view->arena);
        view->arena = small;
    }
    view->arena.count = view->mark;
    for (int i = 0; i < MOONRAFT_TEXTS; i++)
        if (view->texts[i].start >= view->mark) view->texts[i].count = 0;
    memset(view->integers, 0, sizeof view->integers);
    view->op_count = 0;
}

static slice keep(moonraft_view *view, const uint8_t *bytes, size_t count) {
    if (view->arena.count + count > UINT32_MAX || !buffer_append(&view->arena, bytes, count)) abort();
    return (slice){(uint32_t)(view->arena.count - count), (uint32_t)count};
}

void moonraft_view_set_text(moonraft_view *view, int32_t field, const uint8_t *bytes, size_t count) {
    view->texts[field] = keep(view, bytes, count);
}

void moonraft_view_set_integer(moonraft_view *view, int32_t field, int64_t value) {
    view->integers[field] = value;
}

void moonraft_view_clear_roles(moonraft_view *view) { view->role_count = 0; }

void moonraft_view_add_role(moonraft_view *view, const uint8_t *bytes, size_t count) {
    if (view->role_count == view->role_capacity) {
        int capacity = view->role_capacity ? view->role_capacity * 2 : 8;
        slice *roles = realloc(view->roles, sizeof(slice) * (size_t)capacity);
        if (!roles) abort();
        view->roles = roles;
        view->role_capacity = capacity;
    }
    view->roles[view->role_count++] = keep(view, bytes, count);
}

void moonraft_view_clear_ops(moonraft_view *view) { view->op_count = 0; }

void moonraft_view_add_op(
    moonraft_view *view, const moonraft_op *op, const uint8_t *path, size_t path_count,
    const uint8_t *key, size_t key_count, const uint8_t *range_end, size_t range_end_count) {
    if (view->op_count == view->op_capacity) {
        int capacity = view->op_capacity ? view->op_capacity * 2 : 8;
        view_op *ops = realloc(view->ops, sizeof(view_op) * (size_t)capacity);
        if (!ops) abort();
        view->ops = ops;
        view->op_capacity = capacity;
    }
    view_op *entry = &view->ops[view->op_count++];
    entry->op = *op;
    entry->path = keep(view, path, path_count);
    entry->key = keep(view, key, key_count);
    entry->range_end = keep(view, range_end, range_end_count);
}

void moonraft_view_update_op(
    moonraft_view *view, int32_t index, const moonraft_op *op, const uint8_t *key, size_t key_count,
    const uint8_t *range_end, size_t range_end_count) {
    if (index < 0 || index >= view->op_count) return;
    view_op *entry = &view->ops[index];
    entry->op = *op;
    entry->key = keep(view, key, key_count);
    entry->range_end = keep(view, range_end, range_end_count);
}
