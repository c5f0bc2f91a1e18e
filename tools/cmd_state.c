/* dejavm state */
#include "tools/commands.h"
#include "tools/session.h"
#include "tools/state_view.h"
#include "tools/status.h"

#include <inttypes.h>
#include <string.h>

/* Every --mem, looked up in the state at the position. False and a message when one cannot be. */
static bool look_up_ranges(const struct arguments *arguments, const struct state_view *view,
                           struct memory_range *ranges, size_t *count)
{
    *count = 0;
    for (size_t i = 0; i < arguments->option_count; i++) {
        char reason[320];
        if (strcmp(arguments->option[i].spec->name, "mem") != 0)
            continue;
        if (!memory_range_parse(view, arguments->option[i].value, &ranges[*count], reason, sizeof(reason))) {
            message("--mem: %s", reason);
            return false;
        }
        ++*count;
    }
    return true;
}

static void print_text(const struct state_view *view, position_t position, struct hash128 digest,
                       const struct memory_range *ranges, size_t count)
{
    printf("position %" PRIu64 "\n", position);
    state_print(view, stdout);
    printf("ram digest %016" PRIx64 "%016" PRIx64 "\n", digest.high, digest.low);
    for (size_t i = 0; i < count; i++) {
        putchar('\n');
        memory_print(view, &ranges[i], stdout);
    }
}

static void print_json(const struct state_view *view, position_t position, struct hash128 digest,
                       const struct memory_range *ranges, size_t count)
{
    struct json j;
    char text[33];
    json_begin(&j, stdout);
    json_u64(&j, "position", position);
    state_json(view, &j);
    snprintf(text, sizeof(text), "%016" PRIx64 "%016" PRIx64, digest.high, digest.low);
    json_string(&j, "ram_digest", text);
    json_array(&j, "memory");
    for (size_t i = 0; i < count; i++) {
        json_object(&j, NULL);
        memory_json(view, &ranges[i], &j);
        json_close_object(&j);
    }
    json_close_array(&j);
    json_end(&j);
}

static int show(struct session *s, const struct arguments *arguments, const struct position_argument *at)
{
    struct error err = {0};
    struct memory_range ranges[ARGUMENTS_MAX_OPTIONS];
    struct hash128 digest;
    position_t position;
    size_t count;
    if (session_resolve(s, at, &position, &err) || session_seek(s, position, &err))
        return session_fail(&err);
    if (replay_position(s->replay) != position) {
        message("%s: position %" PRIu64 " is beyond the end of the trace, which is at %" PRIu64, s->path,
                position, replay_position(s->replay));
        return STATUS_FAILURE;
    }
    if (replay_ram_digest(s->replay, &digest, &err))
        return fail(&err);
    const struct state_view view = {
        .state = replay_state(s->replay), .ram = replay_ram(s->replay), .symbols = replay_symbols(s->replay)};
    if (!look_up_ranges(arguments, &view, ranges, &count))
        return STATUS_FAILURE;
    if (argument_flag(arguments, "json"))
        print_json(&view, position, digest, ranges, count);
    else
        print_text(&view, position, digest, ranges, count);
    return finish_output(STATUS_OK);
}

static int run(const struct arguments *arguments)
{
    struct error err = {0};
    struct position_argument at = {.kind = POSITION_IS_END};
    struct session s = {0};
    if (!session_position_option(arguments, "at", &at))
        return STATUS_USAGE;
    for (size_t i = 0; i < arguments->option_count; i++)
        if (strcmp(arguments->option[i].spec->name, "mem") == 0 &&
            !memory_range_well_formed(arguments->option[i].value))
            return usage_error(arguments->command,
                               "--mem: '%.200s' is not of the form ADDR:LEN, with LEN from 1 to 16M",
                               arguments->option[i].value);
    int status =
        session_open(&s, arguments->operand[0], &err) ? session_fail(&err) : show(&s, arguments, &at);
    session_close(&s);
    return status;
}

static const char *const paragraphs[] = {
    "Prints all registers of the vCPU at a position of the trace: the state before the transition that "
    "starts there. "
    "With it come the symbol and source line of RIP, the instruction there, and the digest of all of the "
    "guest's memory.",
    "In a sealed trace any position is near a stored keyframe, so it takes about as long wherever it is.",
    NULL,
};
static const struct option_spec options[] = {
    {.name = "at",
     .value = "POS",
     .text = "The position: a number (1000000, 1_000_000, 0xf4240), \"end\", or a "
             "percentage of the trace (50%). Default: end."},
    {.name = "mem",
     .value = "ADDR:LEN",
     .repeatable = true,
     .text = "Also print LEN bytes of memory. ADDR is a virtual address, phys:ADDR a physical one; it may be "
             "a number, "
             "a register (rsp) or a symbol of the guest. May be given several times."},
    {.name = "json", .text = "Print JSON."},
    {0},
};
static const struct operand_spec operands[] = {{.name = "TRACE", .text = "The trace file."}, {0}};
static const struct example_spec examples[] = {
    {"dejavm state kernel.dvm", "The registers at the end: where it crashed."},
    {"dejavm state kernel.dvm --at 1_000_000 --mem rsp:128",
     "Registers and the top of the stack after a million steps."},
    {0},
};

const struct command command_state = {
    .name = "state",
    .summary = "show registers and memory at any position",
    .paragraphs = paragraphs,
    .options = options,
    .operands = operands,
    .examples = examples,
    .run = run,
};
