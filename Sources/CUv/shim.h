// libuv and the few Linux calls that Swift cannot make by itself: variadic functions (ioctl,
// syscall), a function with the name of a struct (flock), and calls glibc 2.36 does not declare
// without feature macros.
#ifndef FERMATA_CUV_SHIM_H
#define FERMATA_CUV_SHIM_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include <linux/if_tun.h>

// Every function below returns a negative errno on failure, as libuv does.

static inline int fermata_result(long value) { return value < 0 ? -errno : (int)value; }

// Bytes of a TCP socket that the peer has not acknowledged.
static inline int fermata_unacknowledged(int descriptor) {
    int count = 0;
    return ioctl(descriptor, TIOCOUTQ, &count) < 0 ? -errno : count;
}

// The numbers are the same on every architecture that has these calls.
static inline int fermata_pidfd_open(int pid) { return fermata_result(syscall(434, pid, 0)); }

static inline int fermata_pidfd_send_signal(int pidfd, int signal) {
    return fermata_result(syscall(424, pidfd, signal, (void *)0, 0));
}

// The new descriptor has FD_CLOEXEC set by the kernel.
static inline int fermata_pidfd_getfd(int pidfd, int descriptor) {
    return fermata_result(syscall(438, pidfd, descriptor, 0));
}

// Marks every descriptor from `first` on as close-on-exec: close_range with
// CLOSE_RANGE_CLOEXEC (Linux 5.11), or one by one on older kernels.
static inline int fermata_close_on_exec_from(unsigned int first) {
    if (syscall(436, first, ~0U, 4U) == 0) return 0;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) return -errno;
    struct dirent *entry;
    while ((entry = readdir(directory)) != 0) {
        unsigned int descriptor = 0;
        const char *digit = entry->d_name;
        if (*digit < '0' || *digit > '9') continue;
        while (*digit >= '0' && *digit <= '9') descriptor = descriptor * 10 + (*digit++ - '0');
        if (descriptor >= first) fcntl((int)descriptor, F_SETFD, FD_CLOEXEC);
    }
    closedir(directory);
    return 0;
}

// MFD_CLOEXEC; the call has its own number on each architecture.
static inline int fermata_memory_file(void) {
    return fermata_result(syscall(SYS_memfd_create, "fermata", 1U));
}

static inline int fermata_lock_exclusive(int descriptor) {
    return fermata_result(flock(descriptor, LOCK_EX | LOCK_NB));
}

static inline int fermata_unlock(int descriptor) {
    return fermata_result(flock(descriptor, LOCK_UN));
}

static inline int fermata_set_close_on_exec(int descriptor, int on) {
    return fcntl(descriptor, F_SETFD, on ? FD_CLOEXEC : 0);
}

static inline int fermata_duplicate(int descriptor) {
    return fermata_result(fcntl(descriptor, F_DUPFD_CLOEXEC, 3));
}

static inline int fermata_socket_pair(int *first, int *second) {
    int both[2];
    int result = fermata_result(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both));
    if (result == 0) {
        *first = both[0];
        *second = both[1];
    }
    return result;
}

// AF_INET, AF_UNIX, … of a socket.
static inline int fermata_socket_family(int descriptor) {
    struct sockaddr_storage address;
    socklen_t byte_count = sizeof address;
    int result = fermata_result(getsockname(descriptor, (struct sockaddr *)&address, &byte_count));
    return result < 0 ? result : address.ss_family;
}

// Whether some process listens on the Unix socket at `path`: 1 or 0.
// Never blocks: a full backlog answers EAGAIN, which also means that it is in use.
static inline int fermata_unix_socket_is_served(const char *path) {
    struct sockaddr_un address;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0) return 1;
    int result = connect(descriptor, (struct sockaddr *)&address, sizeof address);
    int served = result == 0 || errno != ECONNREFUSED;
    close(descriptor);
    return served;
}

static inline int fermata_tap_open_queue(const char *name) {
    int descriptor = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return -errno;
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE;
    if (ioctl(descriptor, TUNSETIFF, &request) < 0) {
        int result = -errno;
        close(descriptor);
        return result;
    }
    return descriptor;
}

static inline int fermata_tap_set_attached(int descriptor, int attached) {
    struct ifreq request;
    memset(&request, 0, sizeof request);
    request.ifr_flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
    return fermata_result(ioctl(descriptor, TUNSETQUEUE, &request));
}

#endif
