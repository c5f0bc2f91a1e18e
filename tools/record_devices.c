#include "tools/record_devices.h"

#include "tools/status.h"

#include <stdlib.h>
#include <string.h>

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

int record_devices_parse(struct record_devices *devices, const struct arguments *arguments,
                         struct board_options *options)
{
    int status = STATUS_OK;
    for (size_t i = 0; i < arguments->option_count && status == STATUS_OK; i++)
        if (strcmp(arguments->option[i].spec->name, "disk") == 0)
            status = add_disk(devices, arguments->command, arguments->option[i].value);
    options->disks = devices->disks;
    options->disk_count = devices->disk_count;
    return status;
}

void record_devices_free(struct record_devices *devices)
{
    for (size_t i = 0; i < devices->disk_count; i++)
        free(devices->disk_path[i]);
}
