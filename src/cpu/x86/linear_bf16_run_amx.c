// SPDX-License-Identifier: MIT
// linear_bf16 on AMX. A tile is 16 rows of w by 32 columns; x is packed once per call, 16 tokens at a time, to tiles of
// 16 pairs of columns by 16 tokens. The sum of a row and a token is one chain of TDPBF16PS over all columns, 32 at a
// time, ascending: the same in tiles of any size. Weights of bf16 are loaded from where they lie. Others are unpacked,
// 32 rows at a time, while the columns before are multiplied for the first tokens: the tiles' unit and the vector units
// work at the same time.
//
// A tile of weights takes 16 cycles for 16 tokens and comes from memory in 240: memory must never wait. So x is packed
// while the first rows are multiplied, not before; a block has 32 rows, since memory pauses from block to block; and of
// each row only the beginning is fetched by the program: 32 rows are as many streams as the hardware can follow, which
// takes the load buffers less time than a fetch of every line would.
#include <stdbool.h>
#include <string.h>

#include "cpu/kernels.h"
#include "cpu/x86/amx.h"
#include "cpu/x86/linear_bf16_amx.h"
#include "cpu/x86/transpose_amx.h"

enum {
    STEP = 32,                       /* columns of a tile of weights */
    STEP_BYTES = 2 * STEP,
    BLOCK_ROWS = 2 * AMX_ROWS,       /* multiplied at once */
    CHUNK_ROWS = 128,                /* whose unfinished sums are kept, where x does not fit into scratch at once */
    MOST_TOKENS = 128,
    LINE = 64,
    HEAD_LINES = 8,                  /* fetched of each row of the next block; then the hardware knows what follows */
    FETCH_LINES = 4,                 /* of weights that are unpacked, at once */
    PACK_AHEAD = 2,                  /* steps; tile loads wait for stores that have just been made */
    GROUP_STEPS = MOE_Q8_GROUP / STEP,
    PART_ROWS = BLOCK_ROWS / GROUP_STEPS,    /* unpacked at each step, of a group that comes later */
    RING_STEPS = 2 * GROUP_STEPS     /* unpacked weights that are kept, where they are multiplied once: 32 KB */
};

/* Tiles, as plain numbers, which is what their instructions want. Up to 2 blocks of tokens: 2 i + j sums rows i and
 * tokens j; weights 4 and 5, x 6 and 7. 3 blocks, of 32 rows: also 4 + i sums rows i and tokens 2; weights 6, x 7. */
enum { MOST_BLOCKS = 3 };

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- the work of a call ---- */

struct work {
    const struct moe_linear_rounded_args *a;
    size_t rows, tokens;             /* of this part of the call */
    size_t blocks;                   /* of 16 tokens */
    size_t steps, segment;           /* of a row; of a segment, for which x is packed */
    unsigned char *x, *sums;         /* x: for each block its steps; sums: unfinished, a tile for each rows and block */
    moe_bf16_unpack_fn *unpack;      /* NULL: the weights are bf16 */
    size_t group_bytes;
    unsigned char *panel;            /* the tiles of unpacked weights, step by step, again and again */
    size_t panel_steps;
    struct amx_config config;
};

/* Tokens of a block. */
static inline size_t block_tokens(const struct work *work, size_t block)
{
    return smaller(AMX_ROWS, work->tokens - block * AMX_ROWS);
}

/* Tokens that the packed x of a block has room for. */
static inline size_t block_width(const struct work *work, size_t block)
{
    size_t tokens = work->blocks >= MOST_BLOCKS ? AMX_ROWS : block_tokens(work, block);
    return tokens == 1 ? 1 : tokens <= 4 ? 4 : AMX_ROWS;
}

/* ---- packing x ---- */

/* The rows of a block of tokens. Places for tokens that there are not hold the last one's, which no tile loads. */
struct source {
    const unsigned char *rows[AMX_ROWS];
    size_t width;
};

