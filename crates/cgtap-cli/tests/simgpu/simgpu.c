// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A GPU that is not there: one serial engine behind the kernel's own GPU scheduler, so that its
 * tracepoints come from real submissions, real scheduler threads and a real interrupt (a timer).
 *
 * ioctl(fd of /dev/simgpu, SUBMIT, microseconds) submits a job of that length and returns at once;
 * ioctl(fd, WAIT) waits until all of this file's jobs are done; ioctl(fd, WORKED) is how many
 * nanoseconds the engine has worked on them, by its own clock: the truth that meters are held to.
 * ioctl(fd, HOLD, bytes) is how much memory the file has of it; its number is that of a call by which a
 * driver of DRM makes buffers. A kernel with a controller of devices' memory is asked first, as drivers ask
 * it; what it refuses is ENOMEM, and the file keeps what it had. Its fdinfo tells both as drivers of DRM do
 * (Documentation/gpu/drm-usage-stats.rst), and its device has the major of accelerators, of which DRM itself
 * gives out minors below 256.
 *
 * /dev/nvidiactl is a device with the name and the major of NVIDIA's, for gates to stand before: every call
 * to it is done, and does nothing.
 */
#include <drm/gpu_scheduler.h>
#include <linux/cdev.h>
#include <linux/dma-fence.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/ioctl.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/wait.h>

/* Other kernels before have the controller too, with functions of other arguments; Debian's have none. */
#if IS_ENABLED(CONFIG_CGROUP_DMEM) && LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
#include <linux/cgroup_dmem.h>
#define HAS_DMEM
#endif

#define SUBMIT _IOW('g', 1, unsigned long)
#define WAIT _IO('g', 2)
#define WORKED _IOR('g', 3, unsigned long)
#define HOLD _IOW('d', 0x40, unsigned long)

struct client {
	struct drm_sched_entity entity;
	atomic_t left;
	atomic64_t worked_ns;
	u64 id;
	u64 held_bytes;
	struct dmem_cgroup_pool_state *charged_to;
	wait_queue_head_t done;
};

struct job {
	struct drm_sched_job base;
	struct client *client;
	u64 length_ns;
};

/* What the engine works on: it outlives the job, which the scheduler frees when it likes. */
struct work {
	struct dma_fence fence;
	struct list_head list;
	struct client *client;
	u64 length_ns;
};

static struct drm_gpu_scheduler sched;
static DEFINE_SPINLOCK(lock);
static LIST_HEAD(queue);
static struct hrtimer timer;
static struct work *now_working;
static ktime_t began;
static u64 context, seqno;
static atomic64_t clients;
/* Over what files hold. */
static DEFINE_MUTEX(memory);

static const char *name(struct dma_fence *fence)
{
	return "simgpu";
}

static const struct dma_fence_ops fence_ops = {
	.get_driver_name = name,
	.get_timeline_name = name,
};

static void start_next(void)
{
	now_working = list_first_entry_or_null(&queue, struct work, list);
	if (!now_working)
		return;
	list_del(&now_working->list);
	began = ktime_get();
	hrtimer_start(&timer, ns_to_ktime(now_working->length_ns), HRTIMER_MODE_REL);
}

static enum hrtimer_restart finished(struct hrtimer *t)
{
	struct work *work;
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	work = now_working;
	atomic64_add(ktime_to_ns(ktime_sub(ktime_get(), began)), &work->client->worked_ns);
	start_next();
	spin_unlock_irqrestore(&lock, flags);
	dma_fence_signal(&work->fence);
	dma_fence_put(&work->fence);
	return HRTIMER_NORESTART;
}

static struct dma_fence *run(struct drm_sched_job *base)
{
	struct job *job = container_of(base, struct job, base);
	struct work *work = kzalloc(sizeof(*work), GFP_KERNEL);
	unsigned long flags;

