/* The probe: what runs inside a test guest and notices everything a hold could do to it.
 *
 * Threads
 *   ticker     wakes every millisecond and remembers the longest time between two wake-ups
 *   memory     checks a pseudo-random pattern in RAM against its generator, slowly and for ever
 *   disk       writes one block each 50 ms (O_DIRECT), reads it back, and now and then an older one
 *   one a TCP connection on port 7000, a line protocol:
 *     ping N     -> pong N
 *     report     -> one line of JSON (below)
 *     reset      -> ok      forgets the largest gap and starts counting anew
 *     verify     -> one line of JSON: checks the whole pattern now
 *     fill MIB   -> ok      replaces the pattern by one of MIB mebibytes
 *     tick MICROSECONDS -> ok   another interval for the ticker (1 ms costs an emulated host some
 *                           20 % of a CPU a guest, nearly all of it in waking up)
 *   anything else is answered by "error: …".
 *
 * The guest's clocks stand still while its QEMU is stopped, so maxGapMilliseconds is what the guest
 * *can* see: the slowness after the hold, not the hold. Who wants both measures from outside, with
 * `ping` (cluster/guest_watch.py).
 *
 * report: bootId (the kernel's), counter (ticks since boot), maxGapMilliseconds (by
 * CLOCK_MONOTONIC), memoryIntact, memoryPatternBytes, memoryPasses (whole passes of the checker),
 * diskOk (null without a disk), diskWrites, diskErrors, wallMicroseconds (since 1970),
 * uptimeSeconds, connections.
 *
 * Kernel command line: fermata.pattern=MIB (default 32), fermata.tick=MICROSECONDS (default 1000).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <linux/fs.h>

enum {
    PORT = 7000,
    PAGE = 4096,
    WORDS = PAGE / 8,
    /* 1 MiB each 0.4 s, about 1 ms of an emulated CPU. Seldom, since waking up is what costs. */
    BACKGROUND_PAGES = 256,
    BACKGROUND_MILLISECONDS = 400,
    DISK_MILLISECONDS = 50,
    DISK_OLD_EVERY = 10,             /* each tenth time an older block is read back as well */
    DISK_SLOTS_MAX = 4096,           /* the first 16 MiB of the disk */
    LINE_MAX_BYTES = 256,
};

static atomic_ullong tick_count, gap_max_nanoseconds, memory_passes, disk_writes, disk_errors;
static atomic_ullong connection_count, tick_microseconds;
static atomic_bool memory_intact = true, disk_present = false;

static char boot_id[64] = "unknown";

static uint64_t now_nanoseconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_microseconds(uint64_t microseconds) {
    struct timespec t = {(time_t)(microseconds / 1000000), (long)(microseconds % 1000000) * 1000};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR) {}
}

/* Real-time priority: what is measured is the guest's pauses, not its own scheduling. */
static void set_priority(int priority) {
    struct sched_param parameter = {.sched_priority = priority};
    pthread_setschedparam(pthread_self(), priority ? SCHED_FIFO : SCHED_OTHER, &parameter);
}

static uint64_t command_line_number(const char *key, uint64_t otherwise) {
    char line[4096];
    int fd = open("/proc/cmdline", O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    if (fd >= 0) close(fd);
    if (n < 0) return otherwise;
    line[n] = 0;
    for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
        size_t k = strlen(key);
        if (!strncmp(word, key, k) && word[k] == '=') return strtoull(word + k + 1, NULL, 10);
    }
    return otherwise;
}

/* ---- ticks ---- */

static void *tick(void *unused) {
    (void)unused;
    set_priority(20);
    uint64_t before = now_nanoseconds(CLOCK_MONOTONIC);
    for (;;) {
        sleep_microseconds(atomic_load(&tick_microseconds));
        uint64_t now = now_nanoseconds(CLOCK_MONOTONIC);
        uint64_t gap = now - before, seen = atomic_load(&gap_max_nanoseconds);
        while (gap > seen && !atomic_compare_exchange_weak(&gap_max_nanoseconds, &seen, gap)) {}
        atomic_fetch_add(&tick_count, 1);
        before = now;
    }
    return NULL;
}

/* ---- memory ---- */

static pthread_mutex_t pattern_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t *pattern;             /* pattern_pages pages; guarded by pattern_lock */
static uint64_t pattern_pages, pattern_seed, pattern_sum;

