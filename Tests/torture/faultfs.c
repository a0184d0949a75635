/* A lying disk and a lying wall clock for one process, by LD_PRELOAD.
 *
 * FAULTFS_CONTROL names a file that the test driver (faultfs.py) maps too; its layout is struct control. It makes
 * writes, syncs, renames and resizes fail, syncs slow, and the wall clock jump. Only regular files are touched, and never
 * the standard streams, so that the process can still say why it ends.
 *
 * FAULTFS_JOURNAL names a file that takes down how to undo whatever is not yet synced: a kill leaves the page cache alone, so
 * only with this can a test show what a power failure would have left. The driver undoes it after the kill. Its format:
 * struct record, then `length` bytes:
 *
 *   WROTE    inode, offset, size before; the bytes that stood there before
 *   RESIZED  inode, size before; the bytes that a cut took away, which began at offset
 *   SYNCED   inode; offset is the journal's length when the sync began: what stands before that is durable
 *   CREATED  inode of the directory; the path
 *   RENAMED  inode of the directory; from NUL to NUL a link to what "to" was before, or nothing
 *   REMOVED  inode of the directory; path NUL a link to it
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, RENAME = 4, RESIZE = 8 };
enum { WROTE = 1, RESIZED, SYNCED, CREATED, RENAMED, REMOVED };

struct control {
    _Atomic int32_t mask;     /* kinds of calls that fail */
    _Atomic int32_t error;    /* with this errno */
    _Atomic int32_t delay_ms; /* each sync takes this much longer */
    _Atomic int32_t lie;      /* syncs do nothing, and say that they did */
    _Atomic int64_t countdown; /* so many matching calls still succeed */
    _Atomic uint64_t seen, failed;
    _Atomic int64_t clock_ms; /* added to the wall clock */
    char place[64]; /* only files whose path has this in it fail or are slow; written before the mask */
};

struct record {
    uint32_t kind, length;
    uint64_t inode;
    int64_t offset, size;
};

/* Beyond this the journal ends, and with it the ability to lose power; the driver sees that by its size. */
static const off_t journal_limit = (off_t)256 << 20;

static struct control *control;
static int journal = -1;
static char journal_path[4096];
static uint64_t links;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static ssize_t plain_write(int file, const void *bytes, size_t count) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return next(file, bytes, count);
}

static int plain_open(const char *path, int flags, mode_t mode) {
    static int (*next)(const char *, int, ...);
    if (!next) next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    return next(path, flags, mode);
}

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FAULTFS_CONTROL");
    int file = path ? plain_open(path, O_RDWR | O_CLOEXEC, 0) : -1;
    if (file >= 0) {
        void *memory = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (memory != MAP_FAILED) control = memory;
    }
    path = getenv("FAULTFS_JOURNAL");
    if (path && strlen(path) < sizeof journal_path - 32) {
        strcpy(journal_path, path);
        journal = plain_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
}

static int is_regular(int file) {
    struct stat status;
    return file > 2 && file != journal && fstat(file, &status) == 0 && S_ISREG(status.st_mode);
}

/* Whether the faults are meant for this file. */
static int is_meant(int file) {
    char name[64], path[4096];
    if (control->place[0] == 0) return 1;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, control->place) != NULL;
}

/* Whether this call has to fail; sets errno then. */
static int fails(int kind, int file) {
    if (!control) return 0;
    if (kind == SYNC && control->delay_ms > 0 && is_meant(file)) {
        int32_t delay = control->delay_ms;
        if (delay > 0 && is_regular(file)) {
            struct timespec pause = {delay / 1000, (long)(delay % 1000) * 1000000};
            while (nanosleep(&pause, &pause) != 0 && errno == EINTR) {}
        }
    }
    if (!(control->mask & kind) || (file >= 0 && !(is_regular(file) && is_meant(file)))) return 0;
    atomic_fetch_add(&control->seen, 1);
    if (atomic_fetch_sub(&control->countdown, 1) > 0) return 0;
    atomic_fetch_add(&control->failed, 1);
    errno = control->error;
    return 1;
}

/* ------------------------------------------------------------------------------------------ the undo journal */

static off_t journal_length(void) {
    struct stat status;
    return journal >= 0 && fstat(journal, &status) == 0 ? status.st_size : 0;
}