	if (!work)
		return ERR_PTR(-ENOMEM);
	dma_fence_init(&work->fence, &fence_ops, &lock, context, ++seqno);
	work->client = job->client;
	work->length_ns = job->length_ns;
	dma_fence_get(&work->fence);
	spin_lock_irqsave(&lock, flags);
	list_add_tail(&work->list, &queue);
	if (!now_working)
		start_next();
	spin_unlock_irqrestore(&lock, flags);
	return &work->fence;
}

static enum drm_gpu_sched_stat timed_out(struct drm_sched_job *base)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
	return DRM_GPU_SCHED_STAT_RESET;
#else
	return DRM_GPU_SCHED_STAT_NOMINAL;
#endif
}

static void free_job(struct drm_sched_job *base)
{
	struct job *job = container_of(base, struct job, base);
	struct client *client = job->client;

	drm_sched_job_cleanup(base);
	kfree(job);
	if (atomic_dec_and_test(&client->left))
		wake_up(&client->done);
}

static const struct drm_sched_backend_ops sched_ops = {
	.run_job = run,
	.timedout_job = timed_out,
	.free_job = free_job,
};

static int client_open(struct inode *inode, struct file *file)
{
	struct client *client = kzalloc(sizeof(*client), GFP_KERNEL);
	struct drm_gpu_scheduler *list = &sched;
	int err;

	if (!client)
		return -ENOMEM;
	init_waitqueue_head(&client->done);
	client->id = atomic64_inc_return(&clients);
	err = drm_sched_entity_init(&client->entity, DRM_SCHED_PRIORITY_NORMAL, &list, 1, NULL);
	if (err) {
		kfree(client);
		return err;
	}
	file->private_data = client;
	return 0;
}

#ifdef HAS_DMEM
static struct dmem_cgroup_region *region;

static int register_memory(void)
{
	const struct dmem_cgroup_init init = { .size = 1 << 30 };

	region = dmem_cgroup_register_region(&init, "simgpu/vram0");
	return PTR_ERR_OR_ZERO(region);
}

static void unregister_memory(void)
{
	dmem_cgroup_unregister_region(region);
}

/* Charges what the file is to hold, and gives back what it held. */
static int charge(struct client *client, u64 bytes)
{
	struct dmem_cgroup_pool_state *pool = NULL;

	if (bytes && dmem_cgroup_try_charge(region, bytes, &pool, NULL))
		return -ENOMEM;
	if (client->charged_to)
		dmem_cgroup_uncharge(client->charged_to, client->held_bytes);
	client->charged_to = pool;
	return 0;
}
#else
static int register_memory(void)
{
	return 0;
}

static void unregister_memory(void)
{
}

static int charge(struct client *client, u64 bytes)
{
	return 0;
}
#endif

static int hold(struct client *client, u64 bytes)
{
	int err;

	mutex_lock(&memory);
	err = charge(client, bytes);
	if (!err)
		WRITE_ONCE(client->held_bytes, bytes);
	mutex_unlock(&memory);
	return err;
}

static int client_release(struct inode *inode, struct file *file)
{
	struct client *client = file->private_data;

	wait_event(client->done, !atomic_read(&client->left));
	drm_sched_entity_destroy(&client->entity);
	hold(client, 0);
	kfree(client);
	return 0;
}

static long submit(struct client *client, unsigned long length_us)
{
	struct job *job = kzalloc(sizeof(*job), GFP_KERNEL);
	int err;

	if (!job)
		return -ENOMEM;
	job->client = client;
	job->length_ns = length_us * 1000;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	err = drm_sched_job_init(&job->base, &client->entity, 1, client, 0);
#else
	err = drm_sched_job_init(&job->base, &client->entity, client);
#endif
	if (err) {
		kfree(job);
		return err;
	}
	atomic_inc(&client->left);
	drm_sched_job_arm(&job->base);
	drm_sched_entity_push_job(&job->base);
	return 0;
}

static long client_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct client *client = file->private_data;
	u64 worked;

	switch (command) {
	case SUBMIT:
		return submit(client, argument);
	case WAIT:
		return wait_event_interruptible(client->done, !atomic_read(&client->left));
	case WORKED:
		worked = atomic64_read(&client->worked_ns);
		return copy_to_user((void __user *)argument, &worked, sizeof(worked)) ? -EFAULT : 0;
	case HOLD:
		return hold(client, argument);
	}
	return -ENOTTY;
}

