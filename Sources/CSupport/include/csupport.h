// Small C helpers for what Swift cannot reach portably or cheaply: CRC32C, event descriptors, thread
// names, bcrypt, and process figures. Every function is thread-safe and keeps no state of its own.
#ifndef MOONRAFT_CSUPPORT_H
#define MOONRAFT_CSUPPORT_H

#include <stddef.h>
#include <stdint.h>

// ---- CRC32C (Castagnoli, reflected polynomial 0x82f63b78) ----

// Extends the finished checksum `seed` (0 for a new one) by `length` bytes. Uses the SSE4.2 instruction
// when the processor has it, slice-by-8 tables otherwise; both give the same value.
uint32_t moonraft_crc32c(uint32_t seed, const void *_Nullable bytes, size_t length);

// Extends `seed` by the eight little-endian bytes of `value`.
uint32_t moonraft_crc32c_u64(uint32_t seed, uint64_t value);

// The table version, exported so that a test can compare it with the instruction.
uint32_t moonraft_crc32c_software(uint32_t seed, const void *_Nullable bytes, size_t length);

// 1 when moonraft_crc32c uses the processor's instruction.
int moonraft_crc32c_is_hardware(void);

// ---- eventfd ----

// A new non-blocking, close-on-exec event descriptor, or -1 with errno.
int moonraft_eventfd_create(void);

// Adds one to the counter; wakes a waiter. 0, or -1 with errno. A full counter counts as signalled.
int moonraft_eventfd_signal(int descriptor);

// Takes the counter. Returns 1 when it was signalled, 0 when not, -1 with errno.
int moonraft_eventfd_drain(int descriptor);

// Waits at most `milliseconds` (-1: for ever) and takes the counter. 1 signalled, 0 timed out or
// interrupted by a signal handler, -1 errno.
int moonraft_eventfd_wait(int descriptor, int milliseconds);

// ---- threads ----

// Names the calling thread (cut to the 15 bytes Linux keeps). 0 or an errno.
int moonraft_thread_set_name(const char *_Nonnull name);

// Sets the calling thread's nice value (Linux keeps one for each thread). 0 or an errno. It can be raised by
// anybody; lowering it again takes a privilege.
int moonraft_thread_set_nice(int nice);

// ---- files ----

// open(2) and flock(2) with plain arguments; -1 with errno. O_CLOEXEC is always added.
int moonraft_open(const char *_Nonnull path, int flags, unsigned int mode);
int moonraft_flock_exclusive(int descriptor);

// sync_file_range(2): starts writing the dirty pages of a range. With `wait` it also returns only when they
// are written, which is not durable yet. 0, or -1 with errno.
int moonraft_write_back(int descriptor, int64_t offset, int64_t length, int wait);

// ---- bcrypt (libxcrypt) ----

enum {
    // "$2a$NN$" + 22 characters of salt + 31 of digest, and the terminating zero.
    MOONRAFT_BCRYPT_HASH_BYTES = 61,
    MOONRAFT_BCRYPT_SALT_BYTES = 16,
    // What bcrypt looks at; the rest of a longer password does not count.
    MOONRAFT_BCRYPT_PASSWORD_BYTES = 72,
};

// Hashes a password with 16 bytes of caller-supplied salt. `cost` is 4...31. Writes a zero-terminated
// "$2a$" hash, the form Go's bcrypt (and so etcd) stores. Returns 0; -1 for a cost out of range, a zero
// byte in the password (bcrypt ends there) or a failure of the library.
int moonraft_bcrypt_hash(
    const void *_Nullable password, size_t length, int cost, const uint8_t *_Nonnull salt16,
    char *_Nonnull out);

// 1 when the password matches the zero-terminated hash ("$2a$", "$2b$" or "$2y$"), 0 when it does not,
// -1 when the hash is not a bcrypt hash or the password holds a zero byte. Compares in constant time.
int moonraft_bcrypt_verify(
    const void *_Nullable password, size_t length, const char *_Nonnull hash);

// ---- process figures ----

struct moonraft_process_figures {
    uint64_t cpu_user_microseconds;
    uint64_t cpu_system_microseconds;
    uint64_t resident_bytes;
    uint64_t virtual_bytes;
    uint64_t open_descriptors;
    uint64_t max_descriptors;
    // Unix time; 0 when /proc does not tell.
    double start_time_seconds;
};

// Reads getrusage and /proc/self. 0, or -1 with errno; a figure that cannot be read is 0.
int moonraft_process_figures_read(struct moonraft_process_figures *_Nonnull out);

#endif
