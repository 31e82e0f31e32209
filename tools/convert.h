// SPDX-License-Identifier: MIT
// What `moe convert` is made of: a plan of the tensors to write and where their values come from, and the metadata.
#ifndef CONVERT_H
#define CONVERT_H

#include "gguf_write.h"
#include "names.h"
#include "session.h"

enum { CONVERT_MOST_RULES = 64 };

/* Another format for the tensors whose name in OUT has the pattern. */
struct convert_rule {
    const char *text;                   /* as given: PATTERN=FORMAT; the pattern ends at the last '=' */
    enum moe_format format;
    bool keep;                          /* the format of IN; format does not count */
    size_t used;
};

struct convert_options {
    enum moe_format format;             /* of gate, up, and of other matrices unless experts_only */
    enum moe_format down;               /* of down */
    bool keep, keep_down;               /* the format of IN instead */
    bool experts_only;                  /* matrices outside the experts keep the format they have */
    struct convert_rule *rules;         /* the last that fits counts */
    size_t num_rules;
};

/* Rows of a matrix whose values have their scales in another tensor. */
struct plan_scaled {
    struct moe_matrix matrix, scale;
    struct moe_scales scales;
};

enum plan_source {
    PLAN_COPY,       /* the input tensor's bytes */
    PLAN_TENSOR,     /* the input tensor, or rows of it from first_row on */
    PLAN_ROPE,       /* ... with the rows of each head reordered from halves to neighbouring pairs */
    PLAN_K_B,        /* of kv_b_proj: each head's key rows, transposed */
    PLAN_V_B,        /* ... its value rows */
    PLAN_MATRIX,     /* a layer's matrices */
    PLAN_FP4,        /* ... which are FP4 in blocks, as the output is: bits are moved, nothing is rounded */
    PLAN_FACTOR,     /* their second-level scales, one for each expert */
    PLAN_BIAS,       /* their biases */
    PLAN_VIEW,       /* a vector of the layer's description */
    PLAN_INTEGERS    /* likewise, of integers, written as i32 */
};

/* One tensor of the output: `count` matrices [rows, cols], written one after the other. */
struct plan_tensor {
    char *name;
    uint32_t type;                      /* GGUF's number */
    size_t shape[MOE_MAX_DIMS], num_dims;
    size_t count, rows, cols;
    uint64_t bytes;
    enum plan_source source;
    const char *input;                  /* COPY, TENSOR, ROPE, K_B, V_B: the input tensor's name */
    struct plan_scaled *scaled;         /* of it; NULL: its values are what its format says */
    size_t first_row;                   /* TENSOR */
    const struct moe_matrix *matrix;    /* MATRIX, FP4, FACTOR, BIAS */
    struct moe_view view;               /* VIEW, INTEGERS */
    size_t head_rows;                   /* ROPE: rows of a head; K_B, V_B: of both parts of a head */
};

/* Matrices whose columns are no whole number of blocks of the wanted format, by kind. */
struct plan_fallback {
    char kind[64];                      /* "ffn_down_exps" */
    enum moe_format wanted, taken;
    size_t cols, count;
};
#define PLAN_FALLBACKS 32

struct plan {
    struct plan_tensor *tensors;
    size_t num_tensors, capacity;
    struct plan_fallback fallbacks[PLAN_FALLBACKS];
    size_t num_fallbacks;
    size_t num_extra, num_unknown;      /* input tensors left out */
    const char *first_unknown;
    enum moe_format requantised;        /* a quantised format that was quantised again; F32: none */
    size_t num_exact;                   /* matrices of FP4 that were moved without rounding */
};

/* Plans for a Hugging Face model, whose names change, and for a GGUF file, whose names stay. TOOL_OK or exit code. */
int plan_huggingface(struct plan *plan, struct session *session, const struct names_family *family,
                     const struct convert_options *options);
int plan_gguf(struct plan *plan, struct session *session, const struct convert_options *options);
void plan_free(struct plan *plan);