static void client_show(struct seq_file *text, struct file *file)
{
	struct client *client = file->private_data;
	u64 held_kib = READ_ONCE(client->held_bytes) >> 10;

	seq_printf(text, "drm-driver:\tsimgpu\ndrm-client-id:\t%llu\n", client->id);
	seq_printf(text, "drm-engine-engine0:\t%lld ns\n", atomic64_read(&client->worked_ns));
	seq_printf(text, "drm-total-vram:\t%llu KiB\ndrm-resident-vram:\t%llu KiB\n", held_kib, held_kib);
}

static const struct file_operations file_ops = {
	.owner = THIS_MODULE,
	.open = client_open,
	.release = client_release,
	.unlocked_ioctl = client_ioctl,
	.show_fdinfo = client_show,
};

static long nothing(struct file *file, unsigned int command, unsigned long argument)
{
	return 0;
}

static const struct file_operations nvidia_ops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = nothing,
};

struct node {
	const char *name;
	dev_t number;
	const struct file_operations *ops;
	struct cdev cdev;
};

static struct node simgpu_node = { .name = "simgpu", .number = MKDEV(261, 4000), .ops = &file_ops };
static struct node nvidia_node = { .name = "nvidiactl", .number = MKDEV(195, 255), .ops = &nvidia_ops };
static struct class *class;

/* Makes a device with its node; what is made before something fails goes again. */
static struct device *make_node(struct node *node)
{
	struct device *device;
	int err = register_chrdev_region(node->number, 1, node->name);

	if (err)
		return ERR_PTR(err);
	cdev_init(&node->cdev, node->ops);
	node->cdev.owner = THIS_MODULE;
	err = cdev_add(&node->cdev, node->number, 1);
	if (err)
		goto number;
	device = device_create(class, NULL, node->number, NULL, "%s", node->name);
	if (!IS_ERR(device))
		return device;
	err = PTR_ERR(device);
	cdev_del(&node->cdev);
number:
	unregister_chrdev_region(node->number, 1);
	return ERR_PTR(err);
}

static void drop_node(struct node *node)
{
	device_destroy(class, node->number);
	cdev_del(&node->cdev);
	unregister_chrdev_region(node->number, 1);
}

static int __init simgpu_init(void)
{
	struct drm_sched_init_args args = {
		.ops = &sched_ops,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
		.num_rqs = DRM_SCHED_PRIORITY_COUNT,
#endif
		/* Two jobs at a time in the hardware's queue, as real rings have. */
		.credit_limit = 2,
		.timeout = MAX_SCHEDULE_TIMEOUT,
		.name = "engine0",
	};
	struct device *device;
	int err = register_memory();

	if (err)
		return err;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	class = class_create("simgpu");
#else
	class = class_create(THIS_MODULE, "simgpu");
#endif
	err = PTR_ERR_OR_ZERO(class);
	if (err)
		goto memory;
	device = make_node(&simgpu_node);
	err = PTR_ERR_OR_ZERO(device);
	if (err)
		goto class;
	args.dev = device;
	context = dma_fence_context_alloc(1);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	hrtimer_setup(&timer, finished, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
#else
	hrtimer_init(&timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	timer.function = finished;
#endif
	err = drm_sched_init(&sched, &args);
	if (err)
		goto node;
	err = PTR_ERR_OR_ZERO(make_node(&nvidia_node));
	if (!err)
		return 0;
	drm_sched_fini(&sched);
node:
	drop_node(&simgpu_node);
class:
	class_destroy(class);
memory:
	unregister_memory();
	return err;
}

static void __exit simgpu_exit(void)
{
	drop_node(&nvidia_node);
	drop_node(&simgpu_node);
	class_destroy(class);
	drm_sched_fini(&sched);
	hrtimer_cancel(&timer);
	unregister_memory();
}

module_init(simgpu_init);
module_exit(simgpu_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A simulated serial engine behind the GPU scheduler");
