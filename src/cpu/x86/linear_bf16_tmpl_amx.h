// SPDX-License-Identifier: MIT
// linear_bf16 on AMX of the format that linear_q8_tmpl_avx512vnni.h is for, which ends with this: its groups become
// bf16, rounded once; denormals become 0, as tiles take them anyway. VALUES 16: the last 4 bits of q tell a value,
// looked up in a table of a unit's. Compiled without bf16; only these functions, which the level amx runs, have it.
#include "cpu/x86/linear_bf16_amx.h"

#ifndef VALUES
#define VALUES 0
#endif

#define BF16_CODE __attribute__((target("avx512bf16")))
#define BF16_INLINE static inline __attribute__((always_inline, target("avx512bf16")))

/* A group as its table, or its conversions, want it: whole units, next to each other in the order of slots, and what
 * each half is multiplied by and has added. */
struct bf16_group {
    _Alignas(64) unsigned char q[MOE_Q8_GROUP];
    float scale[2][GROUP_UNITS], minimum[2][GROUP_UNITS];
};

/* From what unpack_group gives to whole units. */
static inline __m512i whole_units(const struct q8_group *group, size_t i)
{
#ifdef SLOTS
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    size_t first = i / 2 * 2;
    return _mm512_permutex2var_epi64(group->q[first], i % 2 == 0 ? low : high, group->q[first + 1]);
#else
    return group->q[i];
#endif
}

/* With a table: its places, those of second halves 16 further. Otherwise signed numbers. */
static inline __m512i codes_of(__m512i q)
{
    if (VALUES == 16 && (KIND & Q8_HALVES) != 0)
        return _mm512_ternarylogic_epi64(q, _mm512_set1_epi8(15), _mm512_setr_epi64(0, 0, 0x1010101010101010,
                                         0x1010101010101010, 0, 0, 0x1010101010101010, 0x1010101010101010), 0xea);
    if (VALUES == 16)
        return OFFSET == 128 && (KIND & Q8_BIASED) != 0 ? _mm512_and_si512(q, _mm512_set1_epi8(15)) : q;
    if (!(KIND & Q8_BIASED))
        return q;
    return OFFSET == 128 ? _mm512_xor_si512(q, _mm512_set1_epi8(-128)) : _mm512_sub_epi8(q, _mm512_set1_epi8(OFFSET));
}

static inline void put_group(struct bf16_group *out, const struct q8_group *group)
{
    for (size_t i = 0; i < 4; i++)
        _mm512_store_si512(out->q + 64 * i, codes_of(whole_units(group, i)));
    for (size_t h = 0; h < (KIND & Q8_HALVES ? 2 : 1); h++) {
        _mm256_store_ps(out->scale[h], group->scale[h]);
        if (KIND & Q8_MINIMA)
            _mm256_store_ps(out->minimum[h], group->minimum[h]);
    }
    __asm__("" : "+m"(*out));    /* not shuffled from registers: loads that spread values take no vector unit's time */
}

/* Numbers to the values of half h of a unit. */
static inline __m512 values_of(__m512 numbers, const struct bf16_group *group, size_t unit, size_t h)
{
    h = KIND & Q8_HALVES ? h : 0;
    __m512 scale = _mm512_set1_ps(group->scale[h][unit]);
    if (KIND & Q8_MINIMA)
        return _mm512_fmadd_ps(numbers, scale, _mm512_set1_ps(group->minimum[h][unit]));
    return _mm512_mul_ps(numbers, scale);
}

/* The values that a table's places stand for: q counts from OFFSET, or is a number of 4 bits and a sign. */
static inline __m512 table_numbers(void)
{
    const __m512 from_0 = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    if (!(KIND & Q8_BIASED))
        return from_0;
    if (OFFSET != 128)
        return _mm512_sub_ps(from_0, _mm512_set1_ps(OFFSET));
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
}

BF16_INLINE __m512i look_up_unit(const struct bf16_group *group, size_t slot, size_t unit)
{
    __m512i places = _mm512_cvtepu8_epi16(_mm256_load_si256((const void *)(group->q + slot * MOE_Q8_UNIT)));
    __m512 first = values_of(table_numbers(), group, unit, 0);
    if (KIND & Q8_HALVES) {
        __m512 second = values_of(table_numbers(), group, unit, 1);
        return _mm512_permutexvar_epi16(places, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
    return _mm512_permutexvar_epi16(places, _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(first)));
}

BF16_INLINE __m512i convert_unit(const struct bf16_group *group, size_t slot, size_t unit)
{
    __m512 half[2];
    for (size_t h = 0; h < 2; h++) {
        __m128i codes = _mm_load_si128((const void *)(group->q + slot * MOE_Q8_UNIT + h * HALF));
        half[h] = values_of(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), group, unit, h);
    }
    return (__m512i)_mm512_cvtne2ps_pbh(half[1], half[0]);
}

BF16_INLINE void put_units(unsigned char *out, const unsigned char *in, size_t num_units)
{
    struct bf16_group group;
    struct q8_group unpacked = unpack_group(in);
    put_group(&group, &unpacked);
    for (size_t slot = 0; slot < GROUP_UNITS; slot++) {
#ifdef SLOTS
        size_t unit = slots[slot];
#else
        size_t unit = slot;
#endif
        if (unit < num_units)
            _mm512_store_si512(out + unit * MOE_BF16_PANEL_BYTES, VALUES == 16 ? look_up_unit(&group, slot, unit)
                                                                               : convert_unit(&group, slot, unit));
    }
}

BF16_CODE static void unpack_rows(unsigned char *out, const unsigned char *w, size_t w_stride, size_t num_rows,
                                  size_t num_units)
{
    for (size_t r = 0; r < num_rows; r++) {
        if (num_units == GROUP_UNITS) {
            put_units(out + r * 64, w + r * w_stride, GROUP_UNITS);
        } else {
            unsigned char padded[GROUP_BYTES] = {0};
            memcpy(padded, w + r * w_stride, num_units * UNIT_BYTES);
            put_units(out + r * 64, padded, num_units);
        }
    }
}

#define BF16_FN_PASTE(name) moe_linear_bf16_##name##_amx
#define BF16_FN_OF(name) BF16_FN_PASTE(name)

moe_linear_bf16_fn BF16_FN_OF(FORMAT_NAME);
void BF16_FN_OF(FORMAT_NAME)(const struct moe_linear_rounded_args *args)
{
    moe_linear_bf16_run_amx(args, unpack_rows, GROUP_BYTES);
}
