/*
 * The guest's serial line on the user's terminal: keys go to the guest as they are pressed, Ctrl-A is the escape key.
 *   Ctrl-A x  stop the recording       Ctrl-C  the same
 *   Ctrl-A c  send Ctrl-C              Ctrl-A Ctrl-A  send Ctrl-A
 */
#ifndef DEJAVM_TOOLS_TERMINAL_H
#define DEJAVM_TOOLS_TERMINAL_H

#include "core/base/error.h"

struct terminal;

/*
 * Takes stdin, which is a terminal with us in the foreground. The terminal is put back by terminal_end, and when the
 * process dies by a signal that can be caught. Sets *input to a pipe of what is typed for the guest.
 */
int terminal_begin(struct terminal **out, int *input, struct error *err) must_check;
void terminal_end(struct terminal *t); /* NULL is fine */

/* stdin is a terminal and we may read it. */
bool terminal_usable(void);

#endif