/* Appends one record; the caller holds the lock. */
static void note(uint32_t kind, uint64_t inode, int64_t offset, int64_t size, const void *bytes, size_t length) {
    if (journal_length() > journal_limit) return;
    struct record record = {kind, (uint32_t)length, inode, offset, size};
    char *whole = malloc(sizeof record + length);
    if (!whole) abort();
    memcpy(whole, &record, sizeof record);
    if (length) memcpy(whole + sizeof record, bytes, length);
    if (plain_write(journal, whole, sizeof record + length) != (ssize_t)(sizeof record + length)) abort();
    free(whole);
}

/* Whether writes to the file wait for a sync to be durable. */
static int is_journaled(int file, struct stat *status) {
    if (journal < 0 || file <= 2 || file == journal || fstat(file, status) != 0 || !S_ISREG(status->st_mode)) return 0;
    int flags = fcntl(file, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) return 0;
    return !(flags & (O_SYNC | O_DSYNC)) || (control && control->lie);
}

/* Takes down what [offset, offset + count) holds. A descriptor may be write-only, so it is opened anew to read. */
static void note_old(uint32_t kind, int file, const struct stat *status, off_t offset, size_t count) {
    char name[64], *old = count ? malloc(count) : NULL;
    size_t length = 0;
    if (old) {
        snprintf(name, sizeof name, "/proc/self/fd/%d", file);
        int reader = plain_open(name, O_RDONLY | O_CLOEXEC, 0);
        while (reader >= 0 && length < count) {
            ssize_t got = pread(reader, old + length, count - length, offset + (off_t)length);
            if (got <= 0) break;
            length += (size_t)got;
        }
        if (reader >= 0) close(reader);
    }
    note(kind, status->st_ino, offset, status->st_size, old, length);
    free(old);
}

/* Returns 1 with the lock held when the write was taken down; `leave` ends it. */
static int enter_write(int file, off_t offset, size_t count) {
    struct stat status;
    if (!is_journaled(file, &status)) return 0;
    pthread_mutex_lock(&lock);
    fstat(file, &status);
    if (offset < 0) offset = fcntl(file, F_GETFL) & O_APPEND ? status.st_size : lseek(file, 0, SEEK_CUR);
    note_old(WROTE, file, &status, offset, count);
    return 1;
}

static int enter_resize(int file, off_t length) {
    struct stat status;
    if (!is_journaled(file, &status)) return 0;
    pthread_mutex_lock(&lock);
    fstat(file, &status);
    note_old(RESIZED, file, &status, length, length < status.st_size ? (size_t)(status.st_size - length) : 0);
    return 1;
}

static void leave(int entered) {
    int kept = errno;
    if (entered) pthread_mutex_unlock(&lock);
    errno = kept;
}

