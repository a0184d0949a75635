// Wrappers of Linux calls that Swift's Glibc import lacks or imports as variadic functions.
#define _GNU_SOURCE
#include "csupport.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

int moonraft_eventfd_create(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

int moonraft_eventfd_signal(int descriptor) {
    uint64_t one = 1;
    for (;;) {
        if (write(descriptor, &one, sizeof one) == (ssize_t)sizeof one || errno == EAGAIN) {
            return 0;
        }
        if (errno != EINTR) {
            return -1;
        }
    }
}

int moonraft_eventfd_drain(int descriptor) {
    uint64_t count;
    for (;;) {
        if (read(descriptor, &count, sizeof count) == (ssize_t)sizeof count) {
            return 1;
        }
        if (errno == EAGAIN) {
            return 0;
        }
        if (errno != EINTR) {
            return -1;
        }
    }
}

int moonraft_eventfd_wait(int descriptor, int milliseconds) {
    struct pollfd waited = {.fd = descriptor, .events = POLLIN};
    for (;;) {
        int ready = poll(&waited, 1, milliseconds);
        if (ready > 0) {
            return moonraft_eventfd_drain(descriptor);
        }
        if (ready == 0) {
            return 0;
        }
        if (errno != EINTR) {
            return -1;
        }
        if (milliseconds > 0) {
            // The caller loops with its own deadline; an interrupted wait counts as one that ran out.
            return 0;
        }
    }
}

int moonraft_thread_set_name(const char *name) {
    char cut[16];
    size_t length = strnlen(name, sizeof cut - 1);
    memcpy(cut, name, length);
    cut[length] = 0;
    return pthread_setname_np(pthread_self(), cut);
}

int moonraft_thread_set_nice(int nice) {
    // 0 is the calling thread, not the process, contrary to POSIX (setpriority(2), "C library/kernel differences").
    return setpriority(PRIO_PROCESS, 0, nice) == 0 ? 0 : errno;
}

int moonraft_open(const char *path, int flags, unsigned int mode) {
    int descriptor;
    do {
        descriptor = open(path, flags | O_CLOEXEC, (mode_t)mode);
    } while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

int moonraft_flock_exclusive(int descriptor) {
    int result;
    do {
        result = flock(descriptor, LOCK_EX | LOCK_NB);
    } while (result < 0 && errno == EINTR);
    return result;
}

int moonraft_write_back(int descriptor, int64_t offset, int64_t length, int wait) {
    unsigned int flags = SYNC_FILE_RANGE_WRITE;
    if (wait) {
        flags |= SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER;
    }
    return sync_file_range(descriptor, offset, length, flags);
}

static uint64_t microseconds(struct timeval time) {
    return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_usec;
}

static double boot_time(void) {
    FILE *file = fopen("/proc/stat", "re");
    if (file == NULL) {
        return 0;
    }
    char line[256];
    unsigned long long seconds = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "btime %llu", &seconds) == 1) {
            break;
        }
    }
    fclose(file);
    return (double)seconds;
}

static double start_time(void) {
    FILE *file = fopen("/proc/self/stat", "re");
    if (file == NULL) {
        return 0;
    }
    char text[1024];
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    // The command name in parentheses may hold spaces; the state, field 3, follows the last one.
    const char *after = strrchr(text, ')');
    unsigned long long ticks = 0;
    if (after == NULL ||
        sscanf(after + 1,
               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &ticks) != 1) {
        return 0;
    }
    double boot = boot_time();
    long hertz = sysconf(_SC_CLK_TCK);
    return boot > 0 && hertz > 0 ? boot + (double)ticks / (double)hertz : 0;
}

static uint64_t open_descriptors(void) {
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) {
        return 0;
    }
    uint64_t count = 0;
    while (readdir(directory) != NULL) {
        count++;
    }
    closedir(directory);
    // ".", ".." and the descriptor of this listing.
    return count >= 3 ? count - 3 : 0;
}

int moonraft_process_figures_read(struct moonraft_process_figures *out) {
    memset(out, 0, sizeof *out);
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) {
        return -1;
    }
    out->cpu_user_microseconds = microseconds(usage.ru_utime);
    out->cpu_system_microseconds = microseconds(usage.ru_stime);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        out->max_descriptors = (uint64_t)limit.rlim_cur;
    }
    FILE *file = fopen("/proc/self/statm", "re");
    if (file != NULL) {
        unsigned long long total = 0;
        unsigned long long resident = 0;
        if (fscanf(file, "%llu %llu", &total, &resident) == 2) {
            uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
            out->virtual_bytes = total * page;
            out->resident_bytes = resident * page;
        }
        fclose(file);
    }
    out->open_descriptors = open_descriptors();
    out->start_time_seconds = start_time();
    return 0;
}
