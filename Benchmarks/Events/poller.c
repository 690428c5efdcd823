// Many guests that poll once a second, each from an address of its own, on one thread.
//
//   poller GUESTS PORT SECONDS [plain]
//
// Each sends GET /metadata/scheduledevents with the tag of the document it has (`plain`: without), from
// 127.1.(N / 250).(N % 250 + 1), at its own moment of the second. At the end prints one line of JSON:
// answers by status, latencies in microseconds from the moment a request was due, and one line
// `seen NANOSECONDS COUNT` for each time the documents changed: when the last guest saw it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct guest {
    int descriptor;
    int waits;
    int64_t due;
    int64_t sent;
    char tag[64];
    int length;
    char buffer[4096];
};

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int compare(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct guest *guests;
static uint32_t *latencies;
static long answers, unchanged, errors, late;
static long latencies_max;
static struct { char tag[64]; int64_t last; long count; } changes[64];
static int change_count;

static void send_request(struct guest *guest, int is_plain) {
    char request[512];
    int length = snprintf(request, sizeof request,
        "GET /metadata/scheduledevents?api-version=2020-07-01 HTTP/1.1\r\n"
        "Host: 169.254.169.254\r\nUser-Agent: poller\r\nAccept: */*\r\nMetadata: true\r\n%s%s%s\r\n",
        is_plain || !*guest->tag ? "" : "If-None-Match: ", is_plain ? "" : guest->tag,
        is_plain || !*guest->tag ? "" : "\r\n");
    if (write(guest->descriptor, request, length) != length) fail("write");
    guest->waits = 1;
    guest->length = 0;
}

static void take_answer(struct guest *guest) {
    int got = read(guest->descriptor, guest->buffer + guest->length,
        sizeof guest->buffer - 1 - guest->length);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        fprintf(stderr, "a connection was closed: %s\n", guest->buffer);
        exit(1);
    }
    guest->length += got;
    guest->buffer[guest->length] = 0;
    char *end = strstr(guest->buffer, "\r\n\r\n");
    if (!end) return;
    char *length = strcasestr(guest->buffer, "content-length: ");
    long body = length ? atol(length + 16) : 0;
    if (end + 4 - guest->buffer + body > guest->length) return;
    int64_t at = now();
    guest->waits = 0;
    if (answers < latencies_max) latencies[answers] = (at - guest->due) / 1000;
    answers++;
    int status = atoi(guest->buffer + 9);
    if (status == 304) unchanged++;
    else if (status != 200) errors++;
    char *tag = strcasestr(guest->buffer, "etag: ");
    if (!tag) return;
    char text[64];
    int count = strcspn(tag + 6, "\r\n");
    if (count > 63) count = 63;
    memcpy(text, tag + 6, count);
    text[count] = 0;
    if (!strcmp(text, guest->tag)) return;
    int is_first = !*guest->tag;
    strcpy(guest->tag, text);
    if (is_first) return;
    // Every set has numbers of its own; a change of all is what comes without a pause of half a second.
    int index = change_count - 1;
    if (index < 0 || at - changes[index].last > 500000000LL) {
        if (change_count == 64) return;
        index = change_count++;
    }
    changes[index].last = at;
    changes[index].count++;
}

int main(int argc, char **argv) {
    if (argc < 4) return 64;
    int count = atoi(argv[1]), port = atoi(argv[2]), seconds = atoi(argv[3]);
    int is_plain = argc > 4;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    guests = calloc(count, sizeof *guests);
    latencies_max = (long)count * (seconds + 2);
    latencies = calloc(latencies_max, sizeof *latencies);
    int epoll = epoll_create1(0);
    for (int index = 0; index < count; index++) {
        struct guest *guest = &guests[index];
        guest->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (guest->descriptor < 0) fail("socket");
        struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(0x7f010000u + index / 250 * 256 + index % 250 + 1);
        to.sin_addr.s_addr = htonl(0x7f000001);
        to.sin_port = htons(port);
        int one = 1;
        setsockopt(guest->descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (bind(guest->descriptor, (void *)&from, sizeof from)) fail("bind");
        if (connect(guest->descriptor, (void *)&to, sizeof to)) fail("connect");
        fcntl(guest->descriptor, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, guest->descriptor, &event)) fail("epoll_ctl");
    }
    printf("connected\n");
    fflush(stdout);
    // The kernel has taken the connections; the server takes a while longer for so many at once.
    int64_t start = now() + 1000000000, end = start + seconds * 1000000000LL;
    for (int index = 0; index < count; index++) {
        guests[index].due = start + 1000000000LL * index / count;
    }
    int next = 0, open = 0;
    struct epoll_event events[512];
    for (;;) {
        int64_t moment = now();
        if (moment >= end && open == 0) break;
        if (moment > end + 5000000000LL) break;
        while (moment < end) {
            struct guest *guest = &guests[next];
            int64_t due = guest->sent ? guest->sent + 1000000000LL : guest->due;
            if (due > moment) break;
            if (guest->waits) {
                late++;
                guest->sent = due;
            } else {
                guest->due = guest->sent = due;
                send_request(guest, is_plain);
                open++;
            }
            next = (next + 1) % count;
        }
        int ready = epoll_wait(epoll, events, 512, 1);
        for (int index = 0; index < ready; index++) {
            struct guest *guest = &guests[events[index].data.u32];
            int waited = guest->waits;
            take_answer(guest);
            if (waited && !guest->waits) open--;
        }
    }
    for (int index = 0; index < change_count; index++) {
        printf("seen %lld %ld\n", (long long)changes[index].last, changes[index].count);
    }
    long kept = answers < latencies_max ? answers : latencies_max;
    qsort(latencies, kept, sizeof *latencies, compare);
    printf("{\"answers\": %ld, \"unchanged\": %ld, \"errors\": %ld, \"late\": %ld, "
           "\"p50\": %u, \"p99\": %u, \"p999\": %u, \"max\": %u}\n",
        answers, unchanged, errors, late, kept ? latencies[kept / 2] : 0,
        kept ? latencies[kept * 99 / 100] : 0, kept ? latencies[kept * 999 / 1000] : 0,
        kept ? latencies[kept - 1] : 0);
    return 0;
}
