/*
 * The code arena: where generated host code lives. One memfd mapped twice, once writable and once executable, so
 * that no mapping is ever both. Code is only appended; when the arena is full everything is dropped at once.
 * Private to core/x86.
 */
#ifndef DEJAVM_CORE_X86_CODE_ARENA_H
#define DEJAVM_CORE_X86_CODE_ARENA_H

#include "core/base/error.h"
#include "core/base/types.h"

struct code_arena;

#define CODE_ARENA_BYTES ((size_t)16 << 20)

/* size: a multiple of 4096, at most 1 GiB. The memory is backed as it is used. */
int code_arena_create(struct code_arena **out, size_t size, struct error *err) must_check;
void code_arena_destroy(struct code_arena *arena); /* NULL is fine */

/*
 * Copies code (position-independent) into the arena and returns where it can be called. Equal code that the arena holds
 * already is shared. NULL when the arena is full: the caller drops everything that points into it and recycles.
 */
const void *code_arena_put(struct code_arena *arena, const uint8_t *code, size_t length);

/* Empties the arena. Every pointer that code_arena_put gave before is dead, and the generation is one higher. */
void code_arena_recycle(struct code_arena *arena);
uint64_t code_arena_generation(const struct code_arena *arena);
size_t code_arena_used(const struct code_arena *arena); /* bytes */

/* For who manages the content himself, without code_arena_put: the two views of the same memory, and its size. */
uint8_t *code_arena_writable(const struct code_arena *arena);
const uint8_t *code_arena_executable(const struct code_arena *arena);
size_t code_arena_size(const struct code_arena *arena);

#endif
