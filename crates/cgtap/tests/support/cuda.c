/* With -DLIBRARY: functions of the names and arguments of CUDA's driver API that do nothing. Without:
 * a client that calls them: CGROUP.PROCS ROUNDS [WAIT]. With WAIT it says that it is there and waits for
 * a byte before the rounds. CGROUP.PROCS may be - for the cgroup that it is in. */
typedef unsigned long long ptr;

#ifdef LIBRARY
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
		   unsigned bz, unsigned shared, void *stream, void **params, void **extra)
{
	return 0;
}

int cuGraphLaunch(void *graph, void *stream) { return 0; }
int cuMemcpyHtoD_v2(ptr to, const void *from, unsigned long bytes) { return 0; }
int cuMemcpyDtoH_v2(void *to, ptr from, unsigned long bytes) { return 0; }
int cuMemcpyDtoD_v2(ptr to, ptr from, unsigned long bytes) { return 0; }
int cuMemAlloc_v2(ptr *out, unsigned long bytes) { return 0; }
#else
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
		   unsigned bz, unsigned shared, void *stream, void **params, void **extra);
int cuGraphLaunch(void *graph, void *stream);
int cuMemcpyHtoD_v2(ptr to, const void *from, unsigned long bytes);
int cuMemcpyDtoH_v2(void *to, ptr from, unsigned long bytes);
int cuMemcpyDtoD_v2(ptr to, ptr from, unsigned long bytes);
int cuMemAlloc_v2(ptr *out, unsigned long bytes);

int main(int argc, char **argv)
{
	char byte = '.';

	if (argv[1][0] != '-') {
		int fd = open(argv[1], O_WRONLY);

		if (fd < 0 || write(fd, "0", 1) != 1)
			return 1;
	}
	if (argc > 3 && (write(1, &byte, 1) != 1 || read(0, &byte, 1) != 1))
		return 1;
	for (int round = atoi(argv[2]); round > 0; round--) {
		cuMemAlloc_v2(0, 4096);
		cuMemcpyHtoD_v2(0, 0, 1000);
		cuLaunchKernel(0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0);
		cuLaunchKernel(0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0);
		cuGraphLaunch(0, 0);
		cuMemcpyDtoD_v2(0, 0, 250);
		cuMemcpyDtoH_v2(0, 0, 500);
	}
	return 0;
}
#endif
