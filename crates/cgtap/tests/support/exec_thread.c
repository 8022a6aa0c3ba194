/* exec by a thread that is not the first of its process: it gets the first one's pid, and keeps what the kernel
 * counted of it.
 *
 *   exec_thread CGROUP AHEAD
 *
 * Goes into CGROUP. The first thread competes with a child for one CPU, so that it waits much; the second one sleeps until it
 * had AHEAD turns more than the first one, and calls exec. What begins then sleeps a few times.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static pid_t first;
static const char *self;
static long ahead;

static long turns(pid_t tid)
{
	char path[64];
	unsigned long long ran, waited;
	long count = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", tid);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%llu %llu %ld", &ran, &waited, &count) != 3)
		exit(1);
	fclose(f);
	return count;
}

static void *second(void *unused)
{
	pid_t own = syscall(SYS_gettid);

	(void)unused;
	usleep(20000);
	while (turns(own) < turns(first) + ahead)
		usleep(100);
	execl(self, self, "rest", (char *)NULL);
	exit(1);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	cpu_set_t one;
	pthread_t thread;
	double end;
	pid_t child;
	int fd;

	if (argc == 2) {
		for (int i = 0; i < 20; i++)
			usleep(1000);
		return 0;
	}
	if (argc != 3)
		return 2;
	self = argv[0];
	ahead = atol(argv[2]);
	fd = open(argv[1], O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1)
		return 1;
	close(fd);
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		return 1;
	first = getpid();
	child = fork();
	if (!child)
		for (;;)
			;
	end = seconds() + 0.1;
	while (seconds() < end)
		;
	kill(child, SIGKILL);
	if (pthread_create(&thread, NULL, second, NULL))
		return 1;
	for (;;)
		pause();
}