static struct source source_of(const struct work *work, size_t block)
{
    const struct moe_linear_rounded_args *a = work->a;
    struct source source = {.width = block_width(work, block)};
    for (size_t i = 0; i < AMX_ROWS; i++) {
        size_t t = block * AMX_ROWS + smaller(i, block_tokens(work, block) - 1);
        source.rows[i] = a->x + (a->x_rows != NULL ? (size_t)a->x_rows[t] : t) * a->x_stride;
    }
    return source;
}

/* Columns from byte `at` of the rows on. */
static inline void pack(unsigned char *out, const struct source *source, size_t at)
{
    if (source->width == 1)
        _mm512_storeu_si512(out, _mm512_loadu_si512(source->rows[0] + at));
    else if (source->width == 4)
        transpose_four(out, source->rows, at);
    else
        transpose(out, source->rows, at);
}

/* The same of fewer columns than a step has; the rest is 0. */
static void pack_tail(unsigned char *out, const struct source *source, size_t at, size_t cols)
{
    unsigned char tail[AMX_ROWS][STEP_BYTES] = {{0}};
    struct source copy = *source;
    for (size_t i = 0; i < AMX_ROWS; i++) {
        memcpy(tail[i], source->rows[i] + at, 2 * cols);
        copy.rows[i] = tail[i];
    }
    pack(out, &copy, 0);
}

/* ---- multiplying ---- */

/* Weights that become tiles on the way. */
struct raw {
    moe_bf16_unpack_fn *unpack;
    unsigned char *panel;
    const unsigned char *w;
    size_t w_stride, group_bytes, rows;
    size_t row_bytes;                /* of the segment's columns */
};

/* What a block of rows and up to three blocks of tokens are made of. */
struct product {
    size_t rows[2], tokens[MOST_BLOCKS];     /* of each part; 0: there is none */
    size_t blocks;                           /* of tokens */
    const unsigned char *w[2];       /* step s is w_step * (s mod w_steps) further */
    unsigned char *x[MOST_BLOCKS];
    size_t w_stride, w_step, w_steps, x_stride[MOST_BLOCKS], x_step[MOST_BLOCKS];
    size_t steps, tail;              /* whole steps; columns of one more */
    struct source from[MOST_BLOCKS]; /* what x is packed from, on the way */
    size_t first;                    /* step of from */
    bool packs;
    const unsigned char *next;       /* weights of the block of rows that follows; NULL: nothing is fetched */
    const struct raw *raw;           /* NULL: the tiles are there */
};

static inline void fetch_head(const unsigned char *row)
{
    for (size_t i = 0; i < HEAD_LINES; i++)
        _mm_prefetch((const char *)row + i * LINE, _MM_HINT_T1);
}

static void shape_tiles(struct work *work, const struct product *p)
{
    struct amx_config config = {.palette = 1};
    for (size_t i = 0; i < 8 && p->blocks == MOST_BLOCKS; i++)
        amx_shape(&config, i, AMX_ROWS, AMX_ROW_BYTES);
    for (size_t i = 0; i < 2 && p->blocks < MOST_BLOCKS; i++) {
        amx_shape(&config, 4 + i, p->rows[i], STEP_BYTES);
        amx_shape(&config, 6 + i, p->tokens[i] > 0 ? AMX_ROWS : 0, 4 * p->tokens[i]);
        for (size_t j = 0; j < 2; j++)
            amx_shape(&config, 2 * i + j, p->tokens[j] > 0 ? p->rows[i] : 0, 4 * p->tokens[j]);
    }
    if (memcmp(&config, &work->config, sizeof config) == 0)
        return;
    work->config = config;
    amx_configure(&work->config);
}

static inline void step_three(const struct product *p, size_t w_at, size_t step)
{
    _tile_loadd(6, p->w[0] + w_at, p->w_stride);
    _tile_loadd(7, p->x[0] + step * AMX_TILE_BYTES, LINE);
    _tile_dpbf16ps(0, 6, 7);
    _tile_loadd(7, p->x[1] + step * AMX_TILE_BYTES, LINE);
    _tile_dpbf16ps(1, 6, 7);
    _tile_loadd(7, p->x[2] + step * AMX_TILE_BYTES, LINE);
    _tile_dpbf16ps(4, 6, 7);
    _tile_loadd(6, p->w[1] + w_at, p->w_stride);
    _tile_dpbf16ps(5, 6, 7);
    _tile_loadd(7, p->x[1] + step * AMX_TILE_BYTES, LINE);
    _tile_dpbf16ps(3, 6, 7);
    _tile_loadd(7, p->x[0] + step * AMX_TILE_BYTES, LINE);
    _tile_dpbf16ps(2, 6, 7);
}

