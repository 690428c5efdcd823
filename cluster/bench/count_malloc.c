// Counts allocations, for LD_PRELOAD: `fermata_malloc_count` is read by wire-bench through dlsym.
#define _GNU_SOURCE
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

unsigned long fermata_malloc_count;

void *malloc(size_t size) {
    fermata_malloc_count++;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    fermata_malloc_count++;
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    fermata_malloc_count++;
    return __libc_realloc(old, size);
}

int posix_memalign(void **result, size_t alignment, size_t size) {
    fermata_malloc_count++;
    *result = __libc_memalign(alignment, size);
    return *result ? 0 : 12;
}
