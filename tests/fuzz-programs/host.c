/*
 * Programs on the host CPU, in a process of their own: what the emulator has mapped at low addresses must be in the way of no
 * stray pointer, and none may write to it.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tests/fuzz-programs/program.h"

#define ALARM_S     60u /* for as many programs */
#define ALARM_EVERY 64u

/* Shared by the two processes; a byte through a pipe says whose turn it is. */
struct box {
    bool low;
    struct vcpu_state in;
    struct isa_result out;
    uint8_t code[ISA_CODE_BYTES], data[ISA_DATA_BYTES];
};

struct host {
    struct box *box;
    int to, from;
};

/* A system call made by a program would be an accident: it ends the process. */
static bool guard_system_calls(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)ISA_CODE, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)ISA_CODE + ISA_CODE_BYTES, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static bool signal_turn(int fd)
{
    return write(fd, "", 1) == 1;
}

static bool await_turn(int fd)
{
    char byte;
    return read(fd, &byte, 1) == 1;
}

/* Never returns: it ends with the process that asks. */
static void serve(struct box *box, int requests, int replies)
{
    if (!native_init() || !guard_system_calls())
        _exit(1);
    box->low = native_has_low();
    if (!signal_turn(replies))
        _exit(1);
    for (unsigned n = 0; await_turn(requests); n++) {
        if (n % ALARM_EVERY == 0)
            alarm(ALARM_S);
        memcpy(native_code(), box->code, sizeof box->code);
        memcpy(native_data(), box->data, sizeof box->data);
        native_run(&box->in, 0, &box->out);
        memcpy(box->code, native_code(), sizeof box->code);
        memcpy(box->data, native_data(), sizeof box->data);
        if (!signal_turn(replies))
            break;
    }
    _exit(0);
}

struct host *host_create(void)
{
    int requests[2], replies[2];
    struct host *h = calloc(1, sizeof *h);
    struct box *box = mmap(NULL, sizeof *box, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!h || box == MAP_FAILED || pipe(requests) != 0 || pipe(replies) != 0)
        return NULL;
    pid_t pid = fork();
    if (pid == 0) {
        close(requests[1]);
        close(replies[0]);
        serve(box, requests[0], replies[1]);
    }
    close(requests[0]);
    close(replies[1]);
    *h = (struct host){box, requests[1], replies[0]};
    return pid > 0 && await_turn(h->from) ? h : NULL;
}

bool host_has_low(const struct host *h)
{
    return h->box->low;
}

bool host_run(struct host *h, const struct vcpu_state *in, const uint8_t *code, const uint8_t *data,
              struct isa_result *out)
{
    h->box->in = *in;
    memcpy(h->box->code, code, sizeof h->box->code);
    memcpy(h->box->data, data, sizeof h->box->data);
    if (!signal_turn(h->to) || !await_turn(h->from))
        return false;
    *out = h->box->out;
    return true;
}

const uint8_t *host_code(const struct host *h)
{
    return h->box->code;
}

const uint8_t *host_data(const struct host *h)
{
    return h->box->data;
}
