#include "tools/monitor.h"
#include "tools/number.h"
#include "tools/state_view.h"
#include "tools/status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct monitor_command *const groups[] = {monitor_position_commands, monitor_event_commands,
                                                       monitor_memory_commands, monitor_catch_commands,
                                                       monitor_linux_commands};

/* ---- words ---- */

static bool split_quoted(const char **at, char *word)
{
    size_t length = 0;
    for (const char *p = *at + 1; *p; p++) {
        char c = *p;
        if (c == '"') {
            word[length] = '\0';
            *at = p + 1;
            return true;
        }
        if (c == '\\' && p[1]) {
            p++;
            c = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
        }
        if (length == MONITOR_WORD_BYTES - 1)
            return false;
        word[length++] = c;
    }
    return false;
}

static int split(const char *text, struct monitor_words *out, struct error *err)
{
    out->count = 0;
    for (;;) {
        text += strspn(text, " \t");
        if (!*text)
            return 0;
        if (out->count == MONITOR_WORDS_MAX)
            return error_set(err, -EINVAL, "too many words");
        char *word = out->word[out->count++];
        if (*text == '"') {
            if (!split_quoted(&text, word))
                return error_set(err, -EINVAL, "a quoted text without its end, or longer than %d characters",
                                 MONITOR_WORD_BYTES - 1);
            continue;
        }
        size_t length = strcspn(text, " \t");
        if (length >= MONITOR_WORD_BYTES)
            return error_set(err, -EINVAL, "a word longer than %d characters", MONITOR_WORD_BYTES - 1);
        memcpy(word, text, length);
        word[length] = '\0';
        text += length;
    }
}

/* ---- what the commands share ---- */

bool monitor_interrupted(const struct monitor *m)
{
    return m->interrupt.interrupted && m->interrupt.interrupted(m->interrupt.context);
}

int monitor_was_interrupted(const struct monitor *m, struct error *err)
{
    return error_set(err, -EINTR, "interrupted; still at position %" PRIu64,
                     timeline_position(m->target->timeline));
}

int monitor_usage(const struct monitor_command *command, struct error *err)
{
    return error_set(err, -EINVAL, "usage: monitor %s%s%s", command->name, command->arguments[0] ? " " : "",
                     command->arguments);
}

int monitor_goto(struct monitor *m, position_t position, struct error *err)
{
    position_t before = timeline_position(m->target->timeline);
    int code = trace_target_goto(m->target, position, &m->interrupt, err);
    m->moved = m->moved || timeline_position(m->target->timeline) != before;
    return code == -EINTR ? monitor_was_interrupted(m, err) : code;
}

void put_guest_text(FILE *out, const uint8_t *data, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        bool plain = (data[i] >= 0x20 && data[i] < 0x7f) || data[i] == '\n' || data[i] == '\t';
        bool line_end = data[i] == '\r' && i + 1 < length && data[i + 1] == '\n';
        if (plain)
            putc(data[i], out);
        else if (!line_end)
            fprintf(out, "\\x%02x", data[i]);
    }
}

static bool lookup(const struct monitor *m, const char *name, uint64_t *out)
{
    const char *plain = *name == '$' || *name == '&' ? name + 1 : name;
    if (*name != '&' && state_register(trace_target_state(m->target), plain, out))
        return true;
    return *name != '$' && trace_target_find_symbol(m->target, plain, out);
}

int monitor_address(const struct monitor *m, const char *text, uint64_t *out, struct error *err)
{
    char name[MONITOR_WORD_BYTES];
    uint64_t offset;
    const char *sign = strpbrk(text, "+-");
    if (number_parse(text, out) || lookup(m, text, out))
        return 0;
    if (sign && sign > text && number_parse(sign + 1, &offset) && (size_t)(sign - text) < sizeof(name)) {
        memcpy(name, text, (size_t)(sign - text));
        name[sign - text] = '\0';
        if (number_parse(name, out) || lookup(m, name, out)) {
            *out = *sign == '+' ? *out + offset : *out - offset;
            return 0;
        }
    }
    return error_set(err, -EINVAL, "\"%.100s\" is neither a number nor a register nor a symbol of the guest",
                     text);
}

int monitor_length(const char *text, uint64_t max, uint64_t *out, struct error *err)
{
    if (number_parse(text, out) && *out >= 1 && *out <= max)
        return 0;
    return error_set(err, -EINVAL, "\"%.100s\" is not a number from 1 to %" PRIu64, text, max);
}

/* ---- the commands ---- */

static void print_help(struct monitor *m)
{
    for (size_t i = 0; i < ARRAY_LEN(groups); i++)
        for (const struct monitor_command *c = groups[i]; c->name; c++)
            fprintf(m->out, "%s%s%s\n    %s\n", c->name, c->arguments[0] ? " " : "", c->arguments, c->text);
    fputs("Positions are numbers (1000000, 1_000_000, 0xf4240) of completed transitions. Addresses are "
          "numbers,\n"
          "registers (rsp), symbols, or one of these and an offset (items+8). After a command that moves, "
          "GDB has to\n"
          "look again: \"maintenance flush register-cache\"; under `dejavm debug` it does by itself.\n",
          m->out);
}

static const struct monitor_command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(groups); i++)
        for (const struct monitor_command *c = groups[i]; c->name; c++)
            if (strcmp(c->name, name) == 0)
                return c;
    return NULL;
}

static int obey(struct monitor *m, struct monitor_words *words, struct error *err)
{
    if (words->count == 0 || strcmp(words->word[0], "help") == 0) {
        print_help(m);
        return 0;
    }
    const struct monitor_command *command = find_command(words->word[0]);
    if (!command)
        return error_set(err, -EINVAL, "there is no command \"%.100s\"; \"monitor help\" lists them",
                         words->word[0]);
    memmove(words->word[0], words->word[1], (--words->count) * sizeof(words->word[0]));
    return command->run(m, words, err);
}

int monitor_run(struct trace_target *t, const char *command, struct buffer *out, bool *moved,
                struct timeline_interrupt interrupt, struct error *err)
{
    char *text = NULL;
    size_t length = 0;
    struct monitor m = {.target = t, .interrupt = interrupt};
    struct monitor_words *words = calloc(1, sizeof(*words));
    m.out = open_memstream(&text, &length);
    int code = words && m.out ? split(command, words, err) : error_set(err, -ENOMEM, "out of memory");
    if (code == 0)
        code = obey(&m, words, err);
    if (m.out && fclose(m.out) == 0)
        buffer_put(out, text, length);
    free(text);
    free(words);
    *moved = m.moved;
    return code;
}
