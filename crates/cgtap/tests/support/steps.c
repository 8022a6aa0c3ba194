/* Does what its arguments say, one after the other: events whose numbers a test chooses.
 *
 *   cgroup DIR      goes into the cgroup at DIR
 *   begin KEY       lseek(-1, KEY, 0)
 *   end KEY         lseek(-1, KEY, 1)
 *   take KEY SIZE   lseek(-1, KEY, SIZE + 100)
 *   give KEY        lseek(-1, KEY, 2)
 *   write SIZE N    N writes of SIZE bytes to /dev/null
 *   mark N          getpriority(99, N), which fails
 *   sleep MS
 *   brief DIR COUNT   COUNT cgroups below DIR, one after the other: made, gone into, two writes of
 *                     10 bytes there, left for DIR, removed
 *
 * To each KEY the number in CGTAP_TEST_KEYS is added: meters see the keys of all that runs on the machine,
 * and each test has its own.
 *
 * Prints the monotonic time in nanoseconds before and after each `begin` and `end`, a line each.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long keys;

static void seek(long key, long whence)
{
	syscall(SYS_lseek, -1, keys + key, whence);
}

static int enter(const char *dir)
{
	char path[4096];
	int fd, is_in;

	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	fd = open(path, O_WRONLY);
	is_in = fd >= 0 && write(fd, "0", 1) == 1;
	close(fd);
	return is_in;
}

static int brief(const char *dir, long count, int null)
{
	char path[4096];

	for (long i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/c%ld", dir, i);
		if (mkdir(path, 0755) || !enter(path))
			return 0;
		for (int call = 0; call < 2; call++)
			if (write(null, "0123456789", 10) != 10)
				return 0;
		if (!enter(dir) || rmdir(path))
			return 0;
	}
	return 1;
}

int main(int argc, char **argv)
{
	static char bytes[1 << 20];
	int null = open("/dev/null", O_WRONLY);
	const char *first = getenv("CGTAP_TEST_KEYS");

	keys = first ? atol(first) : 0;
	for (int i = 1; i < argc; i++) {
		const char *step = argv[i];
		long one = i + 1 < argc ? atol(argv[i + 1]) : 0;

		if (!strcmp(step, "cgroup")) {
			if (!enter(argv[++i]))
				return 1;
			continue;
		}
		if (!strcmp(step, "brief")) {
			const char *dir = argv[++i];

			if (!brief(dir, atol(argv[++i]), null))
				return 1;
			continue;
		}
		i++;
		if (!strcmp(step, "begin") || !strcmp(step, "end")) {
			long long before = now();

			seek(one, !strcmp(step, "end"));
			printf("%lld %lld\n", before, now());
		} else if (!strcmp(step, "take")) {
			seek(one, atol(argv[++i]) + 100);
		} else if (!strcmp(step, "give")) {
			seek(one, 2);
		} else if (!strcmp(step, "write")) {
			long count = atol(argv[++i]);

			while (count--)
				if (write(null, bytes, one) != one)
					return 1;
		} else if (!strcmp(step, "mark")) {
			syscall(SYS_getpriority, 99, one);
		} else if (!strcmp(step, "sleep")) {
			usleep(one * 1000);
		} else {
			return 2;
		}
	}
	return 0;
}
