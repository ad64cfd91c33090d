/* Preloaded into Postgres: each flush to the disk waits first, as on a disk that is busy.
 *
 * How long is read at every call from the file that FSYNC_DELAY_FILE names, in
 * microseconds, so that it can be changed while Postgres runs. The flush itself is
 * always done. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const long MAX_DELAY_US = 5000000;

static void wait_first(void)
{
    const char *path = getenv("FSYNC_DELAY_FILE");
    char text[16] = {0};
    int before = errno;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        ssize_t length = read(file, text, sizeof text - 1);
        close(file);
        long delay_us = length > 0 ? atol(text) : 0;
        if (delay_us > MAX_DELAY_US)
            delay_us = MAX_DELAY_US;
        struct timespec left = {delay_us / 1000000, delay_us % 1000000 * 1000};
        while (delay_us > 0 && nanosleep(&left, &left) != 0 && errno == EINTR)
            ;
    }
    errno = before;
}

int fsync(int file)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_first();
    return real(file);
}

int fdatasync(int file)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_first();
    return real(file);
}
