/* The workload of the benchmark: its first act is to read the clock, its second to append the reading to a file.
 * CLOCK_MONOTONIC is the same inside and outside of a container. Ends at SIGTERM, which init would otherwise ignore. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static void leave(int signal) {
    (void)signal;
    _exit(0);
}

int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    signal(SIGTERM, leave);
    if (argc != 2) {
        return 2;
    }
    char line[32];
    int length = snprintf(line, sizeof line, "%lld\n", (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
    int file = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0 || write(file, line, length) != length) {
        return 1;
    }
    close(file);
    for (;;) {
        pause();
    }
}
