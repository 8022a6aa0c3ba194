/* What an event is to the tests, as a library, so that every program that makes events makes them
 * at one place in one file: that is what a uprobe stands at.
 *
 * An event is a call of getppid; where the kind of hook that is tested (CGTAP_TEST_HOOK) sees no
 * system call of that name, it is also what that kind sees, once:
 *   fentry, fexit, fmod_ret, lsm   getsid of the process itself, which calls security_task_getsid()
 *   perf_event                     a fault at EVENT_PAGE, where nothing else is
 *   cgroup                         an open of /dev/null, allowed or not
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EVENT_PAGE ((void *)0x7e0000000000)

static char *page;
static int pid;
static int opens;

static __attribute__((constructor)) void prepare(void)
{
	const char *kind = getenv("CGTAP_TEST_HOOK");

	if (!kind)
		return;
	if (strstr("fentry fexit fmod_ret lsm", kind))
		pid = getpid();
	opens = !strcmp(kind, "cgroup");
	if (!strcmp(kind, "perf_event")) {
		page = mmap(EVENT_PAGE, getpagesize(), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (page != EVENT_PAGE)
			abort();
	}
}

__attribute__((noinline, visibility("default"))) int event(void)
{
	syscall(SYS_getppid);
	if (pid)
		syscall(SYS_getsid, pid);
	if (page) {
		madvise(page, getpagesize(), MADV_DONTNEED);
		*(volatile char *)page = 1;
	}
	if (opens)
		close(open("/dev/null", O_RDONLY));
	return 0;
}
