/*
 * The host side of a recording's time and input: a helper thread that kicks the vCPU when a deadline passes, serial input arrives
 * or a device's descriptor is ready, and lets an idle session sleep until then.
 */
#ifndef DEJAVM_RECORD_RECORD_HOST_H
#define DEJAVM_RECORD_RECORD_HOST_H

#include <poll.h>

#include "core/base/error.h"
#include "core/base/types.h"
#include "core/machine.h"

struct record_host;

/*
 * kick(context) is called from the helper thread. input_fd: read for serial input, -1 for none (the descriptor stays
 * the caller's; its flags are not changed). What is in a regular file waits from the start: when the guest gets it is the guest's doing
 * alone.
 */
int record_host_create(struct record_host **out, int input_fd, void (*kick)(void *context), void *context,
                       struct error *err) must_check;
void record_host_destroy(struct record_host *h); /* joins the thread; NULL is fine */

/*
 * While it is paused (and at first it is) the clock stands still, and nothing but input and watched descriptors kicks.
 */
void record_host_pause(struct record_host *h);
void record_host_continue(struct record_host *h);

/* Nanoseconds since record_host_create, without those while it was paused, CLOCK_MONOTONIC. */
uint64_t record_host_now_ns(const struct record_host *h);

/* Kick at deadline_ns (of record_host_now_ns) at the latest. Only ever makes the next kick earlier; cheap when it does not. */
void record_host_arm(struct record_host *h, uint64_t deadline_ns);
/* Called after a kick was seen: the deadline is not armed any more. */
void record_host_disarm(struct record_host *h);

/* Sleeps until deadline_ns, input, or record_host_wake(). */
void record_host_sleep(struct record_host *h, uint64_t deadline_ns);

/*
 * Kicks, and ends a sleep, when one of the descriptors is ready for what its events ask: once for each call. Replaces those of the
 * call before; those beyond MACHINE_WATCH_MAX are left out. Copied; cheap when nothing is new.
 */
void record_host_watch(struct record_host *h, const struct pollfd *fds, size_t count);
/* True once after a watched descriptor was ready. Cheap. */
bool record_host_watch_fired(struct record_host *h);

/* Ends a sleep. Async-signal-safe. */
void record_host_wake(struct record_host *h);

/* Cheap: may be asked at every crossing. */
bool record_host_input_waits(const struct record_host *h);
/* Input that arrived: copies up to length bytes without taking them; record_host_input_taken takes. */
size_t record_host_input_peek(struct record_host *h, uint8_t *out, size_t length);
void record_host_input_taken(struct record_host *h, size_t length);

#endif
