/* Lets a cgroup read and write so many bytes of network block devices, and no more: a request over
 * the quota is sent to a place that no device has, so the server refuses it and the caller gets
 * EIO, after exactly the quota.
 *
 *   clang -O2 -g -target bpf -c nbd_quota.bpf.c
 *   cgtap attach tenants/a nbd_quota.bpf.o --set quota_bytes=104857600 --scope rq
 *
 * The scope charges who submitted the bio, also where a kernel thread sends the request (always on
 * 6.1, write-back on all). It takes the io controller: a request belongs to the nearest cgroup
 * that has it enabled (cgroup.subtree_control of its parent).
 */
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))

char LICENSE[] SEC("license") = "GPL";

volatile const __u64 quota_bytes = 1 << 20;
/* What was let through, and what was not. */
__u64 used_bytes, denied_requests, denied_bytes;

/* include/uapi/linux/nbd.h: big-endian, and what the tracepoint lets a program write. */
struct nbd_request {
	__u32 magic;
	__u32 type;
	__u64 cookie;
	__u64 from;
	__u32 len;
} __attribute__((packed));

enum { NBD_CMD_READ = 0, NBD_CMD_WRITE = 1 };

SEC("raw_tp.w/nbd_send_request")
int nbd_quota(__u64 *args)
{
	struct nbd_request *request = (void *)args[0];
	__u64 len = __builtin_bswap32(request->len);
	__u32 type = __builtin_bswap32(request->type) & 0xffff;

	if (type != NBD_CMD_READ && type != NBD_CMD_WRITE)
		return 0;
	/* Taken first and given back if it is too much: two CPUs never get the last bytes both. */
	if (__sync_fetch_and_add(&used_bytes, len) + len <= quota_bytes)
		return 0;
	__sync_fetch_and_add(&used_bytes, -len);
	__sync_fetch_and_add(&denied_requests, 1);
	__sync_fetch_and_add(&denied_bytes, len);
	/* 2^63 - 512, past the end of everything. */
	request->from = __builtin_bswap64(0x7ffffffffffffe00ULL);
	return 0;
}
