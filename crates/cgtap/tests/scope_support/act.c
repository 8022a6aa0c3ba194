/* What the tests of scopes do in a cgroup.
 *
 *   sleep PROCS COUNT          short sleeps, until it has left its CPU in COUNT of them
 *   signal PROCS PID COUNT     COUNT signals to a process, which ignores them
 *   queue PROCS PID VALUE COUNT  the same with values, from VALUE on
 *   puppet PROCS               renames itself for each byte of stdin, and answers with one
 *   wait PROCS                 says `ready` and waits for the end of stdin
 *   serve PROCS COUNT          prints a TCP port; takes COUNT connections there to their end
 *   connect PROCS PORT COUNT   makes COUNT connections there, one after the other
 *   echo PROCS COUNT           writes COUNT bytes to a terminal and waits for the echo of each
 *   read PROCS FILE COUNT      reads COUNT blocks of a file around the page cache
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static void check(int bad, const char *what)
{
	if (bad) {
		perror(what);
		exit(1);
	}
}

static void enter(const char *procs)
{
	char pid[32];
	int fd = open(procs, O_WRONLY);

	check(fd < 0, procs);
	check(write(fd, pid, sprintf(pid, "%d", getpid())) < 0, procs);
	close(fd);
}

static void queue(int pid, int first, unsigned long count)
{
	union sigval value;
	unsigned long at;

	for (at = 0; at < count; at++) {
		value.sival_int = first + at;
		check(sigqueue(pid, SIGURG, value), "sigqueue");
	}
}

static void puppet(void)
{
	char byte;

	puts("ready");
	fflush(stdout);
	while (read(0, &byte, 1) > 0) {
		prctl(PR_SET_NAME, "puppet");
		check(write(1, ".\n", 2) != 2, "answer");
	}
}

static void serve(unsigned long count)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0), one;
	char byte;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	check(fd < 0 || bind(fd, (void *)&address, length) || listen(fd, 64), "listen");
	check(getsockname(fd, (void *)&address, &length), "getsockname");
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	while (count--) {
		one = accept(fd, NULL, NULL);
		check(one < 0, "accept");
		while (read(one, &byte, 1) > 0)
			;
		close(one);
	}
}

static void connect_to(int port, unsigned long count)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	char byte;
	int fd;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	while (count--) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		check(fd < 0 || connect(fd, (void *)&address, sizeof(address)), "connect");
		shutdown(fd, SHUT_WR);
		while (read(fd, &byte, 1) > 0)
			;
		close(fd);
	}
}

static void echo(unsigned long count)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
	struct termios mode;
	char byte;

	check(master < 0 || grantpt(master) || unlockpt(master), "pty");
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	check(slave < 0 || tcgetattr(slave, &mode), "slave");
	cfmakeraw(&mode);
	check(tcsetattr(slave, TCSANOW, &mode), "raw");
	while (count--) {
		check(write(master, "x", 1) != 1, "write");
		check(read(slave, &byte, 1) != 1, "read");
	}
}

static void read_file(const char *path, unsigned long count)
{
	int fd = open(path, O_RDONLY | O_DIRECT);
	unsigned long at;
	void *block;

	check(fd < 0 || posix_memalign(&block, 4096, 4096), path);
	for (at = 0; at < count; at++)
		check(pread(fd, block, 4096, at * 4096) != 4096, "pread");
}

/* How often it has left its CPU of its own accord. */
static unsigned long left_cpu(void)
{
	struct rusage usage;

	check(getrusage(RUSAGE_SELF, &usage), "getrusage");
	return usage.ru_nvcsw;
}

int main(int argc, char **argv)
{
	struct timespec moment = { .tv_nsec = 1000 };
	unsigned long count, at;
	char byte;

	if (argc < 3)
		return 2;
	signal(SIGURG, SIG_IGN);
	enter(argv[2]);
	count = strtoul(argv[argc - 1], NULL, 0);
	if (!strcmp(argv[1], "sleep"))
		/* On a busy machine the timer fires before the task is off its CPU, and it stays. */
		for (count += left_cpu(); left_cpu() < count;)
			nanosleep(&moment, NULL);
	else if (!strcmp(argv[1], "signal"))
		for (at = 0; at < count; at++)
			check(kill(atoi(argv[3]), SIGURG), "kill");
	else if (!strcmp(argv[1], "queue"))
		queue(atoi(argv[3]), atoi(argv[4]), count);
	else if (!strcmp(argv[1], "puppet"))
		puppet();
	else if (!strcmp(argv[1], "wait")) {
		puts("ready");
		fflush(stdout);
		while (read(0, &byte, 1) > 0)
			;
	} else if (!strcmp(argv[1], "serve"))
		serve(count);
	else if (!strcmp(argv[1], "connect"))
		connect_to(atoi(argv[3]), count);
	else if (!strcmp(argv[1], "echo"))
		echo(count);
	else if (!strcmp(argv[1], "read"))
		read_file(argv[3], count);
	else
		return 2;
	return 0;
}
