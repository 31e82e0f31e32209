// SPDX-License-Identifier: MIT
// The threads of a context. A phase is one function that every lane runs; lanes take work items off a counter of the
// phase's own, so that any lanes that run, in any order, one after another even, finish the work. Three drivers: own
// workers, the host's parallel_for, and the host's team, which meets at a barrier after each phase.
#ifndef MOE_CPU_THREADS_H
#define MOE_CPU_THREADS_H

#include <stdbool.h>
#include <stddef.h>

#include "moe/moe.h"

enum { MOE_MAX_THREADS = 1024 };

struct moe_threads;

/* lane < the context's number of threads; no two lanes that run at the same time are equal. */
typedef void moe_phase_fn(void *arg, size_t lane);

/* params NULL: defaults. ERR_ARGUMENT, ERR_MEMORY, ERR_UNSUPPORTED (threads cannot be started). */
enum moe_status moe_threads_open(struct moe_threads **out, const struct moe_env *env,
                                 const struct moe_context_params *params, struct moe_error *error);
void moe_threads_close(struct moe_threads *threads);

/* Lanes at most. */
size_t moe_threads_count(const struct moe_threads *threads);

/* Run phase on up to as many lanes as it has items; on the caller alone where that is one, or in a team's context.
 * What lanes wrote is visible on return. */
void moe_threads_run(struct moe_threads *threads, size_t num_items, moe_phase_fn *phase, void *arg);

/* Wait until nth threads have called it: what they wrote before is visible to all after. */
void moe_threads_barrier(struct moe_threads *threads, size_t nth);

#endif
