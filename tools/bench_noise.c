// SPDX-License-Identifier: MIT
// The machine's and the process' CPU time.
#include "bench_noise.h"

#include <math.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tool.h"

#define MOST_OTHER 4.0          /* per cent: one tick of 10 ms in a quarter of a second on one CPU */
#define MOST_STEAL 3.0
#define MOST_READ_SPREAD 1.4    /* a virtual machine whose CPUs are moved elsewhere shows more */
#define LEAST_COMPUTE 0.85      /* of the best; two threads on one core have half of it */

struct bench_clock bench_clock_now(void)
{
    struct bench_clock clock = {.wall = tool_seconds()};
    double user = 0, nice = 0, system = 0, irq = 0, softirq = 0, steal = 0;
    double ticks = (double)sysconf(_SC_CLK_TCK);
    FILE *file = fopen("/proc/stat", "r");
    if (file && ticks > 0 && fscanf(file, "cpu %lf %lf %lf %*f %*f %lf %lf %lf", &user, &nice, &system, &irq, &softirq,
                                    &steal) == 6) {
        clock.busy = (user + nice + system + irq + softirq) / ticks;
        clock.steal = steal / ticks;
    }
    if (file)
        fclose(file);
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        clock.own = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                    1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    return clock;
}

void bench_noise_between(struct bench_noise *noise, const struct bench_clock *from, const struct bench_clock *to)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    double total = (to->wall - from->wall) * (double)(cpus > 0 ? cpus : 1);
    noise->other = noise->steal = 0;
    if (total <= 0 || to->busy <= 0)
        return;
    noise->other = fmax(0, 100 * ((to->busy - from->busy) - (to->own - from->own)) / total);
    noise->steal = fmax(0, 100 * (to->steal - from->steal) / total);
}

bool bench_noise_disturbed(const struct bench_noise *noise)
{
    return noise->other > MOST_OTHER || noise->steal > MOST_STEAL || noise->read_spread > MOST_READ_SPREAD ||
           noise->compute < LEAST_COMPUTE;
}

double bench_noise_severity(const struct bench_noise *noise)
{
    return noise->other + noise->steal + 25 * (noise->read_spread - 1) + 100 * (1 - noise->compute);
}