/* Parts of a plan. plan_add: a tensor of that name, without a shape yet; NULL with the error printed. */
struct plan_tensor *plan_add(struct plan *plan, const char *name);
/* Set shape, sizes and type. num_dims 3: [count, rows, cols]; 2: [rows, cols]; 1: [rows * cols]. */
int plan_shape(struct plan_tensor *tensor, enum moe_format format, size_t num_dims, size_t count, size_t rows,
               size_t cols);
/* The format of a matrix of that name: what rules say, otherwise `usual`; own: what the input has,
 * MOE_FORMAT_PRIVATE if that is not one of GGUF's; and one whose blocks fit the columns. */
enum moe_format plan_format(struct plan *plan, const struct convert_options *options, const char *name,
                            enum moe_format usual, bool keep, enum moe_format own, size_t cols);
/* Tensors of block number `block` of a Hugging Face model. */
int plan_moe_block(struct plan *plan, const struct names_family *family, size_t block,
                   const struct moe_model_block *part, const struct convert_options *options);
/* Whether a format can stand in a GGUF file, as weights. */
bool plan_is_gguf(enum moe_format format);

/* Whether the matrix is FP4 in blocks of MXFP4, or of NVFP4, and which; MOE_FORMAT_PRIVATE: neither. */
enum moe_format fp4_format(const struct moe_matrix *matrix, size_t cols);
/* Blocks of that format of rows row .. row + num_rows - 1 of expert e. */
void fp4_rows(const struct moe_matrix *matrix, enum moe_format format, size_t rows, size_t cols, size_t e, size_t row,
              size_t num_rows, void *out);

/* Rows row .. row + num_rows - 1 of matrix e of a tensor, as f32. TOOL_OK or an exit code. */
int plan_rows(const struct plan_tensor *tensor, struct session *session, size_t e, size_t row, size_t num_rows,
              float *out);
/* The same as the bytes of the output; values: scratch for num_rows rows as f32. */
int plan_blocks(const struct plan_tensor *tensor, struct session *session, size_t e, size_t row, size_t num_rows,
                float *values, void *out);
/* The scales of an input tensor of a Hugging Face model, where they lie in a tensor of their own. *out is NULL where
 * there are none. TOOL_OK or an exit code. */
int plan_find_scales(struct session *session, const struct moe_tensor *input, struct plan_scaled **out);

/* The first MoE layer, how many dense layers come before it, and from there on one MoE layer every `step` layers. */
struct convert_layers {
    const struct moe_model_block *first;
    size_t num_dense, step;
    size_t num_hashed;                  /* layers at the beginning that route by token id */
    bool hash_apart;                    /* others do so too */
    bool lists;                         /* sizes or top_k differ by layer: keys are lists */
};

/* Find them and check that a GGUF file of the family says all that these layers compute. TOOL_OK or an exit code. */
int convert_check_layers(struct session *session, const struct names_family *family, struct convert_layers *out);
/* Say what the file says and llama.cpp does not look at. */
void convert_note_layers(const struct names_family *family, const struct convert_layers *layers);
/* Open the file that is being written, whose header is complete, and compare what its layers would compute with the
 * input's. TOOL_OK or an exit code. */
int convert_verify(struct session *session, const struct names_family *family, struct outfile *file, uint64_t size);

/* Metadata. path: the model as given, for its name and tokenizer.json. */
int convert_metadata(struct gguf_header *header, struct session *session, const struct names_family *family,
                     const char *path, const struct convert_options *options,
                     const struct convert_layers *layers);
int convert_copy_metadata(struct gguf_header *header, struct session *session, const struct convert_options *options);
int convert_tokenizer(struct gguf_header *header, struct session *session, const struct names_family *family,
                      const char *path);

/* A number of config.json, also below "text_config". false: not there, or not in range. */
bool convert_config_u32(struct session *session, const char *key, uint32_t *out);
bool convert_config_number(struct session *session, const char *key, double *out);

#endif
