// SPDX-License-Identifier: MIT
// Seeded random numbers (splitmix64, Box-Muller), the host's threads, and the comparison with doubles.
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"

uint64_t rng_next(struct rng *rng)
{
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

size_t rng_below(struct rng *rng, size_t n)
{
    return (size_t)(rng_next(rng) % n);
}

static double uniform(struct rng *rng)
{
    return (double)(rng_next(rng) >> 11) * 0x1p-53;
}

double rng_normal(struct rng *rng)
{
    double radius = sqrt(-2 * log(1 - uniform(rng)));
    return radius * cos(6.283185307179586 * uniform(rng));
}

void rng_routing(struct rng *rng, int32_t *ids, float *weights, size_t num_tokens, size_t num_experts, size_t top_k)
{
    for (size_t t = 0; t < num_tokens; t++) {
        int32_t *row = ids + t * top_k;
        double sum = 0;
        for (size_t k = 0; k < top_k; k++) {
            bool again = true;
            while (again) {
                row[k] = (int32_t)rng_below(rng, num_experts);
                again = false;
                for (size_t other = 0; other < k; other++)
                    again = again || row[other] == row[k];
            }
            weights[t * top_k + k] = (float)(0.25 + uniform(rng));
            sum += weights[t * top_k + k];
        }
        for (size_t k = 0; k < top_k; k++)
            weights[t * top_k + k] = (float)(weights[t * top_k + k] / sum);
    }
}

void rng_values(struct rng *rng, float *out, size_t n, double scale, enum moe_format format)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)moe_ref_round(format, (float)(scale * rng_normal(rng)));
}

/* ---- threads ---- */

struct work {
    void (*task)(void *arg, size_t i);
    void *arg;
    size_t count;
    atomic_size_t next;
};

static void *take_tasks(void *arg)
{
    struct work *work = arg;
    for (;;) {
        size_t i = atomic_fetch_add(&work->next, 1);
        if (i >= work->count)
            return NULL;
        work->task(work->arg, i);
    }
}

void run_parallel(size_t num_threads, size_t count, void (*task)(void *arg, size_t i), void *arg)
{
    enum { MOST = 64 };
    pthread_t threads[MOST];
    struct work work = {.task = task, .arg = arg, .count = count};
    size_t started = 0;
    while (started + 1 < num_threads && started + 1 < count && started < MOST &&
           pthread_create(&threads[started], NULL, take_tasks, &work) == 0)
        started++;
    take_tasks(&work);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

void *host_alloc(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL) {
        fprintf(stderr, "moe-test-cuda: no host memory for %zu values of %zu bytes\n", count, size);
        exit(1);
    }
    return memory;
}

double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- comparison ---- */

/* Infinity where out is NaN, or ref zeros and out not. */
double relative_error(const float *out, const double *ref, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += (out[i] - ref[i]) * (out[i] - ref[i]);
        size += ref[i] * ref[i];
    }
    if (isnan(difference))
        return INFINITY;
    return size > 0 ? sqrt(difference / size) : difference > 0 ? INFINITY : 0;
}
