/*
 * A library with NVML's name and a part of its functions, made for tests. It is not NVIDIA's and knows no
 * GPU: what it tells stands in the files of the directory CGTAP_STAND_IN, one a process, named by its id:
 *
 *     BYTES UTILISATION MICROSECONDS
 *
 * memory that it has, its sample of utilisation in parts of a hundred, and when that was taken (since 1970);
 * 0: whenever it is asked, and the latest of such moments then stands in the file `told`.
 * With a file `mig` there the one GPU that it has is split up. Structures and numbers are those of nvml.h.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS, UNINITIALIZED, INVALID, NOT_SUPPORTED, NOT_FOUND = 6, TOO_SMALL = 7 };

struct pci_info {
	char bus_id_legacy[16];
	unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
	char bus_id[32];
};

struct process_info {
	unsigned int pid;
	unsigned long long bytes;
	unsigned int gpu_instance, compute_instance;
};

struct sample {
	unsigned int pid;
	unsigned long long at_us;
	unsigned int sm, memory, encoder, decoder;
};

struct process {
	unsigned int pid, utilisation;
	unsigned long long bytes, at_us;
};

static int is_begun;

int nvmlInit_v2(void)
{
	is_begun = 1;
	return getenv("CGTAP_STAND_IN") ? SUCCESS : UNINITIALIZED;
}

int nvmlShutdown(void)
{
	is_begun = 0;
	return SUCCESS;
}

const char *nvmlErrorString(int error)
{
	return error ? "an error of the stand-in" : "success";
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
	*count = 1;
	return is_begun ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device)
{
	*device = &is_begun;
	return index ? INVALID : SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(void *device, struct pci_info *info)
{
	memset(info, 0, sizeof(*info));
	strcpy(info->bus_id_legacy, "0000:3B:00.0");
	strcpy(info->bus_id, "00000000:3B:00.0");
	info->bus = 0x3b;
	return SUCCESS;
}

static int is_mig(void)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/mig", getenv("CGTAP_STAND_IN"));
	return !access(path, F_OK);
}

int nvmlDeviceGetMigMode(void *device, unsigned int *current, unsigned int *pending)
{
	*current = *pending = is_mig();
	return SUCCESS;
}

static unsigned int processes(struct process *all, unsigned int most)
{
	DIR *dir = opendir(getenv("CGTAP_STAND_IN"));
	struct dirent *entry;
	unsigned int count = 0;
	char path[4096];
	FILE *file;

	while (dir && count < most && (entry = readdir(dir))) {
		struct process *next = &all[count];

		next->pid = atoi(entry->d_name);
		snprintf(path, sizeof(path), "%s/%s", getenv("CGTAP_STAND_IN"), entry->d_name);
		file = next->pid ? fopen(path, "r") : NULL;
		if (!file)
			continue;
		if (fscanf(file, "%llu %u %llu", &next->bytes, &next->utilisation, &next->at_us) == 3)
			count++;
		fclose(file);
	}
	if (dir)
		closedir(dir);
	return count;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, struct process_info *infos)
{
	struct process all[64];
	unsigned int room = *count, there = processes(all, 64);

	*count = there;
	if (room < there)
		return TOO_SMALL;
	for (unsigned int i = 0; i < there; i++)
		infos[i] = (struct process_info){ all[i].pid, all[i].bytes, ~0u, ~0u };
	return SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *count, struct process_info *infos)
{
	return NOT_SUPPORTED;
}

static unsigned long long now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

static void write_told(unsigned long long at_us)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s/told", getenv("CGTAP_STAND_IN"));
	file = fopen(path, "w");
	if (!file)
		return;
	fprintf(file, "%llu", at_us);
	fclose(file);
}

int nvmlDeviceGetProcessUtilization(void *device, struct sample *samples, unsigned int *count,
				    unsigned long long since_us)
{
	struct process all[64];
	unsigned int room = *count, there = processes(all, 64), found = 0;
	unsigned long long now = now_us(), newest = 0;

	if (is_mig())
		return NOT_SUPPORTED;
	for (unsigned int i = 0; i < there; i++) {
		int is_now = !all[i].at_us;

		if (is_now)
			all[i].at_us = now;
		if (all[i].at_us <= since_us || !all[i].utilisation)
			continue;
		all[found++] = all[i];
		if (is_now)
			newest = now;
	}
	*count = found;
	if (!found)
		return NOT_FOUND;
	if (room < found)
		return TOO_SMALL;
	if (newest)
		write_told(newest);
	for (unsigned int i = 0; i < found; i++)
		samples[i] = (struct sample){ all[i].pid, all[i].at_us, all[i].utilisation, 1, 0, 0 };
	return SUCCESS;
}
