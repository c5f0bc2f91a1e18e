// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * A kernel module with a use-after-free, for docs/linux-crash.md. /proc/reminders takes lines:
 *
 *   remind TEXT   a new reminder, numbered from 1
 *   star N        reminder N rings its bell ten times a second
 *   cancel N      forgets reminder N
 *   note TEXT     something to remember without a reminder
 */
#include <linux/list.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#define RING_EVERY (HZ / 10)

struct bell {
	const char *name;
	unsigned long rung;
};

struct reminder {
	struct list_head all;
	struct list_head starred;
	struct bell *bell;
	unsigned int number;
	char text[20];
};

struct note {
	char text[64];
};

static struct bell bell = { .name = "bell" };
static LIST_HEAD(all_reminders);
static LIST_HEAD(starred_reminders);
static DEFINE_MUTEX(reminders_lock);
static unsigned int last_number;
static struct note *last_note;
static struct kmem_cache *entries; /* reminders and notes, of the same size */

static void ring(struct work_struct *work);
static DECLARE_DELAYED_WORK(ringing, ring);

static void ring(struct work_struct *work)
{
	struct reminder *r;

	mutex_lock(&reminders_lock);
	list_for_each_entry(r, &starred_reminders, starred)
		r->bell->rung++;
	mutex_unlock(&reminders_lock);
	schedule_delayed_work(&ringing, RING_EVERY);
}

static struct reminder *find(unsigned int number)
{
	struct reminder *r;

	list_for_each_entry(r, &all_reminders, all)
		if (r->number == number)
			return r;
	return NULL;
}

static int remind(const char *text)
{
	struct reminder *r = kmem_cache_zalloc(entries, GFP_KERNEL);

	if (!r)
		return -ENOMEM;
	r->bell = &bell;
	r->number = ++last_number;
	strscpy(r->text, text, sizeof(r->text));
	INIT_LIST_HEAD(&r->starred);
	list_add_tail(&r->all, &all_reminders);
	pr_info("reminder %u: %s\n", r->number, r->text);
	return 0;
}

static int star(unsigned int number)
{
	struct reminder *r = find(number);

	if (!r)
		return -ENOENT;
	list_move_tail(&r->starred, &starred_reminders);
	return 0;
}

/* The bug: a starred reminder is on two lists, and is taken off one of them. */
static int cancel(unsigned int number)
{
	struct reminder *r = find(number);

	if (!r)
		return -ENOENT;
	list_del(&r->all);
	kmem_cache_free(entries, r);
	pr_info("reminder %u cancelled\n", number);
	return 0;
}

static int note(const char *text)
{
	struct note *n = last_note ? last_note : kmem_cache_zalloc(entries, GFP_KERNEL);

	if (!n)
		return -ENOMEM;
	strscpy(n->text, text, sizeof(n->text));
	last_note = n;
	pr_info("noted: %s\n", n->text);
	return 0;
}

static int command(char *line)
{
	char *rest = strim(line), *word = strsep(&rest, " ");
	unsigned int number;

	if (!rest)
		return -EINVAL;
	if (!strcmp(word, "remind"))
		return remind(rest);
	if (!strcmp(word, "note"))
		return note(rest);
	if (kstrtouint(rest, 10, &number))
		return -EINVAL;
	if (!strcmp(word, "star"))
		return star(number);
	return strcmp(word, "cancel") ? -EINVAL : cancel(number);
}

static ssize_t reminders_write(struct file *file, const char __user *from, size_t length, loff_t *offset)
{
	char line[96];
	int status;

	if (length >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, from, length))
		return -EFAULT;
	line[length] = '\0';
	mutex_lock(&reminders_lock);
	status = command(line);
	mutex_unlock(&reminders_lock);
	return status ? status : length;
}

static const struct proc_ops reminders_ops = { .proc_write = reminders_write };

/* A constructor keeps the cache apart from others of the same size. */
static void construct(void *entry)
{
}

static int __init reminder_init(void)
{
	BUILD_BUG_ON(sizeof(struct reminder) != sizeof(struct note));
	entries = kmem_cache_create("reminder_entries", sizeof(struct note), 0, 0, construct);
	if (!entries)
		return -ENOMEM;
	if (!proc_create("reminders", 0200, NULL, &reminders_ops)) {
		kmem_cache_destroy(entries);
		return -ENOMEM;
	}
	schedule_delayed_work(&ringing, RING_EVERY);
	return 0;
}

module_init(reminder_init);
MODULE_DESCRIPTION("Reminders, with a use-after-free to be found");
MODULE_LICENSE("GPL");