static inline void step_tiles(const struct product *p, size_t w_at, size_t step, bool two_rows, size_t blocks)
{
    if (blocks == MOST_BLOCKS) {
        step_three(p, w_at, step);
        return;
    }
    _tile_loadd(4, p->w[0] + w_at, p->w_stride);
    _tile_loadd(6, p->x[0] + step * p->x_step[0], p->x_stride[0]);
    _tile_dpbf16ps(0, 4, 6);
    if (blocks == 2) {
        _tile_loadd(7, p->x[1] + step * p->x_step[1], p->x_stride[1]);
        _tile_dpbf16ps(1, 4, 7);
    }
    if (!two_rows)
        return;
    _tile_loadd(5, p->w[1] + w_at, p->w_stride);
    _tile_dpbf16ps(2, 5, 6);
    if (blocks == 2)
        _tile_dpbf16ps(3, 5, 7);
}

static inline void pack_step(const struct product *p, size_t step, size_t blocks)
{
    for (size_t j = 0; j < blocks; j++) {
        unsigned char *out = p->x[j] + step * p->x_step[j];
        size_t at = (p->first + step) * STEP_BYTES;
        if (step < p->steps)
            pack(out, &p->from[j], at);
        else if (step == p->steps && p->tail > 0)
            pack_tail(out, &p->from[j], at, p->tail);
    }
}

/* Part i is PART_ROWS rows of group i / GROUP_STEPS. */
static inline void unpack_part(const struct product *p, size_t i)
{
    const struct raw *raw = p->raw;
    size_t group = i / GROUP_STEPS, row = i % GROUP_STEPS * PART_ROWS, step = group * GROUP_STEPS;
    if (step >= p->steps || row >= raw->rows)
        return;
    size_t at = group * raw->group_bytes + row * raw->w_stride;
    raw->unpack(raw->panel + step % p->w_steps * MOE_BF16_PANEL_BYTES + row * LINE, raw->w + at, raw->w_stride,
                smaller(PART_ROWS, raw->rows - row), smaller(GROUP_STEPS, p->steps - step));
}

/* Raw weights of the next block, in the order of their addresses, a few lines at a time. */
struct fetch {
    const unsigned char *row;        /* NULL: none */
    size_t column, row_bytes, row_stride, due, each;
};

static inline struct fetch fetch_of(const struct product *p)
{
    const struct raw *raw = p->raw;
    if (raw == NULL || p->next == NULL || p->steps == 0)
        return (struct fetch){.row = NULL};
    bool whole = raw->row_bytes == raw->w_stride;
    return (struct fetch){p->next, 0, whole ? SIZE_MAX : raw->row_bytes, raw->w_stride, 0,
                          BLOCK_ROWS * raw->row_bytes / p->steps + 1};
}

static inline void fetch_step(struct fetch *f)
{
    if (f->row == NULL)
        return;
    for (f->due += f->each; f->due >= FETCH_LINES * LINE; f->due -= FETCH_LINES * LINE) {
        for (size_t i = 0; i < FETCH_LINES; i++)
            _mm_prefetch((const char *)f->row + f->column + i * LINE, _MM_HINT_T1);
        f->column += FETCH_LINES * LINE;
        if (f->column >= f->row_bytes) {
            f->column = 0;
            f->row += f->row_stride;
        }
    }
}

/* The last step, of fewer columns: weights are copied, with zeros for the rest. */
static inline void multiply_tail(const struct product *p, bool two_rows, size_t blocks)
{
    unsigned char copy[2][AMX_ROWS][STEP_BYTES] = {{{0}}};
    for (size_t i = 0; i < 2; i++)
        for (size_t r = 0; r < p->rows[i]; r++)
            memcpy(copy[i][r], p->w[i] + r * p->w_stride + p->steps * STEP_BYTES, 2 * p->tail);
    struct product last = *p;
    last.w[0] = copy[0][0];
    last.w[1] = copy[1][0];
    last.w_stride = STEP_BYTES;
    amx_stored();
    step_tiles(&last, 0, p->steps, two_rows, blocks);
}

