// SPDX-License-Identifier: MIT
// Whether a measurement had the machine to itself: the CPU time of other processes and what a host took away, from
// /proc/stat, and how far the probes before and after differ.
#ifndef BENCH_NOISE_H
#define BENCH_NOISE_H

#include <stdbool.h>

/* CPU seconds since the machine and the process started. */
struct bench_clock {
    double wall, busy, steal, own;
};

struct bench_noise {
    double other, steal;      /* per cent of the time of all CPUs; 0 where the system does not tell */
    double read_spread;       /* fastest over slowest probe of the read bandwidth */
    double compute;           /* slowest probe of the arithmetic over the best of the run */
};

struct bench_clock bench_clock_now(void);
/* other and steal between two clocks. */
void bench_noise_between(struct bench_noise *noise, const struct bench_clock *from, const struct bench_clock *to);

/* Above these a measurement says more about the disturbance than about the layer. */
bool bench_noise_disturbed(const struct bench_noise *noise);
/* How bad it was, to choose the better of two measurements. */
double bench_noise_severity(const struct bench_noise *noise);

#endif
