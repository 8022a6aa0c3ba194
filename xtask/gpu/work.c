/*
 * Work on an NVIDIA GPU whose amount is known: CGROUP.PROCS BYTES LAUNCHES LENGTH_US PAUSE_US
 *
 * It enters the cgroup, allocates BYTES, and LAUNCHES times copies 64 KiB there and runs a kernel that
 * lasts LENGTH_US by the GPU's own clock, with pauses between. Then it prints what it did, its time by
 * CUDA's own events, and stays until its standard input ends. The library is loaded as programs with a
 * CUDA runtime do it; the kernel is PTX that the driver compiles, so that nothing of CUDA's is needed to
 * build this. It exits with 77 where there is no library or no GPU.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long ptr;

enum { COPY_BYTES = 64 << 10, NOTHING_HERE = 77 };

static const char kernel[] =
	".version 6.0\n.target sm_50\n.address_size 64\n"
	".visible .entry spin(.param .u64 length_ns)\n{\n"
	".reg .u64 %a<4>;\n.reg .pred %p;\n"
	"ld.param.u64 %a0, [length_ns];\n"
	"mov.u64 %a1, %globaltimer;\n"
	"again:\n"
	"mov.u64 %a2, %globaltimer;\n"
	"sub.u64 %a3, %a2, %a1;\n"
	"setp.lt.u64 %p, %a3, %a0;\n"
	"@%p bra again;\n"
	"ret;\n}\n";

static void *library;

static void *function(const char *name)
{
	void *found = dlsym(library, name);

	if (!found) {
		fprintf(stderr, "libcuda.so.1 has no %s\n", name);
		exit(3);
	}
	return found;
}

static void done(const char *what, int error)
{
	if (!error)
		return;
	fprintf(stderr, "%s: CUDA error %d\n", what, error);
	exit(4);
}

#define CALL(name, ...) done(#name, ((int (*)())function(#name))(__VA_ARGS__))

int main(int argc, char **argv)
{
	void *context, *module, *spin, *begin, *end;
	unsigned long bytes, launches, pause_us;
	unsigned long long length_ns;
	void *arguments[] = { &length_ns };
	char *source, byte;
	double worked_ms = 0;
	float ms;
	ptr memory;
	int fd, device, count = 0;

	if (argc != 6)
		return 2;
	fd = open(argv[1], O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1) {
		perror(argv[1]);
		return 1;
	}
	bytes = strtoul(argv[2], 0, 10);
	launches = strtoul(argv[3], 0, 10);
	length_ns = strtoull(argv[4], 0, 10) * 1000;
	pause_us = strtoul(argv[5], 0, 10);
	library = dlopen("libcuda.so.1", RTLD_NOW);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return NOTHING_HERE;
	}
	if (((int (*)(unsigned))function("cuInit"))(0) ||
	    ((int (*)(int *))function("cuDeviceGetCount"))(&count) || !count) {
		fprintf(stderr, "libcuda.so.1 finds no GPU\n");
		return NOTHING_HERE;
	}
	CALL(cuDeviceGet, &device, 0);
	CALL(cuCtxCreate_v2, &context, 0u, device);
	CALL(cuModuleLoadData, &module, kernel);
	CALL(cuModuleGetFunction, &spin, module, "spin");
	CALL(cuEventCreate, &begin, 0u);
	CALL(cuEventCreate, &end, 0u);
	CALL(cuMemAlloc_v2, &memory, bytes);
	source = calloc(1, COPY_BYTES);
	for (unsigned long i = 0; i < launches; i++) {
		CALL(cuMemcpyHtoD_v2, memory, source, (unsigned long)COPY_BYTES);
		CALL(cuEventRecord, begin, (void *)0);
		done("cuLaunchKernel",
		     ((int (*)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,
			       void **, void **))function("cuLaunchKernel"))(spin, 1, 1, 1, 1, 1, 1, 0, 0,
									     arguments, 0));
		CALL(cuEventRecord, end, (void *)0);
		CALL(cuEventSynchronize, end);
		CALL(cuEventElapsedTime, &ms, begin, end);
		worked_ms += ms;
		usleep(pause_us);
	}
	printf("{\"busy_ns\":%.0f,\"launches\":%lu,\"copied_bytes\":%lu,\"allocated_bytes\":%lu}\n",
	       worked_ms * 1e6, launches, launches * COPY_BYTES, bytes);
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}
