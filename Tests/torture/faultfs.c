/* A lying disk by LD_PRELOAD: makes writes, syncs, renames and resizes of regular files fail, or syncs slow.
 *
 * FAULTFS_CONTROL names a file that the test driver (faultfs.py) maps too; its layout is struct control. Only regular
 * files are touched, and never the standard streams, so that the process can still say why it ends.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, RENAME = 4, RESIZE = 8 };

struct control {
    _Atomic int32_t mask;     /* kinds of calls that fail */
    _Atomic int32_t error;    /* with this errno */
    _Atomic int32_t delay_ms; /* each sync takes this much longer */
    int32_t reserved;
    _Atomic int64_t countdown; /* so many matching calls still succeed */
    _Atomic uint64_t seen, failed;
};

static struct control *control;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FAULTFS_CONTROL");
    if (!path) return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *memory = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory != MAP_FAILED) control = memory;
}

static int is_regular(int file) {
    struct stat status;
    return file > 2 && fstat(file, &status) == 0 && S_ISREG(status.st_mode);
}

/* Whether this call has to fail; sets errno then. */
static int fails(int kind, int file) {
    if (!control) return 0;
    if (kind == SYNC) {
        int32_t delay = control->delay_ms;
        if (delay > 0 && is_regular(file)) {
            struct timespec pause = {delay / 1000, (long)(delay % 1000) * 1000000};
            while (nanosleep(&pause, &pause) != 0 && errno == EINTR) {}
        }
    }
    if (!(control->mask & kind) || (file >= 0 && !is_regular(file))) return 0;
    atomic_fetch_add(&control->seen, 1);
    if (atomic_fetch_sub(&control->countdown, 1) > 0) return 0;
    atomic_fetch_add(&control->failed, 1);
    errno = control->error;
    return 1;
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *bytes, size_t count) {
    NEXT(write);
    return fails(WRITE, file) ? -1 : next(file, bytes, count);
}
ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset) {
    NEXT(pwrite);
    return fails(WRITE, file) ? -1 : next(file, bytes, count, offset);
}
ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset) {
    NEXT(pwrite64);
    return fails(WRITE, file) ? -1 : next(file, bytes, count, offset);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    NEXT(writev);
    return fails(WRITE, file) ? -1 : next(file, parts, count);
}
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset) {
    NEXT(pwritev);
    return fails(WRITE, file) ? -1 : next(file, parts, count, offset);
}
ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t offset) {
    NEXT(pwritev64);
    return fails(WRITE, file) ? -1 : next(file, parts, count, offset);
}
int fsync(int file) {
    NEXT(fsync);
    return fails(SYNC, file) ? -1 : next(file);
}
int fdatasync(int file) {
    NEXT(fdatasync);
    return fails(SYNC, file) ? -1 : next(file);
}
int rename(const char *from, const char *to) {
    NEXT(rename);
    return fails(RENAME, -1) ? -1 : next(from, to);
}
int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    NEXT(renameat);
    return fails(RENAME, -1) ? -1 : next(from_directory, from, to_directory, to);
}
int ftruncate(int file, off_t length) {
    NEXT(ftruncate);
    return fails(RESIZE, file) ? -1 : next(file, length);
}
int ftruncate64(int file, off64_t length) {
    NEXT(ftruncate64);
    return fails(RESIZE, file) ? -1 : next(file, length);
}
int fallocate(int file, int mode, off_t offset, off_t length) {
    NEXT(fallocate);
    return fails(RESIZE, file) ? -1 : next(file, mode, offset, length);
}
int fallocate64(int file, int mode, off64_t offset, off64_t length) {
    NEXT(fallocate64);
    return fails(RESIZE, file) ? -1 : next(file, mode, offset, length);
}
/* These two return the error instead of setting errno. */
int posix_fallocate(int file, off_t offset, off_t length) {
    NEXT(posix_fallocate);
    return fails(RESIZE, file) ? errno : next(file, offset, length);
}
int posix_fallocate64(int file, off64_t offset, off64_t length) {
    NEXT(posix_fallocate64);
    return fails(RESIZE, file) ? errno : next(file, offset, length);
}
