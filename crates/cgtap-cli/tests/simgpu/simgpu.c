// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A GPU that is not there: one serial engine behind the kernel's own GPU scheduler, so that its
 * tracepoints come from real submissions, real scheduler threads and a real interrupt (a timer).
 *
 * ioctl(fd of /dev/simgpu, SUBMIT, microseconds) submits a job of that length and returns at once;
 * ioctl(fd, WAIT) waits until all of this file's jobs are done; ioctl(fd, WORKED) is how many
 * nanoseconds the engine has worked on them, by its own clock: the truth that meters are held to.
 */
#include <drm/gpu_scheduler.h>
#include <linux/dma-fence.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/ioctl.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/wait.h>

#define SUBMIT _IOW('g', 1, unsigned long)
#define WAIT _IO('g', 2)
#define WORKED _IOR('g', 3, unsigned long)

struct client {
	struct drm_sched_entity entity;
	atomic_t left;
	atomic64_t worked_ns;
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
	return DRM_GPU_SCHED_STAT_NOMINAL;
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
	err = drm_sched_entity_init(&client->entity, DRM_SCHED_PRIORITY_NORMAL, &list, 1, NULL);
	if (err) {
		kfree(client);
		return err;
	}
	file->private_data = client;
	return 0;
}

static int client_release(struct inode *inode, struct file *file)
{
	struct client *client = file->private_data;

	wait_event(client->done, !atomic_read(&client->left));
	drm_sched_entity_destroy(&client->entity);
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
	}
	return -ENOTTY;
}

static const struct file_operations file_ops = {
	.owner = THIS_MODULE,
	.open = client_open,
	.release = client_release,
	.unlocked_ioctl = client_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "simgpu",
	.fops = &file_ops,
};

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
	int err = misc_register(&device);

	if (err)
		return err;
	args.dev = device.this_device;
	context = dma_fence_context_alloc(1);
	hrtimer_init(&timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	timer.function = finished;
	err = drm_sched_init(&sched, &args);
	if (err)
		misc_deregister(&device);
	return err;
}

static void __exit simgpu_exit(void)
{
	misc_deregister(&device);
	drm_sched_fini(&sched);
	hrtimer_cancel(&timer);
}

module_init(simgpu_init);
module_exit(simgpu_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A simulated serial engine behind the GPU scheduler");
