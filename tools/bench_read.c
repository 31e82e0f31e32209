// SPDX-License-Identifier: MIT
// How fast the weights' bytes can be read at all: one linear stream a thread, nothing computed but a sum. Each thread
// times pieces of its stream and takes their median, so that a piece during which another process had the CPU does
// not count; the rates of all threads are added.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "bench_weights.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PIECE_BYTES ((size_t)1 << 21)   /* large against the clock's steps, small against a time slice */
#define MOST_PIECES 2048
#define READ_SECONDS 0.05
#define MOST_THREADS 1024

struct reader {
    const struct bench_weights *weights;
    size_t num_ranges, index, count;
    double start, rates[MOST_PIECES];
    size_t num_pieces;
    uint64_t sum;
    pthread_t thread;
    bool started;
};

/* Eight sums, so that loads do not wait for additions; memcpy, since tensors may lie unaligned. */
static uint64_t read_plain(const unsigned char *data, size_t size)
{
    uint64_t sums[8] = {0}, value, total = 0;
    for (size_t i = 0; i + sizeof sums <= size; i += sizeof sums)
        for (size_t k = 0; k < 8; k++) {
            memcpy(&value, data + i + 8 * k, sizeof value);
            sums[k] += value;
        }
    for (size_t k = 0; k < 8; k++)
        total += sums[k];
    return total;
}

#if defined(__x86_64__)
/* Whole cache lines at once: with 16 bytes a load a core reads 8 % less (Sapphire Rapids). */
__attribute__((target("avx512f"))) static uint64_t read_avx512(const unsigned char *data, size_t size)
{
    __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t i = 0; i + sizeof sums <= size; i += sizeof sums)
        for (size_t k = 0; k < 4; k++)
            sums[k] = _mm512_xor_si512(sums[k], _mm512_loadu_si512(data + i + 64 * k));
    uint64_t words[8], total = 0;
    sums[0] = _mm512_xor_si512(_mm512_xor_si512(sums[0], sums[1]), _mm512_xor_si512(sums[2], sums[3]));
    _mm512_storeu_si512(words, sums[0]);
    for (size_t k = 0; k < 8; k++)
        total ^= words[k];
    return total;
}
#endif

static uint64_t read_bytes(const unsigned char *data, size_t size)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return read_avx512(data, size);
#endif
    return read_plain(data, size);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A thread's share of every range, over and over until READ_SECONDS are over: at least all of it once. */
static void *read_share(void *arg)
{
    struct reader *reader = arg;
    size_t piece = 0;
    double before = tool_seconds();
    for (bool first = true; first || tool_seconds() - reader->start < READ_SECONDS; first = false)
        for (size_t i = 0; i < reader->num_ranges && reader->num_pieces < MOST_PIECES; i++) {
            const struct bench_range *range = &reader->weights->ranges[i];
            size_t each = range->size / reader->count;
            const unsigned char *data = (const unsigned char *)range->data + each * reader->index;
            for (size_t done = 0; done < each && reader->num_pieces < MOST_PIECES;) {
                size_t now = each - done < PIECE_BYTES - piece ? each - done : PIECE_BYTES - piece;
                reader->sum += read_bytes(data + done, now);
                done += now;
                piece += now;
                if (piece < PIECE_BYTES)
                    continue;
                double after = tool_seconds();
                reader->rates[reader->num_pieces++] = (double)piece / (after - before);
                before = after;
                piece = 0;
            }
        }
    qsort(reader->rates, reader->num_pieces, sizeof *reader->rates, compare);
    return NULL;
}

double bench_read(const struct bench_weights *weights, size_t num_layers, size_t threads)
{
    static volatile uint64_t sink;    /* so that the sums must be computed */
    threads = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
    struct reader *readers = calloc(threads, sizeof *readers);
    if (!readers)
        return 0;
    double start = tool_seconds(), rate = 0;
    for (size_t i = 0; i < threads; i++) {
        readers[i].weights = weights;
        readers[i].num_ranges = weights->num_ranges / weights->num_layers * num_layers;
        readers[i].index = i;
        readers[i].count = threads;
        readers[i].start = start;
        readers[i].started = i > 0 && pthread_create(&readers[i].thread, NULL, read_share, &readers[i]) == 0;
    }
    read_share(&readers[0]);
    for (size_t i = 0; i < threads; i++) {
        if (readers[i].started)
            pthread_join(readers[i].thread, NULL);
        if (readers[i].num_pieces)
            rate += readers[i].rates[readers[i].num_pieces / 2];
        sink = sink + readers[i].sum;
    }
    free(readers);
    return rate;
}
