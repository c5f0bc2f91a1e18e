/*
 * A file server over a folder of the host: 9P2000.L, the dialect of Linux's client (its messages: Plan 9's intro(5), and
 * include/net/9p/9p.h of Linux for the ".L" ones). One message in, its answer out; no threads, no waiting for others.
 *
 * The client may be hostile. It reaches the folder and what is below, nothing else: names are single components, looked up from
 * the folder that a fid stands for without following links; a symbolic link is read by the client, never followed here. Devices,
 * FIFOs and sockets cannot be opened or made, set-user-ID bits cannot be set, owners cannot be changed. All is done with the rights
 * of this process, and with its umask. Open files are limited.
 */
#ifndef DEJAVM_DEVICES_P9_SERVER_H
#define DEJAVM_DEVICES_P9_SERVER_H

#include "core/base/error.h"
#include "core/base/types.h"

#define P9_MESSAGE_MAX 524288u /* bytes of a request or of an answer */
#define P9_ANSWER_MIN  11u     /* room for an error */
#define P9_FIDS_MAX    4096u   /* each holds a file descriptor */

struct p9_server;

/*
 * Serves the folder. read_only: all that would change it is EROFS. Errors name the folder. Needs /proc.
 */
int p9_server_create(struct p9_server **out, const char *folder, bool read_only,
                     struct error *err) must_check;
void p9_server_destroy(struct p9_server *s); /* NULL is fine */

/* As after a new connection: forgets all fids. */
void p9_server_reset(struct p9_server *s);

/*
 * Answers one request of any content (length bytes) in answer, which has room bytes; more than P9_MESSAGE_MAX are not used. Returns
 * the answer's length; 0 when room is less than P9_ANSWER_MIN.
 */
size_t p9_server_answer(struct p9_server *s, const uint8_t *request, size_t length, uint8_t *answer,
                        size_t room);

#endif
