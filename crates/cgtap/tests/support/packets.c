/* packets CGROUP THREADS TIMES: enters a cgroup and runs a program of nothing on a packet
 * that is none, TIMES times in each of THREADS threads; the kernel asks the gates of bpf_test_finish
 * each time. Prints how many runs were let through and how many were not, and the last errno.
 * With `until` for TIMES it goes on until its standard input ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int prog;
static long times, through, refused, last;
static volatile int ended;

static void *work(void *unused)
{
	static char packet[64];
	long passed = 0, failed = 0, error = 0;

	for (long i = 0; times ? i < times : !ended; i++) {
		union bpf_attr attr;

		memset(&attr, 0, sizeof(attr));
		attr.test.prog_fd = prog;
		attr.test.data_in = (unsigned long)packet;
		attr.test.data_size_in = sizeof(packet);
		if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)))
			failed++, error = errno;
		else
			passed++;
	}
	__sync_fetch_and_add(&through, passed);
	__sync_fetch_and_add(&refused, failed);
	if (error)
		last = error;
	return unused;
}

int main(int argc, char **argv)
{
	/* r0 = 0; exit */
	static const struct bpf_insn code[] = { { .code = 0xb7 }, { .code = 0x95 } };
	pthread_t threads[64];
	union bpf_attr attr;
	char path[4096];
	int count, procs;

	if (argc < 4 || (count = atoi(argv[2])) > 64)
		return 2;
	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_SCHED_CLS;
	attr.insns = (unsigned long)code;
	attr.insn_cnt = 2;
	attr.license = (unsigned long)"GPL";
	prog = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
	if (prog < 0)
		return 3;
	snprintf(path, sizeof(path), "%s/cgroup.procs", argv[1]);
	procs = open(path, O_WRONLY);
	if (procs < 0 || write(procs, "0", 1) != 1)
		return 4;
	times = strcmp(argv[3], "until") ? atol(argv[3]) : 0;
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], 0, work, 0))
			return 5;
	if (!times) {
		char end;

		printf("begun\n");
		fflush(stdout);
		while (read(0, &end, 1) > 0)
			;
		ended = 1;
	}
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], 0);
	printf("%ld %ld %ld\n", through, refused, last);
	return 0;
}
