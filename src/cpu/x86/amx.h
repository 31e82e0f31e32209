// SPDX-License-Identifier: MIT
// The tiles of AMX: 8 registers of up to 16 rows of up to 64 bytes. A kernel gives them their shapes when it begins and
// calls _tile_release() when it ends; it may do so on any thread (cpuid.c has asked the system for the tiles).
#ifndef MOE_AMX_H
#define MOE_AMX_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { AMX_ROWS = 16, AMX_ROW_BYTES = 64, AMX_TILE_BYTES = AMX_ROWS * AMX_ROW_BYTES };

/* What ldtilecfg reads. A tile without rows must not be used. */
struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct amx_config) == 64, "ldtilecfg reads 64 bytes");

static inline void amx_shape(struct amx_config *config, size_t tile, size_t rows, size_t row_bytes)
{
    config->rows[tile] = (uint8_t)rows;
    config->row_bytes[tile] = (uint16_t)(rows > 0 ? row_bytes : 0);
}

/* Between stores to memory and tile loads of it: gcc's intrinsics do not tell the compiler that they read it. */
static inline void amx_stored(void)
{
    __asm__ volatile("" ::: "memory");
}

/* Give the tiles their shapes; they are zero then. */
static inline void amx_configure(struct amx_config *config)
{
    config->palette = 1;
    amx_stored();
    _tile_loadconfig(config);
}

#endif
