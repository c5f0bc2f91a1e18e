#include "tools/record_devices.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "devices/net_forward.h"
#include "tools/status.h"

/* Takes ",word" off the end of text. */
static bool take_word(char *text, const char *word)
{
    size_t length = strlen(text), word_length = strlen(word);
    if (length <= word_length || text[length - word_length - 1] != ',' ||
        strcmp(text + length - word_length, word) != 0)
        return false;
    text[length - word_length - 1] = 0;
    return true;
}

/* FILE[,ro][,write-through]: the words are taken from the end, so that FILE may have commas. */
static int add_disk(struct record_devices *d, const struct command *command, const char *value)
{
    if (d->disk_count == RECORD_DISKS_MAX)
        return usage_error(command, "--disk: more than %u disks", RECORD_DISKS_MAX);
    char *path = strdup(value);
    if (!path) {
        message("out of memory");
        return STATUS_FAILURE;
    }
    struct board_disk *disk = &d->disks[d->disk_count];
    d->disk_path[d->disk_count++] = path;
    *disk = (struct board_disk){.path = path};
    for (bool taken = true; taken;) {
        bool read_only = take_word(path, "ro"), write_through = take_word(path, "write-through");
        disk->read_only |= read_only;
        disk->write_through |= write_through;
        taken = read_only || write_through;
    }
    if (!path[0])
        return usage_error(command, "--disk: '%.200s' names no file", value);
    if (disk->read_only && disk->write_through)
        return usage_error(command, "--disk: '%.200s' is read-only (ro), so there is no write-through",
                           value);
    return STATUS_OK;
}

/* Cuts the first part off "part,part,..."; *rest is NULL after the last. */
static char *cut_part(char **rest)
{
    char *part = *rest, *comma = strchr(part, ',');
    if (comma)
        *comma = 0;
    *rest = comma ? comma + 1 : NULL;
    return part;
}

/* What follows the prefix, NULL if text does not begin with it. */
static const char *after(const char *text, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

/* DIR[,tag=NAME][,ro] */
static int add_share(struct record_devices *d, const struct command *command, const char *value)
{
    size_t number = d->share_count;
    if (number == RECORD_SHARES_MAX)
        return usage_error(command, "--share: more than %u shared folders", RECORD_SHARES_MAX);
    char *rest = strdup(value);
    if (!rest) {
        message("out of memory");
        return STATUS_FAILURE;
    }
    d->share_text[d->share_count++] = rest;
    snprintf(d->share_tag[number], sizeof(d->share_tag[0]), number ? "share%zu" : "share", number + 1);
    struct board_share *share = &d->shares[number];
    *share = (struct board_share){.path = cut_part(&rest), .tag = d->share_tag[number]};
    if (!share->path[0])
        return usage_error(command, "--share: '%.100s' does not begin with a folder", value);
    while (rest) {
        char *part = cut_part(&rest);
        const char *tag = after(part, "tag=");
        if (tag && (!tag[0] || strlen(tag) > BOARD_SHARE_TAG_MAX))
            return usage_error(command, "--share: tag=%.100s: a tag has 1 to %d characters", tag,
                               BOARD_SHARE_TAG_MAX);
        if (!tag && strcmp(part, "ro") != 0)
            return usage_error(command, "--share: '%.100s' is neither tag=NAME nor ro", part);
        share->tag = tag ? tag : share->tag;
        share->read_only |= !tag;
    }
    for (size_t i = 0; i < number; i++)
        if (strcmp(d->shares[i].tag, share->tag) == 0)
            return usage_error(command, "--share: two folders have the tag '%s'", share->tag);
    return STATUS_OK;
}

/* user[,hostfwd=FORWARD]... */
static int set_net(struct record_devices *d, const struct command *command, const char *value)
{
    if (d->net.present)
        return usage_error(command, "--net: given twice: a guest has one network card");
    char *rest = d->net_text = strdup(value);
    if (!rest) {
        message("out of memory");
        return STATUS_FAILURE;
    }
    const char *kind = cut_part(&rest);
    if (strcmp(kind, "user") != 0)
        return usage_error(command, "--net: '%.100s': the only network there is is 'user'", kind);
    d->net = (struct board_net){.present = true, .forwards = d->forwards};
    while (rest) {
        const char *part = cut_part(&rest), *forward = after(part, "hostfwd=");
        struct net_forward parsed;
        struct error err;
        if (!forward)
            return usage_error(command, "--net: '%.100s' is not hostfwd=...", part);
        if (d->net.forward_count == RECORD_FORWARDS_MAX)
            return usage_error(command, "--net: more than %u forwarded ports", RECORD_FORWARDS_MAX);
        if (net_forward_parse(forward, &parsed, &err) < 0)
            return usage_error(command, "--net: hostfwd=%s", err.message);
        d->forwards[d->net.forward_count++] = forward;
    }
    return STATUS_OK;
}

/* A guest that has many connections, or looks at many files of a shared folder, needs as many descriptors of this process. */
static void allow_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static const struct {
    const char *option;
    int (*take)(struct record_devices *d, const struct command *command, const char *value);
} device_options[] = {{"disk", add_disk}, {"net", set_net}, {"share", add_share}};

int record_devices_parse(struct record_devices *devices, const struct arguments *arguments,
                         struct board_options *options)
{
    int status = STATUS_OK;
    for (size_t i = 0; i < arguments->option_count && status == STATUS_OK; i++)
        for (size_t j = 0; j < ARRAY_LEN(device_options) && status == STATUS_OK; j++)
            if (strcmp(arguments->option[i].spec->name, device_options[j].option) == 0)
                status = device_options[j].take(devices, arguments->command, arguments->option[i].value);
    options->disks = devices->disks;
    options->disk_count = devices->disk_count;
    options->shares = devices->shares;
    options->share_count = devices->share_count;
    options->net = devices->net;
    if (status == STATUS_OK && (options->net.present || options->share_count))
        allow_descriptors();
    return status;
}

void record_devices_free(struct record_devices *devices)
{
    for (size_t i = 0; i < devices->disk_count; i++)
        free(devices->disk_path[i]);
    for (size_t i = 0; i < devices->share_count; i++)
        free(devices->share_text[i]);
    free(devices->net_text);
}
