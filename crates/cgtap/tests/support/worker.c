/* Does a known number of things in a cgroup.
 *
 *   worker CGROUP_PROCS ACTION COUNT [SECONDS]
 *
 * Moves itself into the cgroup first, and says `ready` on stdout; does nothing more until it
 * reads a byte (or the end) on stdin. Actions:
 *   getppid  COUNT events (event.c), each with one call of getppid
 *   forever  events until SECONDS are over or it is killed; prints how many
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int event(void);

static volatile unsigned long done;

int main(int argc, char **argv)
{
	char byte, pid[32];
	unsigned long count, at;
	time_t end;
	int fd;

	if (argc < 4)
		return 2;
	fd = open(argv[1], O_WRONLY);
	if (fd < 0 || write(fd, pid, sprintf(pid, "%d", getpid())) < 0) {
		perror(argv[1]);
		return 1;
	}
	close(fd);
	puts("ready");
	fflush(stdout);
	if (read(0, &byte, 1) < 0)
		return 1;
	count = strtoul(argv[3], NULL, 0);
	if (!strcmp(argv[2], "getppid")) {
		for (at = 0; at < count; at++)
			event();
	} else {
		end = time(NULL) + (argc > 4 ? atoi(argv[4]) : 600);
		while (time(NULL) < end)
			for (at = 0; at < 1000; at++, done++)
				event();
	}
	printf("%lu\n", count ? count : done);
	return 0;
}
