// SPDX-License-Identifier: MIT
// What `moe convert` is made of: a plan of the tensors to write and where their values come from, and the metadata.
#ifndef CONVERT_H
#define CONVERT_H

#include "gguf_write.h"
#include "names.h"
#include "session.h"

struct convert_options {
    enum moe_format format;     /* of gate, up, and of other matrices unless experts_only */
    enum moe_format down;       /* of down */
    bool experts_only;          /* matrices outside the experts keep the format they have */
};

enum plan_source {
    PLAN_COPY,       /* the input tensor's bytes */
    PLAN_TENSOR,     /* the input tensor */
    PLAN_ROPE,       /* ... with the rows of each head reordered from halves to neighbouring pairs */
    PLAN_K_B,        /* of kv_b_proj: each head's key rows, transposed */
    PLAN_V_B,        /* ... its value rows */
    PLAN_MATRIX,     /* a layer's matrices */
    PLAN_BIAS,       /* their biases */
    PLAN_VIEW        /* a vector of the layer's description */
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
    const struct moe_matrix *matrix;    /* MATRIX, BIAS */
    struct moe_view view;               /* VIEW */
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
};

/* Plans for a Hugging Face model, whose names change, and for a GGUF file, whose names stay. TOOL_OK or exit code. */
int plan_huggingface(struct plan *plan, struct session *session, const struct names_family *family,
                     const struct convert_options *options);
int plan_gguf(struct plan *plan, struct session *session, const struct convert_options *options);
void plan_free(struct plan *plan);

/* Rows row .. row + num_rows - 1 of matrix e of a tensor, as f32. TOOL_OK or an exit code. */
int plan_rows(const struct plan_tensor *tensor, struct session *session, size_t e, size_t row, size_t num_rows,
              float *out);

/* The first MoE layer, and how many dense layers come before it. */
struct convert_layers {
    const struct moe_model_block *first;
    size_t num_dense;
};

/* Find them and check that a GGUF file of the family says all that these layers compute. TOOL_OK or an exit code. */
int convert_check_layers(struct session *session, const struct names_family *family, struct convert_layers *out);
/* Say what the file says and llama.cpp does not look at. */
void convert_note_layers(const struct names_family *family, const struct convert_layers *layers);

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