static inline void multiply_steps(const struct product *p, bool two_rows, size_t blocks)
{
    const unsigned char *fetch = p->raw == NULL ? p->next : NULL;
    struct fetch raw_fetch = fetch_of(p);
    for (size_t i = 0; p->raw != NULL && i < GROUP_STEPS; i++)
        unpack_part(p, i);
    for (size_t s = 0; p->packs && s < PACK_AHEAD; s++)
        pack_step(p, s, blocks);
    for (size_t s = 0, place = 0, due = 0; s < p->steps; s++, place = place + 1 == p->w_steps ? 0 : place + 1) {
        if (p->packs)
            pack_step(p, s + PACK_AHEAD, blocks);
        if (p->raw != NULL) {
            fetch_step(&raw_fetch);
            unpack_part(p, s + GROUP_STEPS);
        }
        for (due += fetch != NULL ? BLOCK_ROWS : 0; due >= p->steps; due -= p->steps, fetch += p->w_stride)
            fetch_head(fetch);
        amx_stored();
        step_tiles(p, place * p->w_step, s, two_rows, blocks);
    }
    if (p->tail > 0)
        multiply_tail(p, two_rows, blocks);
}

static void multiply(const struct product *p)
{
    if (p->blocks == MOST_BLOCKS)
        multiply_steps(p, true, MOST_BLOCKS);
    else if (p->rows[1] > 0 && p->blocks == 2)
        multiply_steps(p, true, 2);
    else if (p->rows[1] > 0)
        multiply_steps(p, true, 1);
    else if (p->blocks == 2)
        multiply_steps(p, false, 2);
    else
        multiply_steps(p, false, 1);
}

/* Where the unfinished sums of 16 rows and a block of tokens are. */
static unsigned char *sums_of(const struct work *work, size_t row, size_t block)
{
    return work->sums + (row / AMX_ROWS * work->blocks + block) * AMX_TILE_BYTES;
}

static void zero_tile(size_t tile)
{
    switch (tile) {
    case 0: _tile_zero(0); break;
    case 1: _tile_zero(1); break;
    case 2: _tile_zero(2); break;
    case 3: _tile_zero(3); break;
    case 4: _tile_zero(4); break;
    default: _tile_zero(5); break;
    }
}

static void load_tile(size_t tile, const unsigned char *at)
{
    switch (tile) {
    case 0: _tile_loadd(0, at, LINE); break;
    case 1: _tile_loadd(1, at, LINE); break;
    case 2: _tile_loadd(2, at, LINE); break;
    case 3: _tile_loadd(3, at, LINE); break;
    case 4: _tile_loadd(4, at, LINE); break;
    default: _tile_loadd(5, at, LINE); break;
    }
}

static void store_tile(size_t tile, unsigned char *at)
{
    switch (tile) {
    case 0: _tile_stored(0, at, LINE); break;
    case 1: _tile_stored(1, at, LINE); break;
    case 2: _tile_stored(2, at, LINE); break;
    case 3: _tile_stored(3, at, LINE); break;
    case 4: _tile_stored(4, at, LINE); break;
    default: _tile_stored(5, at, LINE); break;
    }
}

/* The tile that sums rows i and tokens j. */
static inline size_t tile_of(size_t i, size_t j)
{
    return j < 2 ? 2 * i + j : 4 + i;
}

/* From 0, or from where the last segment ended. */
static void start_sums(const struct work *work, const struct product *p, size_t row, size_t block, bool first)
{
    amx_stored();
    for (size_t i = 0; i < 2 && p->rows[i] > 0; i++)
        for (size_t j = 0; j < p->blocks; j++) {
            if (first)
                zero_tile(tile_of(i, j));
            else
                load_tile(tile_of(i, j), sums_of(work, row + i * AMX_ROWS, block + j));
        }
}

