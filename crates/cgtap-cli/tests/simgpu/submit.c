/* Submits jobs to the GPU that is not there: COUNT jobs of LENGTH microseconds each, then waits for
 * them and prints for how many nanoseconds the engine worked on them. With `ever` for COUNT it goes on
 * with one job after the other. With BYTES it holds so much of its memory, and stays until its standard
 * input ends; if it may not have them, it prints the negative errno of that instead. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	unsigned long long worked = 0;
	int fd = open("/dev/simgpu", O_RDWR);
	char end;

	if (argc < 3 || argc > 4 || fd < 0)
		return 1;
	while (!strcmp(argv[1], "ever"))
		if (ioctl(fd, _IOW('g', 1, unsigned long), strtoul(argv[2], 0, 10)) || ioctl(fd, _IO('g', 2)))
			return 4;
	if (argc == 4 && ioctl(fd, _IOW('d', 0x40, unsigned long), strtoul(argv[3], 0, 10))) {
		printf("%d\n", -errno);
		return 5;
	}
	for (int i = atoi(argv[1]); i > 0; i--)
		if (ioctl(fd, _IOW('g', 1, unsigned long), strtoul(argv[2], 0, 10)))
			return 2;
	if (ioctl(fd, _IO('g', 2)) || ioctl(fd, _IOR('g', 3, unsigned long), &worked))
		return 3;
	printf("%llu\n", worked);
	fflush(stdout);
	while (argc == 4 && read(0, &end, 1) > 0)
		;
	return 0;
}
