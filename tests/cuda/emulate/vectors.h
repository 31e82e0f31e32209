// SPDX-License-Identifier: MIT
// CUDA's short vectors, with its alignments.
#ifndef MOE_EMULATE_VECTORS_H
#define MOE_EMULATE_VECTORS_H

#define MOE_EMULATE_VECTORS(type, base, align2, align4)                                                                \
    struct type##1                                                                                                     \
    {                                                                                                                  \
        base x;                                                                                                        \
    };                                                                                                                 \
    struct alignas(align2) type##2                                                                                     \
    {                                                                                                                  \
        base x, y;                                                                                                     \
    };                                                                                                                 \
    struct type##3                                                                                                     \
    {                                                                                                                  \
        base x, y, z;                                                                                                  \
    };                                                                                                                 \
    struct alignas(align4) type##4                                                                                     \
    {                                                                                                                  \
        base x, y, z, w;                                                                                               \
    };                                                                                                                 \
    static inline type##1 make_##type##1(base x)                                                                       \
    {                                                                                                                  \
        return {x};                                                                                                    \
    }                                                                                                                  \
    static inline type##2 make_##type##2(base x, base y)                                                               \
    {                                                                                                                  \
        return {x, y};                                                                                                 \
    }                                                                                                                  \
    static inline type##3 make_##type##3(base x, base y, base z)                                                       \
    {                                                                                                                  \
        return {x, y, z};                                                                                              \
    }                                                                                                                  \
    static inline type##4 make_##type##4(base x, base y, base z, base w)                                               \
    {                                                                                                                  \
        return {x, y, z, w};                                                                                           \
    }

MOE_EMULATE_VECTORS(char, signed char, 2, 4)
MOE_EMULATE_VECTORS(uchar, unsigned char, 2, 4)
MOE_EMULATE_VECTORS(short, short, 4, 8)
MOE_EMULATE_VECTORS(ushort, unsigned short, 4, 8)
MOE_EMULATE_VECTORS(int, int, 8, 16)
MOE_EMULATE_VECTORS(uint, unsigned, 8, 16)
MOE_EMULATE_VECTORS(long, long, 16, 16)
MOE_EMULATE_VECTORS(ulong, unsigned long, 16, 16)
MOE_EMULATE_VECTORS(longlong, long long, 16, 16)
MOE_EMULATE_VECTORS(ulonglong, unsigned long long, 16, 16)
MOE_EMULATE_VECTORS(float, float, 8, 16)
MOE_EMULATE_VECTORS(double, double, 16, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z)
    {
    }
};

#endif
