/* Makes getppid calls in cgroups, and says exactly how many in each.
 *
 *   load run CPU PROCS            in one cgroup, until stdin ends
 *   load move CPU EVENTS PROCS... EVENTS in one after the other, round and round, until stdin ends
 *   load births COUNT EVENTS DIR  COUNT cgroups below DIR are made, entered for EVENTS calls, left
 *                                 and removed
 *   load threads EVENTS PROCS THREADS...  enters PROCS; then a thread in each of THREADS makes
 *                                 EVENTS calls, all at once
 *
 * Says `ready` once it is in the (first) cgroup, waits for a byte, and prints its counts at the
 * end, one a cgroup. CPU -1 is any.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 256

static unsigned long counts[MOST];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void enter(const char *path, int id)
{
	char text[32];
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, sprintf(text, "%d", id)) < 0)
		die(path);
	close(fd);
}

static void call(unsigned long count)
{
	while (count--)
		syscall(SYS_getppid);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (cpu >= 0)
		sched_setaffinity(0, sizeof(set), &set);
}

static void ready(void)
{
	char byte;

	puts("ready");
	fflush(stdout);
	if (read(0, &byte, 1) != 1)
		exit(0);
}

static int goes_on(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };

	return poll(&in, 1, 0) == 0;
}

struct one {
	const char *threads;
	unsigned long events;
	pthread_barrier_t *barrier;
};

static void *thread(void *arg)
{
	struct one *one = arg;

	enter(one->threads, syscall(SYS_gettid));
	pthread_barrier_wait(one->barrier);
	call(one->events);
	return NULL;
}

int main(int argc, char **argv)
{
	int at, last = 1;

	if (argc < 4)
		return 2;
	if (!strcmp(argv[1], "run")) {
		enter(argv[3], getpid());
		pin(atoi(argv[2]));
		ready();
		for (; goes_on(); counts[0] += 64)
			call(64);
	} else if (!strcmp(argv[1], "move")) {
		unsigned long events = strtoul(argv[3], NULL, 0);

		last = argc - 4;
		enter(argv[4], getpid());
		pin(atoi(argv[2]));
		ready();
		while (goes_on())
			for (at = 0; at < last; at++) {
				enter(argv[4 + at], getpid());
				call(events);
				counts[at] += events;
			}
	} else if (!strcmp(argv[1], "births")) {
		unsigned long count = strtoul(argv[2], NULL, 0), events = strtoul(argv[3], NULL, 0);
		char dir[512], home[512], path[600];

		snprintf(home, sizeof(home), "%s/cgroup.procs", argv[4]);
		enter(home, getpid());
		ready();
		while (count--) {
			snprintf(dir, sizeof(dir), "%s/born-%d-%lu", argv[4], getpid(), count);
			snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
			if (mkdir(dir, 0755))
				die(dir);
			enter(path, getpid());
			call(events);
			enter(home, getpid());
			if (rmdir(dir))
				die(dir);
			counts[0] += events;
		}
	} else if (!strcmp(argv[1], "threads")) {
		struct one ones[MOST];
		pthread_t ids[MOST];
		pthread_barrier_t barrier;

		last = argc - 4;
		enter(argv[3], getpid());
		ready();
		pthread_barrier_init(&barrier, NULL, last);
		for (at = 0; at < last; at++) {
			ones[at].threads = argv[4 + at];
			ones[at].events = strtoul(argv[2], NULL, 0);
			ones[at].barrier = &barrier;
			if (pthread_create(&ids[at], NULL, thread, &ones[at]))
				die("pthread_create");
		}
		for (at = 0; at < last; at++) {
			pthread_join(ids[at], NULL);
			counts[at] = ones[at].events;
		}
	}
	for (at = 0; at < last; at++)
		printf("%lu ", counts[at]);
	puts("");
	return 0;
}
