/*
 * Signals. A signal handler has nothing but file-static variables to reach what it acts on: interrupt.c and terminal.c are
 * the only places of the program that have any.
 */
#ifndef DEJAVM_TOOLS_INTERRUPT_H
#define DEJAVM_TOOLS_INTERRUPT_H

#include <stdbool.h>

struct gdb_server;
struct recorder;

/* For all commands: SIGPIPE and SIGXFSZ become errors of the write that caused them. */
void interrupt_setup(void);

/* From now on SIGINT, SIGTERM and SIGHUP are counted and do not end the process. */
void interrupt_catch(void);
unsigned interrupt_count(void);
int interrupt_signal(void); /* the last one caught, 0: none */
/* Each of them also stops this recorder; NULL: no more. */
void interrupt_stops_recorder(struct recorder *recorder);
/* Each of them also stops this server (NULL: no more), and makes wake_fd, an eventfd, readable. */
void interrupt_stops_server(struct gdb_server *server, int wake_fd);
/* Ends the process as the signal caught would have, so that the caller (a shell, a CI system) sees it. */
_Noreturn void interrupt_die(void);

#endif
