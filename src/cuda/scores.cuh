// SPDX-License-Identifier: MIT
// Scores of a router in double, as src/route_score.c defines them, and keys: doubles as integers of the same order.
#ifndef MOE_CUDA_SCORES_CUH
#define MOE_CUDA_SCORES_CUH

#include <math.h>

#include "cuda/ptx.cuh"
#include "cuda/route.h"
#include "moe/moe.h"

#define MOE_ALL_LANES 0xffffffffu
#define MOE_ENDLESS   ((double)INFINITY)

/* ---- keys ---- */

/* 0: no key at all; NaN ranks below -inf; both zeros are equal. */
enum { MOE_KEY_NAN = 1 };

MOE_DEVICE uint64_t moe_key(double value)
{
    if (value != value)
        return MOE_KEY_NAN;
    uint64_t bits = value == 0.0 ? 0 : (uint64_t)__double_as_longlong(value);
    return bits >> 63 ? ~bits : bits | 1ull << 63;
}

/* The value of a key; that of no key and of NaN is NaN. */
MOE_DEVICE double moe_key_value(uint64_t key)
{
    return __longlong_as_double((long long)(key >> 63 ? key & ~(1ull << 63) : ~key));
}

/* ---- of a warp: every lane has the result, which does not depend on the lane ---- */

MOE_DEVICE uint64_t moe_warp_max(uint64_t key)
{
    uint32_t high = (uint32_t)(key >> 32), best = __reduce_max_sync(MOE_ALL_LANES, high);
    uint32_t low = __reduce_max_sync(MOE_ALL_LANES, high == best ? (uint32_t)key : 0);
    return (uint64_t)best << 32 | low;
}

MOE_DEVICE double moe_warp_sum(double value)
{
    for (int d = 16; d > 0; d /= 2)
        value += __shfl_xor_sync(MOE_ALL_LANES, value, d);
    return value;
}

/* ---- functions of one variable: the long ones stay out of the way of those that most routers use ---- */

#define MOE_SCORE_APART static __device__ __attribute__((noinline))

MOE_DEVICE double moe_score_sigmoid(double z)
{
    return 1.0 / (1.0 + exp(-z));
}

/* sqrt(log(1 + e^z)). Far below 0 the logarithm is e^z, whose root stays a number where e^z itself would be 0. */
MOE_SCORE_APART double moe_score_sqrt_softplus(double z)
{
    if (z < -40.0)
        return exp(0.5 * z);
    return sqrt((z > 0.0 ? z : 0.0) + log1p(exp(-fabs(z))));
}

/* limit tanh(z / limit) */
MOE_SCORE_APART double moe_score_cap(double z, double limit)
{
    return limit * tanh(z / limit);
}

/* exp(z - max), where an infinite max leaves 1 to those that reach it and 0 to the rest; NaN and -inf: 0. */
MOE_DEVICE double moe_score_term(double z, double max)
{
    if (!(z > -MOE_ENDLESS))
        return 0.0;
    return z == max ? 1.0 : exp(z - max);
}

/* The largest of a softmax, and its sum. */
struct moe_score_softmax {
    double max, sum;
};

MOE_DEVICE double moe_score_share(const struct moe_score_softmax &softmax, double z)
{
    return softmax.sum > 0.0 ? moe_score_term(z, softmax.max) / softmax.sum : 0.0;
}

/* The weight of a logit, where it depends on no other but through the softmax. */
MOE_DEVICE double moe_score_weight(int kind, const struct moe_score_softmax &softmax, double z)
{
    if (z != z)
        return 0.0;
    switch (kind) {
    case MOE_SCORE_SIGMOID:
        return moe_score_sigmoid(z);
    case MOE_SCORE_LOGIT:
        return z;
    case MOE_SCORE_SQRT_SOFTPLUS:
        return moe_score_sqrt_softplus(z);
    default:
        return moe_score_share(softmax, z);
    }
}

/* ---- what the weights of a token are divided by; a warp, values in shared memory ---- */

/* (sum of |w|^p)^(1/p) as max (sum of (|w| / max)^p)^(1/p): no power can overflow. */
MOE_SCORE_APART double moe_score_p_norm(const double *values, uint32_t count, double p, uint32_t lane)
{
    uint64_t top = moe_key(0.0);
    for (uint32_t k = lane; k < count; k += 32) {
        uint64_t key = moe_key(fabs(values[k]));
        top = key > top ? key : top;
    }
    const double max = moe_key_value(moe_warp_max(top));
    if (max == 0.0 || max == MOE_ENDLESS)
        return max;
    double sum = 0.0;
    for (uint32_t k = lane; k < count; k += 32) {
        double share = fabs(values[k]) / max;
        sum += p == 1.0 ? share : p == 2.0 ? share * share : pow(share, p);
    }
    sum = moe_warp_sum(sum);
    return max * (p == 1.0 ? sum : p == 2.0 ? sqrt(sum) : pow(sum, 1.0 / p));
}

/* Never 0, and always finite. */
MOE_DEVICE double moe_score_divisor(const struct moe_cuda_router &router, const double *values, uint32_t count,
                                    uint32_t lane)
{
    double divisor = 0.0, eps = (double)router.renorm_eps;
    if (router.renorm == MOE_RENORM_NONE)
        return 1.0;
    if (router.renorm == MOE_RENORM_P_NORM) {
        divisor = moe_score_p_norm(values, count, (double)router.renorm_p, lane);
    } else {
        for (uint32_t k = lane; k < count; k += 32)
            divisor += values[k];
        divisor = moe_warp_sum(divisor);
        if (router.renorm == MOE_RENORM_ADD_EPS)
            divisor += eps;
        else
            divisor = divisor > eps ? divisor : eps;
    }
    return divisor == 0.0 || !(fabs(divisor) < MOE_ENDLESS) ? 1.0 : divisor;
}

#endif
