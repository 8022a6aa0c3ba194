/* What the tests of the rules do in a cgroup, besides making a number of events (event.c).
 *
 *   hop PROCS COUNT [PROCS COUNT]...   moves itself from cgroup to cgroup and makes events
 *   perf PROCS ID COUNT                counts and samples its own COUNT calls of getppid at the
 *                                      tracepoint with this tracefs id: prints both figures
 *   finish PROCS COUNT                 test-runs an empty socket filter, which passes the
 *                                      writable tracepoint bpf_test_finish: prints each errno
 *   libc PROCS COUNT                   calls libc's getpid
 *   read PROCS COUNT                   reads from /dev/zero
 *   ask PROCS COUNT                    asks for its own session COUNT times, which security hooks
 *                                      and security_task_getsid() decide: prints `right`, another
 *                                      answer, or the errno with a minus
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int event(void);

static int enter(const char *procs)
{
	int fd = open(procs, O_WRONLY);
	char pid[32];

	if (fd < 0 || write(fd, pid, sprintf(pid, "%d", getpid())) < 0) {
		perror(procs);
		return -1;
	}
	return close(fd);
}

static void call(unsigned long count)
{
	while (count--)
		event();
}

static int perf(const char *id, unsigned long count)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.config = strtoull(id, NULL, 0),
		.sample_period = 1,
	};
	size_t ring = 256 * getpagesize(), at;
	struct perf_event_mmap_page *head;
	unsigned long counted, samples = 0;
	char *data;
	int fd;

	fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	if (fd < 0)
		return -1;
	head = mmap(NULL, ring + getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (head == MAP_FAILED)
		return -1;
	call(count);
	if (read(fd, &counted, sizeof(counted)) != sizeof(counted))
		return -1;
	data = (char *)head + getpagesize();
	for (at = 0; at < head->data_head;) {
		struct perf_event_header *record = (void *)(data + at);

		samples += record->type == PERF_RECORD_SAMPLE;
		at += record->size;
	}
	printf("%lu %lu\n", counted, samples);
	return 0;
}

static int finish(unsigned long count)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.insns = (unsigned long)insns,
		.insn_cnt = 2,
		.license = (unsigned long)"GPL",
	};
	char packet[64] = "";
	int fd = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));

	if (fd < 0)
		return -1;
	while (count--) {
		memset(&attr, 0, sizeof(attr));
		attr.test.prog_fd = fd;
		attr.test.data_in = (unsigned long)packet;
		attr.test.data_size_in = sizeof(packet);
		errno = 0;
		syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr));
		printf("%d ", errno);
	}
	puts("");
	return 0;
}

static int ask(unsigned long count)
{
	long answer;

	while (count--) {
		answer = syscall(SYS_getsid, getpid());
		if (answer == getsid(0))
			printf("right ");
		else
			printf("%ld ", answer < 0 ? -errno : answer);
	}
	puts("");
	return 0;
}

static int zero;

static int libc(unsigned long count)
{
	while (count--)
		if (getpid() < 0)
			return -1;
	return 0;
}

static int reads(unsigned long count)
{
	char byte;

	while (count--)
		if (read(zero, &byte, 1) != 1)
			return -1;
	return 0;
}

int main(int argc, char **argv)
{
	int at;

	if (argc < 4)
		return 2;
	if (!strcmp(argv[1], "hop")) {
		for (at = 2; at + 1 < argc; at += 2) {
			if (enter(argv[at]))
				return 1;
			call(strtoul(argv[at + 1], NULL, 0));
		}
		return 0;
	}
	zero = open("/dev/zero", O_RDONLY);
	if (enter(argv[2]))
		return 1;
	if (!strcmp(argv[1], "libc"))
		at = libc(strtoul(argv[3], NULL, 0));
	else if (!strcmp(argv[1], "read"))
		at = reads(strtoul(argv[3], NULL, 0));
	else if (!strcmp(argv[1], "perf") && argc > 4)
		at = perf(argv[3], strtoul(argv[4], NULL, 0));
	else if (!strcmp(argv[1], "finish"))
		at = finish(strtoul(argv[3], NULL, 0));
	else if (!strcmp(argv[1], "ask"))
		at = ask(strtoul(argv[3], NULL, 0));
	else
		return 2;
	if (at)
		perror(argv[1]);
	return at != 0;
}
