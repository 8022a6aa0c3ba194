/* Submits jobs to the GPU that is not there: COUNT jobs of LENGTH microseconds each, then waits for
 * them and prints for how many nanoseconds the engine worked on them. With `ever` for COUNT it goes on
 * with one job after the other. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
	unsigned long long worked = 0;
	int fd = open("/dev/simgpu", O_RDWR);

	if (argc != 3 || fd < 0)
		return 1;
	while (!strcmp(argv[1], "ever"))
		if (ioctl(fd, _IOW('g', 1, unsigned long), strtoul(argv[2], 0, 10)) || ioctl(fd, _IO('g', 2)))
			return 4;
	for (int i = atoi(argv[1]); i > 0; i--)
		if (ioctl(fd, _IOW('g', 1, unsigned long), strtoul(argv[2], 0, 10)))
			return 2;
	if (ioctl(fd, _IO('g', 2)) || ioctl(fd, _IOR('g', 3, unsigned long), &worked))
		return 3;
	printf("%llu\n", worked);
	return 0;
}