static void put_sums(const struct work *work, const unsigned char *sums, size_t row, size_t rows, size_t block)
{
    const struct moe_linear_rounded_args *a = work->a;
    const unsigned char *from[AMX_ROWS];
    unsigned char columns[AMX_TILE_BYTES];
    size_t tokens = block_tokens(work, block);
    for (size_t i = 0; i < AMX_ROWS; i++)
        from[i] = sums + i * LINE;
    transpose(columns, from, 0);
    __mmask16 lanes = (__mmask16)((1u << rows) - 1);
    for (size_t t = 0; t < tokens; t++)
        _mm512_mask_storeu_ps(a->y + (block * AMX_ROWS + t) * a->y_stride + row, lanes,
                              _mm512_loadu_ps(columns + t * LINE));
}

static void store_sums(const struct work *work, const struct product *p, size_t row, size_t block, bool last)
{
    for (size_t i = 0; i < 2 && p->rows[i] > 0; i++)
        for (size_t j = 0; j < p->blocks; j++) {
            unsigned char finished[AMX_TILE_BYTES];
            store_tile(tile_of(i, j), last ? finished : sums_of(work, row + i * AMX_ROWS, block + j));
            if (last)
                put_sums(work, finished, row + i * AMX_ROWS, p->rows[i], block + j);
        }
}

/* Where steps first.. of a row are, from its beginning: bytes. Segments of unpacked weights begin with a group. */
static size_t bytes_at(const struct work *work, size_t step)
{
    return work->unpack != NULL ? step / GROUP_STEPS * work->group_bytes : step * STEP_BYTES;
}

/* 32 rows from row on, some blocks of tokens from block on, steps first.. end. */
static void multiply_block(struct work *work, size_t row, size_t block, size_t blocks, size_t first, size_t end,
                           const unsigned char *next)
{
    const struct moe_linear_rounded_args *a = work->a;
    struct product p = {.blocks = blocks, .first = first, .packs = row == 0, .next = next};
    size_t rows = smaller(BLOCK_ROWS, work->rows - row);
    const unsigned char *w = a->w + row * a->w_stride + bytes_at(work, first);
    struct raw raw = {work->unpack, work->panel, w, a->w_stride, work->group_bytes, rows,
                      bytes_at(work, end + GROUP_STEPS - 1) - bytes_at(work, first)};
    p.raw = work->unpack != NULL && block == 0 ? &raw : NULL;
    p.w_stride = work->unpack != NULL ? LINE : a->w_stride;
    p.w_step = work->unpack != NULL ? MOE_BF16_PANEL_BYTES : STEP_BYTES;
    p.w_steps = work->unpack != NULL ? work->panel_steps : work->steps;
    p.w[0] = work->unpack != NULL ? work->panel : w;
    for (size_t i = 0; i < 2; i++)
        p.rows[i] = rows > i * AMX_ROWS ? smaller(AMX_ROWS, rows - i * AMX_ROWS) : 0;
    p.w[1] = p.w[0] + (p.rows[1] > 0 ? AMX_ROWS : 0) * p.w_stride;
    for (size_t j = 0; j < blocks; j++) {
        p.tokens[j] = block_tokens(work, block + j);
        if (p.packs)
            p.from[j] = source_of(work, block + j);
        size_t width = block_width(work, block + j);
        p.x[j] = work->x + (block + j) * (end - first) * AMX_TILE_BYTES;
        p.x_stride[j] = 4 * width;
        p.x_step[j] = LINE * width;
    }
    p.tail = end == work->steps ? a->cols % STEP : 0;
    p.steps = end - first - (p.tail > 0);
    shape_tiles(work, &p);
    start_sums(work, &p, row, block, first == 0);
    multiply(&p);
    store_sums(work, &p, row, block, end == work->steps);
}

/* Blocks of tokens that are multiplied at once: three where that leaves none or more than one. */
static size_t blocks_at_once(const struct work *work, size_t row, size_t block)
{
    size_t left = work->blocks - block;
    return left >= MOST_BLOCKS && left != 4 && work->rows - row >= BLOCK_ROWS ? MOST_BLOCKS : smaller(left, 2);
}

