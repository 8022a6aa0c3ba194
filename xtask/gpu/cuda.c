/*
 * A library with CUDA's driver API's name and the part of its functions that work.c calls, so that the check
 * itself can be tried where there is no GPU. It is not NVIDIA's: a kernel is a sleep, and what the stand-in
 * for NVML (crates/cgtap-cli/tests/nvidia/nvml.c) is to tell of this process, it writes down.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long ptr;

static unsigned long held;
static double worked_us, sampled_worked_us, sampled_us;

static double now_us(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

/* A sample of the time since the last one, if that was long enough ago. */
static void sample(void)
{
	double now = now_us(CLOCK_REALTIME), share;
	char path[4096], next[4096];
	FILE *file;

	if (now - sampled_us < 200e3)
		return;
	share = (worked_us - sampled_worked_us) / (now - sampled_us) * 100;
	snprintf(path, sizeof(path), "%s/%d", getenv("CGTAP_STAND_IN"), getpid());
	snprintf(next, sizeof(next), "%s/next", getenv("CGTAP_STAND_IN"));
	file = fopen(next, "w");
	if (!file)
		return;
	fprintf(file, "%lu %.0f %.0f\n", held, share, now);
	fclose(file);
	rename(next, path);
	sampled_us = now;
	sampled_worked_us = worked_us;
}

int cuInit(unsigned flags)
{
	sampled_us = now_us(CLOCK_REALTIME);
	return 0;
}

int cuDeviceGetCount(int *count)
{
	*count = 1;
	return 0;
}

int cuDeviceGet(int *device, int ordinal) { return *device = 0; }
int cuCtxCreate_v2(void **context, unsigned flags, int device) { return 0; }
int cuModuleLoadData(void **module, const void *image) { return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { return 0; }

int cuMemAlloc_v2(ptr *memory, unsigned long bytes)
{
	held += bytes;
	return 0;
}

int cuMemcpyHtoD_v2(ptr to, const void *from, unsigned long bytes) { return 0; }
int cuMemcpyDtoH_v2(void *to, ptr from, unsigned long bytes) { return 0; }
int cuMemcpyDtoD_v2(ptr to, ptr from, unsigned long bytes) { return 0; }
int cuGraphLaunch(void *graph, void *stream) { return 0; }

int cuEventCreate(void **event, unsigned flags)
{
	*event = malloc(sizeof(double));
	return 0;
}

int cuEventRecord(void *event, void *stream)
{
	*(double *)event = now_us(CLOCK_MONOTONIC);
	return 0;
}

int cuEventSynchronize(void *event) { return 0; }

int cuEventElapsedTime(float *ms, void *begin, void *end)
{
	*ms = (*(double *)end - *(double *)begin) / 1e3;
	return 0;
}

int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
		   unsigned shared, void *stream, void **arguments, void **extra)
{
	double began = now_us(CLOCK_MONOTONIC);

	usleep(*(unsigned long long *)arguments[0] / 1000);
	worked_us += now_us(CLOCK_MONOTONIC) - began;
	sample();
	return 0;
}
