/* Kills the process just before its nth fsync or fdatasync, n = $DIE_AT_SYNC, over all threads. */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_int syncs;

static void perhaps_die(void)
{
    const char *n = getenv("DIE_AT_SYNC");
    if (n && atomic_fetch_add(&syncs, 1) + 1 == atoi(n))
        kill(getpid(), SIGKILL);
}

int fsync(int fd)
{
    perhaps_die();
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    perhaps_die();
    return syscall(SYS_fdatasync, fd);
}