/* All rows and tokens of args, which fit. */
static void run(struct work *work, const unsigned char *next)
{
    const struct moe_linear_rounded_args *a = work->a;
    for (size_t first = 0; first < work->steps; first += work->segment) {
        size_t end = smaller(first + work->segment, work->steps);
        for (size_t r = 0; r < work->rows; r += BLOCK_ROWS) {
            const unsigned char *following = end < work->steps ? a->w + bytes_at(work, end) : next;
            if (r + BLOCK_ROWS < work->rows)
                following = a->w + (r + BLOCK_ROWS) * a->w_stride + bytes_at(work, first);
            for (size_t b = 0, blocks; b < work->blocks; b += blocks) {
                blocks = blocks_at_once(work, r, b);
                bool fetches = work->unpack != NULL ? b == 0 : b + blocks == work->blocks;
                multiply_block(work, r, b, blocks, first, end, fetches ? following : NULL);
            }
        }
    }
}

/* How much of a row is multiplied at once: all where x, and a block of unpacked weights, fit into scratch, otherwise
 * chunks of rows, and segments of columns as even as can be. Gives back the rows of a chunk. */
static size_t divide_scratch(struct work *work, const struct moe_linear_rounded_args *a)
{
    size_t x_bytes = (work->blocks - 1) * AMX_TILE_BYTES + LINE * block_width(work, work->blocks - 1), chunk = a->rows;
    size_t step_bytes = x_bytes + (work->unpack != NULL ? MOE_BF16_PANEL_BYTES : 0);
    work->x = a->scratch;
    work->segment = work->steps;
    if (work->steps * step_bytes > MOE_ROUNDED_SCRATCH) {
        size_t sums = CHUNK_ROWS / AMX_ROWS * work->blocks * AMX_TILE_BYTES;
        size_t even = work->unpack != NULL ? GROUP_STEPS : 1;
        size_t most = (MOE_ROUNDED_SCRATCH - sums) / step_bytes / even * even;
        size_t segments = (work->steps + most - 1) / most, each = (work->steps + segments - 1) / segments;
        work->segment = (each + even - 1) / even * even;
        work->sums = work->x + MOE_ROUNDED_SCRATCH - sums;
        chunk = CHUNK_ROWS;
    }
    work->panel = work->x + work->segment * x_bytes;
    work->panel_steps = (work->segment + GROUP_STEPS - 1) / GROUP_STEPS * GROUP_STEPS;
    if (work->blocks <= (a->rows % BLOCK_ROWS == 0 ? MOST_BLOCKS : 2) && work->panel_steps > RING_STEPS)
        work->panel_steps = RING_STEPS;
    return chunk;
}

/* Up to MOST_TOKENS tokens. */
static void run_tokens(struct work *work, const struct moe_linear_rounded_args *a)
{
    work->tokens = a->num_tokens;
    work->steps = (a->cols + STEP - 1) / STEP;
    work->blocks = (work->tokens + AMX_ROWS - 1) / AMX_ROWS;
    size_t chunk = divide_scratch(work, a);
    for (size_t r = 0; r < a->rows; r += chunk) {
        struct moe_linear_rounded_args part = *a;
        part.w += r * a->w_stride;
        part.y += r;
        work->a = &part;
        work->rows = smaller(chunk, a->rows - r);
        run(work, r + chunk < a->rows ? part.w + chunk * a->w_stride : a->next);
    }
}

void moe_linear_bf16_run_amx(const struct moe_linear_rounded_args *args, moe_bf16_unpack_fn *unpack,
                             size_t group_bytes)
{
    struct work work = {.unpack = unpack, .group_bytes = group_bytes};
    for (size_t t = 0; t < args->num_tokens; t += MOST_TOKENS) {
        struct moe_linear_rounded_args part = *args;
        part.num_tokens = smaller(MOST_TOKENS, args->num_tokens - t);
        part.y += t * args->y_stride;
        if (args->x_rows != NULL)
            part.x_rows += t;
        else
            part.x += t * args->x_stride;
        part.next = t + MOST_TOKENS < args->num_tokens ? NULL : args->next;
        run_tokens(&work, &part);
    }
    _tile_release();
}
