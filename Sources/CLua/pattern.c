// A matcher for Lua patterns that counts its steps. The one in Lua's library runs inside one C call where
// the count hook never fires: a few lazy items on a subject of two thousand bytes keep it busy for hours. This one
// charges the VM's instruction budget as it goes, bounds its recursion, and reports errors by a field
// instead of a jump, so that it also serves callers without a VM.
//
// Pattern language: Lua 5.4 reference manual, 6.4.1.
#include "internal.h"

#include <ctype.h>
#include <string.h>

enum {
    MAX_MATCH_DEPTH = 180,
    STEPS_PER_UNIT = 16,
    STEPS_PER_CHARGE = 4096,
};

void matcher_start(matcher *m, moonraft_vm *vm, const char *s, size_t s_count, const char *p_end) {
    memset(m, 0, offsetof(matcher, capture));
    m->subject = s;
    m->subject_end = s + s_count;
    m->pattern_end = p_end;
    m->vm = vm;
}

static int fail(matcher *m, const char *message) {
    if (!m->message) m->message = message;
    return 0;
}

static int stopped(const matcher *m) { return m->message || (m->vm && m->vm->violation); }

// Counts one step; 0 when the budget is spent.
static inline int step(matcher *m) {
    if (++m->steps < STEPS_PER_CHARGE) return 1;
    uint64_t steps = m->steps;
    m->steps = 0;
    if (m->vm) return !vm_charge_quietly(m->vm, steps / STEPS_PER_UNIT);
    if (m->steps_left < steps) return fail(m, "the pattern takes too many steps");
    m->steps_left -= steps;
    return 1;
}

// Counts bytes of a set that were walked: a set may be as long as a string, and is walked for each byte of the subject.
static inline void walked(matcher *m, ptrdiff_t count) { m->steps += (uint64_t)count / 16; }

// ---- single characters ----

static int in_class(int c, int class) {
    int member;
    switch (tolower(class)) {
    case 'a': member = isalpha(c); break;
    case 'c': member = iscntrl(c); break;
    case 'd': member = isdigit(c); break;
    case 'g': member = isgraph(c); break;
    case 'l': member = islower(c); break;
    case 'p': member = ispunct(c); break;
    case 's': member = isspace(c); break;
    case 'u': member = isupper(c); break;
    case 'w': member = isalnum(c); break;
    case 'x': member = isxdigit(c); break;
    default: return class == c;
    }
    return isupper(class) ? !member : member != 0;
}

// The end of the single-character item that starts at p.
static const char *item_end(matcher *m, const char *p) {
    const char *start = p;
    char first = *p++;
    if (first == '%') {
        if (p == m->pattern_end) {
            fail(m, "malformed pattern (ends with '%')");
            return NULL;
        }
        return p + 1;
    }
    if (first != '[') return p;
    if (p < m->pattern_end && *p == '^') p++;
    // A ']' in the first place is an ordinary member.
    int first_member = 1;
    while (p < m->pattern_end && (*p != ']' || first_member)) {
        first_member = 0;
        if (*p == '%') p++;
        p++;
    }
    if (p >= m->pattern_end) {
        fail(m, "malformed pattern (missing ']')");
        return NULL;
    }
    walked(m, p - start);
    return p + 1;
}

// Whether c is in the set that starts at p ('[') and closes at last (']').
static int in_set(matcher *m, int c, const char *p, const char *last) {
    const char *start = p;
    int negated = *++p == '^', found = 0;
    if (negated) p++;
    while (p < last && !found) {
        if (*p == '%') {
            p++;
            found = p < last && in_class(c, (unsigned char)*p);
            p++;
        } else if (p + 2 < last && p[1] == '-') {
            found = (unsigned char)p[0] <= c && c <= (unsigned char)p[2];
            p += 3;
        } else {
            found = (unsigned char)*p == c;
            p++;
        }
    }
    walked(m, p - start);
    return found != negated;
}

static int item_matches(matcher *m, const char *s, const char *p, const char *end) {
    if (s >= m->subject_end) return 0;
    int c = (unsigned char)*s;
    switch (*p) {
    case '.': return 1;
    case '%': return in_class(c, (unsigned char)p[1]);
    case '[': return in_set(m, c, p, end - 1);
    default: return (unsigned char)*p == c;
    }
}

// ---- matching ----

static const char *match(matcher *m, const char *s, const char *p);

static const char *balanced(matcher *m, const char *s, const char *p) {
    if (p + 1 >= m->pattern_end) {
        fail(m, "malformed pattern (missing arguments to '%b')");
        return NULL;
    }
    if (s >= m->subject_end || *s != p[0]) return NULL;
    size_t depth = 1;
    for (s++; s < m->subject_end; s++) {
        if (!step(m)) return NULL;
        if (*s == p[1]) {
            if (--depth == 0) return s + 1;
        } else if (*s == p[0]) {
            depth++;
        }
    }
    return NULL;
}

// Item followed by '*' or '+': as many as there are, then fewer.
static const char *greedy(matcher *m, const char *s, const char *p, const char *end, size_t least) {
    size_t count = 0;
    while (item_matches(m, s + count, p, end)) {
        count++;
        if (!step(m)) return NULL;
    }
    for (;;) {
        if (count < least) return NULL;
        const char *result = match(m, s + count, end + 1);
        if (result || stopped(m)) return result;
        if (count == 0 || !step(m)) return NULL;
        count--;
    }
}