static uint64_t mix(uint64_t x) {     /* splitmix64's finaliser */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t xorshift(uint64_t x) {
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ (x << 17);
}

/* Every page has its own stream, so a page swapped with another is found too. */
static uint64_t fill_page(uint64_t page, uint64_t *words) {
    uint64_t x = mix(pattern_seed ^ page) | 1, sum = 0;
    for (int i = 0; i < WORDS; i++) sum += words[i] = x = xorshift(x);
    return sum;
}

static bool page_is_intact(uint64_t page) {
    const volatile uint64_t *words = pattern + page * WORDS;
    uint64_t x = mix(pattern_seed ^ page) | 1, wrong = 0;
    for (int i = 0; i < WORDS; i++) wrong |= words[i] ^ (x = xorshift(x));
    return wrong == 0;
}

static bool fill(uint64_t mebibytes) {
    uint64_t pages = mebibytes * 1024 * 1024 / PAGE;
    void *fresh = mmap(NULL, pages * PAGE + PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) return false;
    pthread_mutex_lock(&pattern_lock);
    if (pattern) munmap(pattern, pattern_pages * PAGE + PAGE);
    pattern = fresh;
    pattern_pages = pages;
    pattern_seed = mix(now_nanoseconds(CLOCK_REALTIME) ^ (uint64_t)(uintptr_t)fresh);
    pattern_sum = 0;
    for (uint64_t page = 0; page < pages; page++)
        pattern_sum += fill_page(page, pattern + page * WORDS);
    atomic_store(&memory_intact, true);
    pthread_mutex_unlock(&pattern_lock);
    return true;
}

/* Checks `count` pages from `first`; returns how many are wrong. Needs pattern_lock. */
static uint64_t check_pages(uint64_t first, uint64_t count) {
    uint64_t wrong = 0;
    for (uint64_t page = first; page < first + count && page < pattern_pages; page++)
        if (!page_is_intact(page)) wrong++;
    if (wrong) atomic_store(&memory_intact, false);
    return wrong;
}

static uint64_t verify(uint64_t *byte_count) {
    pthread_mutex_lock(&pattern_lock);
    uint64_t wrong = check_pages(0, pattern_pages), sum = 0;
    for (uint64_t i = 0; i < pattern_pages * WORDS; i++) sum += pattern[i];
    if (sum != pattern_sum) {         /* also covers the generator's own seed */
        atomic_store(&memory_intact, false);
        if (!wrong) wrong = 1;
    }
    *byte_count = pattern_pages * PAGE;
    pthread_mutex_unlock(&pattern_lock);
    return wrong;
}

static void *watch_memory(void *unused) {
    (void)unused;
    uint64_t page = 0;
    for (;;) {
        sleep_microseconds(BACKGROUND_MILLISECONDS * 1000);
        pthread_mutex_lock(&pattern_lock);
        check_pages(page, BACKGROUND_PAGES);
        page += BACKGROUND_PAGES;
        if (page >= pattern_pages) {
            page = 0;
            atomic_fetch_add(&memory_passes, 1);
        }
        pthread_mutex_unlock(&pattern_lock);
    }
    return NULL;
}

/* ---- disk ---- */

struct block {
    uint64_t sequence, sum, words[WORDS - 2];
};

static void make_block(struct block *b, uint64_t sequence) {
    uint64_t x = mix(sequence) | 1;
    b->sequence = sequence;
    b->sum = sequence;
    for (size_t i = 0; i < WORDS - 2; i++) b->sum += b->words[i] = x = xorshift(x);
}

static void check_block(int fd, struct block *b, struct block *expected, uint64_t sequence,
                        uint64_t slots) {
    memset(b, 0, sizeof *b);
    make_block(expected, sequence);
    if (pread(fd, b, PAGE, (off_t)(sequence % slots) * PAGE) != PAGE
        || memcmp(b, expected, PAGE) != 0)
        atomic_fetch_add(&disk_errors, 1);
}

static void *write_disk(void *unused) {
    (void)unused;
    int fd = open("/dev/vda", O_RDWR | O_DIRECT);
    if (fd < 0) return NULL;
    uint64_t size = 0;
    void *pages = NULL;
    if (ioctl(fd, BLKGETSIZE64, &size) < 0 || size < 2 * PAGE
        || posix_memalign(&pages, PAGE, 2 * PAGE) != 0)
        return NULL;
    uint64_t slots = size / PAGE < DISK_SLOTS_MAX ? size / PAGE : DISK_SLOTS_MAX;
    struct block *b = pages, *expected = b + 1;
    atomic_store(&disk_present, true);
    for (uint64_t sequence = 0;; sequence++) {
        make_block(b, sequence);
        if (pwrite(fd, b, PAGE, (off_t)(sequence % slots) * PAGE) != PAGE)
            atomic_fetch_add(&disk_errors, 1);
        atomic_fetch_add(&disk_writes, 1);
        check_block(fd, b, expected, sequence, slots);
        /* An older one as well: written before the hold, read after it. */
        if (sequence % DISK_OLD_EVERY == 0)
            check_block(fd, b, expected, sequence - (sequence % slots) / 2, slots);
        sleep_microseconds(DISK_MILLISECONDS * 1000);
    }
    return NULL;
}

/* ---- network ---- */

static int report(char *out, size_t size) {
    bool disk = atomic_load(&disk_present);
    unsigned long long errors = atomic_load(&disk_errors);
    return snprintf(
        out, size,
        "{\"bootId\":\"%s\",\"counter\":%llu,\"maxGapMilliseconds\":%.3f,\"memoryIntact\":%s,"
        "\"memoryPatternBytes\":%llu,\"memoryPasses\":%llu,\"diskOk\":%s,\"diskWrites\":%llu,"
        "\"diskErrors\":%llu,\"wallMicroseconds\":%llu,\"uptimeSeconds\":%.3f,"
        "\"connections\":%llu}\n",
        boot_id, (unsigned long long)atomic_load(&tick_count),
        (double)atomic_load(&gap_max_nanoseconds) / 1e6,
        atomic_load(&memory_intact) ? "true" : "false",
        (unsigned long long)(pattern_pages * PAGE),
        (unsigned long long)atomic_load(&memory_passes),
        !disk ? "null" : errors ? "false" : "true", (unsigned long long)atomic_load(&disk_writes),
        errors, (unsigned long long)(now_nanoseconds(CLOCK_REALTIME) / 1000),
        (double)now_nanoseconds(CLOCK_BOOTTIME) / 1e9,
        (unsigned long long)atomic_load(&connection_count));
}

static int answer(const char *line, char *out, size_t size) {
    if (!strncmp(line, "ping ", 5)) return snprintf(out, size, "pong %s\n", line + 5);
    if (!strcmp(line, "report")) return report(out, size);
    if (!strcmp(line, "reset")) {
        atomic_store(&gap_max_nanoseconds, 0);
        return snprintf(out, size, "ok\n");
    }
    if (!strcmp(line, "verify")) {
        uint64_t byte_count = 0, wrong;
        set_priority(0);              /* long: must not disturb the ticks it is compared with */
        wrong = verify(&byte_count);
        set_priority(10);
        return snprintf(out, size,
                        "{\"memoryIntact\":%s,\"memoryPatternBytes\":%llu,\"wrongPages\":%llu}\n",
                        wrong || !atomic_load(&memory_intact) ? "false" : "true",
                        (unsigned long long)byte_count, (unsigned long long)wrong);
    }
    if (!strncmp(line, "fill ", 5)) {
        uint64_t mebibytes = strtoull(line + 5, NULL, 10);
        bool filled;
        set_priority(0);
        filled = mebibytes <= 1024 * 1024 && fill(mebibytes);
        set_priority(10);
        return snprintf(out, size, filled ? "ok\n" : "error: not so much memory\n");
    }
    if (!strncmp(line, "tick ", 5)) {
        uint64_t microseconds = strtoull(line + 5, NULL, 10);
        if (microseconds < 100) return snprintf(out, size, "error: not below 100\n");
        atomic_store(&tick_microseconds, microseconds);
        return snprintf(out, size, "ok\n");
    }
    return snprintf(out, size, "error: ping N, report, reset, verify, fill MIB or tick N\n");
}

static void *serve(void *socket_number) {
    int fd = (int)(intptr_t)socket_number;
    char in[LINE_MAX_BYTES], out[1024];
    size_t used = 0;
    set_priority(10);
    atomic_fetch_add(&connection_count, 1);
    for (;;) {
        ssize_t n = recv(fd, in + used, sizeof in - used, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        used += (size_t)n;
        char *start = in, *end;
        while ((end = memchr(start, '\n', used - (size_t)(start - in)))) {
            *end = 0;
            if (end > start && end[-1] == '\r') end[-1] = 0;
            int length = answer(start, out, sizeof out);
            if (length < 0 || send(fd, out, (size_t)length, MSG_NOSIGNAL) != length) goto over;
            start = end + 1;
        }
        used -= (size_t)(start - in);
        memmove(in, start, used);
        if (used == sizeof in) break; /* a line too long: not one of ours */
    }
over:
    atomic_fetch_sub(&connection_count, 1);
    close(fd);
    return NULL;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void start(pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, attributes, run, argument) != 0) die("pthread_create");
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY);
    if (fd >= 0) {
        ssize_t n = read(fd, boot_id, sizeof boot_id - 1);
        boot_id[n > 0 ? n - 1 : 0] = 0;
        close(fd);
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 * 1024);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);

    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind");

    if (!fill(command_line_number("fermata.pattern", 32))) die("fill");
    atomic_store(&tick_microseconds, command_line_number("fermata.tick", 1000));
    start(&attributes, tick, NULL);
    start(&attributes, watch_memory, NULL);
    start(&attributes, write_disk, NULL);
    /* Listening only now: who can connect gets a whole report. */
    if (listen(listener, 128) < 0) die("listen");
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) {
            sleep_microseconds(10000);
            continue;
        }
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        start(&attributes, serve, (void *)(intptr_t)connection);
    }
}
