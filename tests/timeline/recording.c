#include "tests/timeline/recording.h"

#include "core/kvm/kvm_probe.h"

void must(int status, const struct error *err)
{
    if (status < 0)
        fail_msg("%s", err->message);
}

bool recording_possible(enum record_engine engine)
{
    static struct error err;
    if (engine != RECORD_ENGINE_KVM || kvm_probe_usable(&err) == 0)
        return true;
    print_message("skipped: %s\n", err.message);
    return false;
}

bool recording_make(const char *path, const char *guest, const char *command_line, enum record_engine engine)
{
    static struct error err;
    static struct record_result result;
    struct recorder *recorder;
    if (!recording_possible(engine))
        return false;
    struct record_options options = {.guest_path = guest,
                                     .trace_path = path,
                                     .command_line = command_line,
                                     .engine = engine,
                                     .clock = engine == RECORD_ENGINE_EMU ? RECORD_CLOCK_VIRTUAL
                                                                          : RECORD_CLOCK_HOST,
                                     .ram_bytes = 64 << 20,
                                     .timeout_ns = 60000000000,
                                     .serial_in = -1,
                                     .overwrite = true};
    must(recorder_create(&recorder, &options, &err), &err);
    must(recorder_run(recorder, &result, &err), &err);
    recorder_destroy(recorder);
    must(replay_seal(path, NULL, NULL, &err), &err);
    return true;
}

static uint64_t number_of(const struct vcpu_state *state, struct hash128 ram)
{
    return vcpu_state_hash(state) * 3 + ram.low * 5 + ram.high * 7;
}

uint64_t state_number(struct replay *r)
{
    static struct error err;
    struct hash128 full, kept;
    full = ram_digest(replay_ram(r));
    must(replay_ram_digest(r, &kept, &err), &err);
    if (!hash128_equal(full, kept))
        fail_msg("position %llu: the digest that is kept up to date is not RAM's",
                 (unsigned long long)replay_position(r));
    return number_of(replay_state(r), full);
}

uint64_t state_number_quick(struct replay *r)
{
    static struct error err;
    struct hash128 kept;
    must(replay_ram_digest(r, &kept, &err), &err);
    return number_of(replay_state(r), kept);
}

uint64_t random_next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = *seed;
    x ^= x >> 29;
    return x * 0x9e3779b97f4a7c15u >> 11;
}