// Item followed by '-': as few as will do.
static const char *lazy(matcher *m, const char *s, const char *p, const char *end) {
    for (;;) {
        const char *result = match(m, s, end + 1);
        if (result || stopped(m)) return result;
        if (!item_matches(m, s, p, end) || !step(m)) return NULL;
        s++;
    }
}

static const char *open_capture(matcher *m, const char *s, const char *p, ptrdiff_t kind) {
    if (m->level >= MAX_CAPTURES) {
        fail(m, "too many captures");
        return NULL;
    }
    m->capture[m->level].start = s;
    m->capture[m->level].length = kind;
    m->level++;
    const char *result = match(m, s, p);
    if (!result) m->level--;
    return result;
}

static const char *close_capture(matcher *m, const char *s, const char *p) {
    int i = m->level - 1;
    while (i >= 0 && m->capture[i].length != CAPTURE_OPEN) i--;
    if (i < 0) {
        fail(m, "invalid pattern capture");
        return NULL;
    }
    m->capture[i].length = s - m->capture[i].start;
    const char *result = match(m, s, p);
    if (!result) m->capture[i].length = CAPTURE_OPEN;
    return result;
}

// %1 … %9: the text of an earlier capture once more.
static const char *back_reference(matcher *m, const char *s, int digit) {
    int i = digit - '1';
    if (i < 0 || i >= m->level || m->capture[i].length == CAPTURE_OPEN) {
        fail(m, "invalid capture index in pattern");
        return NULL;
    }
    ptrdiff_t length = m->capture[i].length < 0 ? 0 : m->capture[i].length;
    m->steps += (uint64_t)length / 16;
    if (m->subject_end - s < length || memcmp(m->capture[i].start, s, (size_t)length) != 0) return NULL;
    return s + length;
}

static int at_frontier(matcher *m, const char *s, const char *p, const char *end) {
    int before = s == m->subject ? 0 : (unsigned char)s[-1];
    int here = s < m->subject_end ? (unsigned char)*s : 0;
    return !in_set(m, before, p, end - 1) && in_set(m, here, p, end - 1);
}

static const char *match_here(matcher *m, const char *s, const char *p) {
    while (p < m->pattern_end) {
        if (!step(m)) return NULL;
        if (*p == '(') {
            if (p + 1 < m->pattern_end && p[1] == ')') return open_capture(m, s, p + 2, CAPTURE_POSITION);
            return open_capture(m, s, p + 1, CAPTURE_OPEN);
        }
        if (*p == ')') return close_capture(m, s, p + 1);
        if (*p == '$' && p + 1 == m->pattern_end) return s == m->subject_end ? s : NULL;
        if (*p == '%' && p + 1 < m->pattern_end) {
            if (p[1] == 'b') {
                s = balanced(m, s, p + 2);
                if (!s) return NULL;
                p += 4;
                continue;
            }
            if (p[1] == 'f') {
                p += 2;
                if (p >= m->pattern_end || *p != '[') {
                    fail(m, "missing '[' after '%f' in pattern");
                    return NULL;
                }
                const char *end = item_end(m, p);
                if (!end || !at_frontier(m, s, p, end)) return NULL;
                p = end;
                continue;
            }
            if (isdigit((unsigned char)p[1])) {
                s = back_reference(m, s, (unsigned char)p[1]);
                if (!s) return NULL;
                p += 2;
                continue;
            }
        }
        const char *end = item_end(m, p);
        if (!end) return NULL;
        char quantifier = end < m->pattern_end ? *end : 0;
        switch (quantifier) {
        case '*': return greedy(m, s, p, end, 0);
        case '+': return greedy(m, s, p, end, 1);
        case '-': return lazy(m, s, p, end);
        case '?':
            if (item_matches(m, s, p, end)) {
                const char *result = match(m, s + 1, end + 1);
                if (result || stopped(m)) return result;
            }
            p = end + 1;
            continue;
        default:
            if (!item_matches(m, s, p, end)) return NULL;
            s++;
            p = end;
        }
    }
    return s;
}

static const char *match(matcher *m, const char *s, const char *p) {
    if (m->depth >= MAX_MATCH_DEPTH) {
        fail(m, "the pattern is too complex");
        return NULL;
    }
    m->depth++;
    const char *result = match_here(m, s, p);
    m->depth--;
    return result;
}

const char *matcher_match(matcher *m, const char *s, const char *p) {
    m->level = 0;
    const char *result = match(m, s, p);
    if (result)
        for (int i = 0; i < m->level; i++)
            if (m->capture[i].length == CAPTURE_OPEN) {
                fail(m, "unfinished capture");
                return NULL;
            }
    return stopped(m) ? NULL : result;
}

int32_t moonraft_pattern_test(
    const char *pattern, size_t pattern_count, const char *text, size_t text_count, uint64_t steps,
    const char **message) {
    const char *p = pattern, *p_end = pattern + pattern_count;
    int anchored = pattern_count > 0 && *p == '^';
    if (anchored) p++;
    matcher m;
    matcher_start(&m, NULL, text, text_count, p_end);
    m.steps_left = steps;
    for (const char *s = text;; s++) {
        const char *end = matcher_match(&m, s, p);
        if (m.message) {
            *message = m.message;
            return -1;
        }
        if (end) return 1;
        if (anchored || s >= m.subject_end) return 0;
    }
}
