// bcrypt through libxcrypt. Go's bcrypt, whose hashes etcd stores, writes "$2a$" for the algorithm that
// libxcrypt calls "$2b$"; libxcrypt's own "$2a$" differs for some passwords with bytes above 0x7f. So all
// computing is done as "$2b$" and only the label changes.
#define _GNU_SOURCE
#include "csupport.h"

#include <crypt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SETTING_BYTES = 29, // "$2b$NN$" and 22 characters of salt
    HASH_BYTES = MOONRAFT_BCRYPT_HASH_BYTES - 1,
};

static const char alphabet[] = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

static void encode_salt(const uint8_t *salt, char *out) {
    uint32_t bits = 0;
    int held = 0;
    for (int i = 0; i < MOONRAFT_BCRYPT_SALT_BYTES; i++) {
        bits = (bits << 8) | salt[i];
        held += 8;
        while (held >= 6) {
            held -= 6;
            *out++ = alphabet[(bits >> held) & 0x3f];
        }
    }
    *out = alphabet[(bits << (6 - held)) & 0x3f];
}

static int in_alphabet(char c) {
    return c == '.' || c == '/' || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c >= '0' && c <= '9');
}

// `setting` holds SETTING_BYTES characters and a zero; `out` HASH_BYTES and a zero.
static int compute(const void *password, size_t length, const char *setting, char *out) {
    if (length > 0 && memchr(password, 0, length) != NULL) {
        return -1;
    }
    if (length > MOONRAFT_BCRYPT_PASSWORD_BYTES) {
        length = MOONRAFT_BCRYPT_PASSWORD_BYTES;
    }
    char phrase[MOONRAFT_BCRYPT_PASSWORD_BYTES + 1];
    if (length > 0) {
        memcpy(phrase, password, length);
    }
    phrase[length] = 0;
    // crypt_data is 32 KiB: too much for a small thread stack.
    struct crypt_data *data = calloc(1, sizeof *data);
    int result = -1;
    if (data != NULL) {
        const char *hash = crypt_r(phrase, setting, data);
        if (hash != NULL && hash[0] == '$' && strlen(hash) == HASH_BYTES) {
            memcpy(out, hash, MOONRAFT_BCRYPT_HASH_BYTES);
            result = 0;
        }
        explicit_bzero(data, sizeof *data);
        free(data);
    }
    explicit_bzero(phrase, sizeof phrase);
    return result;
}

int moonraft_bcrypt_hash(
    const void *password, size_t length, int cost, const uint8_t *salt16, char *out) {
    if (cost < 4 || cost > 31) {
        return -1;
    }
    char setting[SETTING_BYTES + 1] = {0};
    setting[0] = '$';
    setting[1] = '2';
    setting[2] = 'b';
    setting[3] = '$';
    setting[4] = (char)('0' + cost / 10);
    setting[5] = (char)('0' + cost % 10);
    setting[6] = '$';
    encode_salt(salt16, setting + 7);
    if (compute(password, length, setting, out) != 0) {
        return -1;
    }
    out[2] = 'a';
    return 0;
}

int moonraft_bcrypt_verify(const void *password, size_t length, const char *hash) {
    if (strnlen(hash, HASH_BYTES + 1) != HASH_BYTES || hash[0] != '$' || hash[1] != '2' ||
        (hash[2] != 'a' && hash[2] != 'b' && hash[2] != 'y') || hash[3] != '$' || hash[6] != '$') {
        return -1;
    }
    for (int i = 7; i < HASH_BYTES; i++) {
        if (!in_alphabet(hash[i])) {
            return -1;
        }
    }
    char setting[SETTING_BYTES + 1];
    memcpy(setting, hash, SETTING_BYTES);
    setting[2] = 'b';
    setting[SETTING_BYTES] = 0;
    char computed[MOONRAFT_BCRYPT_HASH_BYTES];
    if (compute(password, length, setting, computed) != 0) {
        return -1;
    }
    unsigned char difference = 0;
    for (int i = SETTING_BYTES; i < HASH_BYTES; i++) {
        difference |= (unsigned char)(hash[i] ^ computed[i]);
    }
    explicit_bzero(computed, sizeof computed);
    return difference == 0;
}
