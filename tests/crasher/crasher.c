// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Crashes the kernel that loads it, in the way that `trigger` names. For guests of the lab only.
 *
 * Debian's kernels have no lkdtm. Every function on a stack that a test names is `noinline` and does something after its
 * call, so that no compiler makes a jump of it.
 */
#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/string.h>

static char *trigger = "";
module_param(trigger, charp, 0);

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static struct hrtimer timer;
static volatile int done;

static noinline void crasher_null(int *where)
{
	*(volatile int *)where = 1;
	done++;
}

static noinline int crasher_recurse(int depth)
{
	volatile char frame[256];

	frame[depth % 256] = 1;
	return crasher_recurse(depth + 1) + frame[depth % 256];
}

static noinline void crasher_spin(void)
{
	preempt_disable();
	while (!done)
		cpu_relax();
	preempt_enable();
}

static noinline enum hrtimer_restart crasher_timer(struct hrtimer *expired)
{
	BUG_ON(!done);
	return HRTIMER_NORESTART;
}

static noinline int crasher_one(void *unused)
{
	mutex_lock(&first);
	msleep(500);
	mutex_lock(&second);
	done++;
	return 0;
}

static noinline int crasher_two(void *unused)
{
	mutex_lock(&second);
	msleep(500);
	mutex_lock(&first);
	done++;
	return 0;
}

static int __init crasher_init(void)
{
	if (!strcmp(trigger, "null")) {
		crasher_null(NULL);
	} else if (!strcmp(trigger, "stack")) {
		done = crasher_recurse(0);
	} else if (!strcmp(trigger, "spin")) {
		crasher_spin();
	} else if (!strcmp(trigger, "interrupt")) {
		hrtimer_init(&timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
		timer.function = crasher_timer;
		hrtimer_start(&timer, ms_to_ktime(50), HRTIMER_MODE_REL);
	} else if (!strcmp(trigger, "deadlock")) {
		kthread_run(crasher_one, NULL, "crasher-one");
		kthread_run(crasher_two, NULL, "crasher-two");
	} else {
		return -EINVAL;
	}
	return 0;
}
module_init(crasher_init);

MODULE_DESCRIPTION("crashes the kernel");
/* What a GPL-only symbol wants to hear (hrtimers): MIT goes with it. */
MODULE_LICENSE("Dual MIT/GPL");
