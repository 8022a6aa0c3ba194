/* Denies a cgroup ioctls on a device, or opening it, with an errno of your choice.
 *
 *   clang -O2 -g -target bpf -c deny_device.bpf.c
 *   cgtap attach tenants/a deny_device.bpf.o --program deny_ioctl \
 *       --set device=$((226 << 20 | 128)) --set command=0x6442 --set verdict=-122
 *
 * `device` is major << 20 | minor, as the kernel keeps it; `command` the low 16 bits of the ioctl
 * (type and number: the upper ones hold a size that differs with the client's headers), 0 for any.
 * What a process has open stays open: `deny_open` is a gate for the next open only.
 */
typedef unsigned short umode_t;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))

char LICENSE[] SEC("license") = "GPL";

volatile const __u32 device = 0, command = 0;
/* A negative errno: the verifier follows a comparison, but no negation. */
volatile const int verdict = -1;
__u64 seen, denied;

/* As much as is read, wherever this kernel has it. */
struct inode {
	__u32 i_rdev;
} __attribute__((preserve_access_index));

struct file {
	struct inode *f_inode;
} __attribute__((preserve_access_index));

static int decide(struct file *file)
{
	if (file->f_inode->i_rdev != device)
		return 0;
	__sync_fetch_and_add(&denied, 1);
	return verdict >= -4095 && verdict < 0 ? verdict : -1;
}

SEC("lsm/file_ioctl")
int deny_ioctl(__u64 *args)
{
	__sync_fetch_and_add(&seen, 1);
	if (command && (args[1] & 0xffff) != command)
		return 0;
	return decide((struct file *)args[0]);
}

SEC("lsm/file_open")
int deny_open(__u64 *args)
{
	__sync_fetch_and_add(&seen, 1);
	return decide((struct file *)args[0]);
}