static int synced(int file, int (*sync)(int)) {
    struct stat status;
    off_t before = journal_length();
    if (control && control->lie) return 0;
    int result = sync(file);
    if (result == 0 && journal >= 0 && fstat(file, &status) == 0) {
        pthread_mutex_lock(&lock);
        note(SYNCED, status.st_ino, before, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

static uint64_t directory_inode(const char *path) {
    char directory[4096];
    struct stat status;
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    if (length >= sizeof directory) return 0;
    memcpy(directory, path, length);
    directory[length] = 0;
    return stat(slash ? (length ? directory : "/") : ".", &status) == 0 ? status.st_ino : 0;
}

/* Keeps what a path names under a name of our own; the empty string when it names nothing. */
static void keep(const char *path, char *kept, size_t size) {
    snprintf(kept, size, "%s.%llu", journal_path, (unsigned long long)links++);
    if (link(path, kept) != 0) kept[0] = 0;
}

/* Takes down a change of a directory: up to three strings, each ended by NUL. */
static void note_names(uint32_t kind, const char *path, const char *second, const char *third) {
    char names[3 * 4096];
    int length = snprintf(names, sizeof names, "%s%c%s%c%s", path, 0, second, 0, third);
    if (length > 0 && (size_t)length < sizeof names) note(kind, directory_inode(path), 0, 0, names, (size_t)length + 1);
}

/* ------------------------------------------------------------------------------------------ the calls */

static size_t total(const struct iovec *parts, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    return bytes;
}

#define WRITES(name, arguments, call, offset, count) \
    ssize_t name arguments { \
        NEXT(name); \
        if (fails(WRITE, file)) return -1; \
        int entered = enter_write(file, offset, count); \
        ssize_t result = next call; \
        leave(entered); \
        return result; \
    }

WRITES(write, (int file, const void *bytes, size_t count), (file, bytes, count), -1, count)
WRITES(pwrite, (int file, const void *bytes, size_t count, off_t at), (file, bytes, count, at), at, count)
WRITES(pwrite64, (int file, const void *bytes, size_t count, off64_t at), (file, bytes, count, at), at, count)
WRITES(writev, (int file, const struct iovec *parts, int n), (file, parts, n), -1, total(parts, n))
WRITES(pwritev, (int file, const struct iovec *parts, int n, off_t at), (file, parts, n, at), at, total(parts, n))
WRITES(pwritev64, (int file, const struct iovec *parts, int n, off64_t at), (file, parts, n, at), at, total(parts, n))

#define RESIZES(name, arguments, call, length, failure) \
    int name arguments { \
        NEXT(name); \
        if (fails(RESIZE, file)) return failure; \
        int entered = enter_resize(file, length); \
        int result = next call; \
        leave(entered); \
        return result; \
    }

/* An allocation only grows a file: its old size says enough. The posix_ forms return the error instead of setting errno. */
RESIZES(ftruncate, (int file, off_t to), (file, to), to, -1)
RESIZES(ftruncate64, (int file, off64_t to), (file, to), to, -1)
RESIZES(fallocate, (int file, int mode, off_t at, off_t count), (file, mode, at, count), INT64_MAX, -1)
RESIZES(fallocate64, (int file, int mode, off64_t at, off64_t count), (file, mode, at, count), INT64_MAX, -1)
RESIZES(posix_fallocate, (int file, off_t at, off_t count), (file, at, count), INT64_MAX, errno)
RESIZES(posix_fallocate64, (int file, off64_t at, off64_t count), (file, at, count), INT64_MAX, errno)

int fsync(int file) {
    NEXT(fsync);
    return fails(SYNC, file) ? -1 : synced(file, next);
}
int fdatasync(int file) {
    NEXT(fdatasync);
    return fails(SYNC, file) ? -1 : synced(file, next);
}

int rename(const char *from, const char *to) {
    NEXT(rename);
    if (fails(RENAME, -1)) return -1;
    if (journal < 0) return next(from, to);
    char kept[4200];
    pthread_mutex_lock(&lock);
    keep(to, kept, sizeof kept);
    int result = next(from, to);
    int error = errno;
    if (result == 0) note_names(RENAMED, from, to, kept);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int unlink(const char *path) {
    NEXT(unlink);
    if (journal < 0) return next(path);
    char kept[4200];
    pthread_mutex_lock(&lock);
    keep(path, kept, sizeof kept);
    int result = next(path);
    int error = errno;
    if (result == 0 && kept[0]) note_names(REMOVED, path, kept, "");
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

static int opened(const char *path, int flags, mode_t mode, int (*next)(const char *, int, ...)) {
    if (journal < 0 || !(flags & O_CREAT)) return next(path, flags, mode);
    struct stat status;
    pthread_mutex_lock(&lock);
    int was_there = stat(path, &status) == 0;
    int file = next(path, flags, mode);
    int error = errno;
    if (file >= 0 && !was_there) note_names(CREATED, path, "", "");
    pthread_mutex_unlock(&lock);
    errno = error;
    return file;
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return opened(path, flags, mode, next); \
    }
OPENS(open)
OPENS(open64)

/* Jumps are for the wall clock alone: what must keep time has to use the monotonic one. */
int clock_gettime(clockid_t clock, struct timespec *time) {
    NEXT(clock_gettime);
    int result = next(clock, time);
    int64_t jump = control && clock == CLOCK_REALTIME ? control->clock_ms : 0;
    if (result == 0 && jump != 0) time->tv_sec += jump / 1000;
    return result;
}
int gettimeofday(struct timeval *time, void *zone) {
    NEXT(gettimeofday);
    int result = next(time, zone);
    if (result == 0 && control) time->tv_sec += control->clock_ms / 1000;
    return result;
}
