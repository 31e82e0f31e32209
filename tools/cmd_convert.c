// SPDX-License-Identifier: MIT
// moe convert: a Hugging Face directory or a GGUF file to a GGUF file in another format, a few rows at a time.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert.h"
#include "describe.h"
#include "guard.h"
#include "options.h"
#include "progress.h"

/* Values that are in memory as f32 at a time: 4 MB per thread, so that they and their blocks stay in the cache, and
 * 16 MB in all, so that a convert needs some 32 MB whatever the size of the model. */
#define CHUNK_VALUES ((size_t)1 << 20)
#define ALL_VALUES ((size_t)4 << 20)
#define MOST_THREADS 64
#define STACK_BYTES ((size_t)256 << 10)

static const char about[] =
    "Writes a GGUF file with llama.cpp's names and keys. IN is a Hugging Face directory (names are translated; the\n"
    "vocabulary comes from its tokenizer.json; experts may be quantised: FP8, MXFP4, NVFP4, GPTQ, AWQ and so on) or a\n"
    "GGUF file, also split (names and metadata stay).\n"
    "F is a format that `moe info` lists, or 'keep', the format that IN has (bf16 for one that GGUF does not have).\n"
    "Matrices of experts, shared experts, attention and embeddings get F; norms, routers, biases and selection biases\n"
    "are f32. mxfp4 and nvfp4 are for experts, what is outside gets q8_0. Some formats can only be read, not made:\n"
    "they do for matrices that have them in IN. FP4 of a Hugging Face directory goes to mxfp4 or nvfp4 bit by bit.\n"
    "Where a matrix has columns that are no whole number of blocks (256 values for q4_k, 32 for q8_0), it gets q8_0,\n"
    "and where 32 does not divide either, f16; the summary says which.\n"
    "A rule gives the tensors whose name in OUT has a pattern ('*' any characters, '?' one) another format. Of\n"
    "several that fit the last counts, and all count before --format, --down and --experts-only; a rule that fits no\n"
    "matrix is an error. `moe info OUT --tensors` lists names.\n"
    "llama.cpp pairs the rotary dimensions of some architectures (llama, granitemoe) as neighbours, Hugging Face as\n"
    "halves: there, and only there, the rows of attn_q and attn_k are reordered, so that attention computes the same.\n"
    "A model whose layers llama.cpp's keys cannot describe (an activation that is not the architecture's, dense\n"
    "layers where it has none) is refused: the file's header is read back and compared before values are written.\n"
    "A few rows are in memory at a time, of mapped files. OUT appears when it is complete; until then it has another\n"
    "name in the same folder. It must not be a file of IN.";

static const char examples[] =
    "  moe convert models/bard bard.gguf --format q8_0\n"
    "  moe convert models/bard bard.gguf --format q4_k --down q6_k      down matrices are the most sensitive\n"
    "  moe convert models/bard bard.gguf --format q4_k --rule 'blk.0.*=q8_0' --rule '*_down_exps.weight=q6_k'\n"
    "      layer 0 in q8_0, but down matrices in q6_k in all layers\n"
    "  moe convert gpt-oss gpt-oss.gguf --format keep                   MXFP4 stays MXFP4, bf16 stays bf16\n"
    "  moe convert bard-f32.gguf bard-q4.gguf --format q4_0 --experts-only\n"
    "  moe check bard.gguf --reference models/bard/reference.safetensors\n"
    "      what the format costs, layer by layer";

struct convert {
    const char *in, *out, *describe;
    struct convert_options options;
    struct convert_rule rules[CONVERT_MOST_RULES];
    struct session session;
    const struct names_family *family;    /* NULL: the input is a GGUF file */
    struct convert_layers layers;         /* of a Hugging Face model */
    struct plan plan;
    struct gguf_header header;
    struct outfile file;
    struct progress progress;
    size_t threads;
    pthread_attr_t stack;                 /* a small one: quantising needs little */
};

/* One thread's share of a run of rows. */
struct share {
    struct convert *convert;
    const struct plan_tensor *tensor;
    size_t e, row, num_rows;
    float *values;
    void *blocks;
    pthread_t thread;
    bool started;
    int code;
};

static void *quantise(void *arg)
{
    struct share *share = arg;
    share->code = plan_blocks(share->tensor, &share->convert->session, share->e, share->row, share->num_rows,
                              share->values, share->blocks);
    return NULL;
}

/* Rows row .. row + num_rows - 1 of matrix e, shared out between the threads, then written in order. */
static int write_rows(struct convert *convert, const struct plan_tensor *tensor, struct share *shares, size_t e,
                      size_t row, size_t num_rows)
{
    size_t each = (num_rows + convert->threads - 1) / convert->threads, count = 0;
    for (size_t done = 0; done < num_rows; done += each) {
        struct share *share = &shares[count++];
        share->tensor = tensor;
        share->e = e;
        share->row = row + done;
        share->num_rows = num_rows - done < each ? num_rows - done : each;
        share->started = count > 1 && pthread_create(&share->thread, &convert->stack, quantise, share) == 0;
    }
    int code = TOOL_OK;
    for (size_t i = 0; i < count; i++) {
        if (!shares[i].started)
            quantise(&shares[i]);
        else
            pthread_join(shares[i].thread, NULL);
    }
    for (size_t i = 0; i < count && code == TOOL_OK; i++) {
        size_t bytes = shares[i].num_rows * moe_format_row_bytes((enum moe_format)tensor->type, tensor->cols);
        code = shares[i].code;
        if (code == TOOL_OK && !outfile_write(&convert->file, shares[i].blocks, bytes))
            code = TOOL_INPUT;
        progress_add(&convert->progress, bytes);
    }
    return code;
}

static int write_converted(struct convert *convert, const struct plan_tensor *tensor)
{
    size_t values = ALL_VALUES / convert->threads < CHUNK_VALUES ? ALL_VALUES / convert->threads : CHUNK_VALUES;
    size_t chunk = tensor->cols ? values / tensor->cols : 1;
    chunk = chunk < 1 ? 1 : chunk > tensor->rows ? tensor->rows : chunk;
    size_t row_bytes = moe_format_row_bytes((enum moe_format)tensor->type, tensor->cols);
    struct share shares[MOST_THREADS];
    int code = TOOL_OK;
    for (size_t i = 0; i < convert->threads; i++) {
        shares[i] = (struct share){.convert = convert, .values = tool_alloc(chunk * tensor->cols, sizeof(float)),
                                   .blocks = tool_alloc(chunk, row_bytes)};
        if (!shares[i].values || !shares[i].blocks)
            code = TOOL_INPUT;
    }
    size_t step = chunk * convert->threads;
    for (size_t e = 0; code == TOOL_OK && e < tensor->count; e++)
        for (size_t row = 0; code == TOOL_OK && row < tensor->rows; row += step)
            code = write_rows(convert, tensor, shares, e, row, tensor->rows - row < step ? tensor->rows - row : step);
    for (size_t i = 0; i < convert->threads; i++) {
        free(shares[i].values);
        free(shares[i].blocks);
    }
    return code;
}

static int write_copy(struct convert *convert, const struct plan_tensor *tensor)
{
    struct moe_error error = {0};
    const void *data;
    enum moe_status status = moe_model_tensor_data(convert->session.model, tensor->input, &data, &error);
    if (status != MOE_OK)
        return tool_fail_moe(status, &error, tensor->input);
    for (uint64_t done = 0; done < tensor->bytes;) {
        size_t now = tensor->bytes - done < CHUNK_VALUES ? (size_t)(tensor->bytes - done) : CHUNK_VALUES;
        if (!outfile_write(&convert->file, (const char *)data + done, now))
            return TOOL_INPUT;
        done += now;
        progress_add(&convert->progress, now);
    }
    return TOOL_OK;
}

static int write_file(struct convert *convert)
{
    struct plan *plan = &convert->plan;
    uint64_t total = 0;
    for (size_t i = 0; i < plan->num_tensors; i++) {
        struct plan_tensor *t = &plan->tensors[i];
        gguf_add_tensor(&convert->header, t->name, t->type, t->shape, t->num_dims, t->bytes);
        total += t->bytes;
    }
    if (!outfile_open(&convert->file, convert->out) || !gguf_write(&convert->header, &convert->file))
        return TOOL_INPUT;
    int code = TOOL_OK;
    if (convert->family)
        code = convert_verify(&convert->session, convert->family, &convert->file, gguf_file_size(&convert->header));
    progress_begin(&convert->progress, "convert", total);
    convert->progress.bytes = true;
    for (size_t i = 0; code == TOOL_OK && i < plan->num_tensors; i++) {
        struct plan_tensor *t = &plan->tensors[i];
        code = t->source == PLAN_COPY ? write_copy(convert, t) : write_converted(convert, t);
        if (code == TOOL_OK && !outfile_pad(&convert->file, GGUF_ALIGNMENT))
            code = TOOL_INPUT;
    }
    progress_end(&convert->progress);
    if (code == TOOL_OK && !outfile_commit(&convert->file))
        code = TOOL_INPUT;
    return code;
}

static void report(const struct convert *convert)
{
    const struct plan *plan = &convert->plan;
    char bytes[32];
    const char *format = convert->options.keep ? "formats kept" : describe_format(convert->options.format);
    printf("%s: %s, %zu tensors, %s\n", convert->out, format, plan->num_tensors,
           tool_bytes(bytes, convert->file.written));
    for (size_t i = 0; i < plan->num_fallbacks; i++) {
        const struct plan_fallback *f = &plan->fallbacks[i];
        printf("  %s for %zu %s: %zu columns are no whole number of %s blocks\n", describe_format(f->taken), f->count,
               f->kind, f->cols, describe_format(f->wanted));
    }
    if (plan->num_exact)
        printf("  without rounding: %zu FP4 matrices\n", plan->num_exact);
    if (plan->num_extra)
        printf("  left out: %zu tensors behind the last layer, or that can be computed\n", plan->num_extra);
    fflush(stdout);
    if (plan->num_unknown)
        tool_note("left out %zu tensors without a name in llama.cpp's files, the first of them '%s'", plan->num_unknown,
                  plan->first_unknown);
    if (convert->family)
        convert_note_layers(convert->family, &convert->layers);
    if (plan->requantised != MOE_FORMAT_F32)
        tool_note("the input was already quantised (%s); quantising again adds to its error",
                  describe_format(plan->requantised));
}

/* Formats that are only read must be those that the input has, and every rule must have a use. */
static int check_plan(const struct convert *convert)
{
    for (size_t i = 0; i < convert->plan.num_tensors; i++) {
        const struct plan_tensor *t = &convert->plan.tensors[i];
        bool as_is = t->source == PLAN_COPY || t->source == PLAN_FP4 || t->source == PLAN_INTEGERS;
        if (!as_is && !moe_format_can_quantise((enum moe_format)t->type))
            return tool_fail(TOOL_INPUT,
                             "tensor '%s' cannot become %s: that format can only be read, not made; a rule can give it "
                             "another (--rule '%s=q8_0')",
                             t->name, describe_format((enum moe_format)t->type), t->name);
    }
    for (size_t i = 0; i < convert->options.num_rules; i++)
        if (!convert->options.rules[i].used)
            return tool_fail(TOOL_USAGE, "moe convert: --rule '%s' fits no matrix of %s",
                             convert->options.rules[i].text, convert->out);
    return TOOL_OK;
}

static int make_plan(struct convert *convert)
{
    const struct moe_model_info *info = &convert->session.info;
    if (strcmp(info->container, "gguf") == 0) {
        int code = plan_gguf(&convert->plan, &convert->session, &convert->options);
        return code == TOOL_OK ? convert_copy_metadata(&convert->header, &convert->session, &convert->options) : code;
    }
    convert->family = info->family ? names_find(info->family) : NULL;
    if (!convert->family)
        return tool_fail(TOOL_INPUT, "%s: llama.cpp has no names for models of family %s", convert->in,
                         info->family ? info->family : "?");
    int code = convert_check_layers(&convert->session, convert->family, &convert->layers);
    if (code == TOOL_OK)
        code = plan_huggingface(&convert->plan, &convert->session, convert->family, &convert->options);
    if (code != TOOL_OK)
        return code;
    return convert_metadata(&convert->header, &convert->session, convert->family, convert->in, &convert->options,
                            &convert->layers);
}

static int run(struct convert *convert)
{
    if (guard_of_model(convert->in, convert->out))
        return tool_fail(TOOL_USAGE, "moe convert: OUT, %s, would be a file of IN, %s; choose another name",
                         convert->out, convert->in);
    int code = session_open(&convert->session, NULL, 0, convert->in, convert->describe);
    if (code == TOOL_OK)
        code = make_plan(convert);
    if (code == TOOL_OK)
        code = check_plan(convert);
    if (code == TOOL_OK)
        code = write_file(convert);
    if (code == TOOL_OK)
        report(convert);
    outfile_discard(&convert->file);
    gguf_free(&convert->header);
    plan_free(&convert->plan);
    session_close(&convert->session);
    return code;
}

static bool parse_format(const char *text, const char *option, enum moe_format *out, bool *keep)
{
    *keep = strcmp(text, "keep") == 0;
    *out = MOE_FORMAT_BF16;
    const struct moe_format_info *info = moe_format_find(text);
    if (*keep)
        return true;
    if (info && plan_is_gguf(info->format)) {
        *out = info->format;
        return true;
    }
    char names[320] = "keep";
    for (size_t i = 0; moe_format_at(i); i++)
        if (plan_is_gguf(moe_format_at(i)->format))
            tool_append(names, sizeof names, ", %s", moe_format_at(i)->name);
    tool_fail(TOOL_USAGE, "moe convert: %s: there is no weight format '%s'; there are %s", option, text, names);
    return false;
}

static bool parse_rules(struct convert *convert, const struct option_strings *texts)
{
    for (size_t i = 0; i < texts->count; i++) {
        struct convert_rule *rule = &convert->rules[i];
        const char *equals = strrchr(texts->items[i], '=');
        *rule = (struct convert_rule){.text = texts->items[i]};
        if (!equals || equals == rule->text) {
            tool_fail(TOOL_USAGE, "moe convert: --rule takes PATTERN=F, not '%s'", rule->text);
            return false;
        }
        if (!parse_format(equals + 1, "--rule", &rule->format, &rule->keep))
            return false;
    }
    convert->options.rules = convert->rules;
    convert->options.num_rules = texts->count;
    return true;
}

int cmd_convert(int argc, char **argv)
{
    struct convert convert = {.plan = {.requantised = MOE_FORMAT_F32}};
    const char *format = NULL, *down = NULL, *operands[2], *rules[CONVERT_MOST_RULES];
    struct option_strings texts = {rules, 0, CONVERT_MOST_RULES};
    const struct option_row rows[] = {
        {"format", OPTION_STRING, &format, "F", "format of the matrices (required)"},
        {"down", OPTION_STRING, &down, "F", "another one for the experts' down matrices"},
        {"rule", OPTION_STRINGS, &texts, "PATTERN=F", "another one for tensors of such names; may be repeated"},
        {"experts-only", OPTION_FLAG, &convert.options.experts_only, NULL,
         "leave matrices outside the experts in the format they have"},
        {"describe", OPTION_STRING, &convert.describe, "FILE", "what IN is (docs/describe.md), not its metadata"},
        {"threads", OPTION_SIZE, &convert.threads, "N", "default: all CPUs of the machine"},
        {NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct option_page page = {"moe convert", "IN OUT.gguf", 2, 2, about, rows, examples};
    enum option_result parsed = options_parse(&page, argc, argv, operands);
    if (parsed != OPTIONS_OK)
        return parsed == OPTIONS_HELP ? TOOL_OK : TOOL_USAGE;
    if (!format)
        return tool_fail(TOOL_USAGE, "moe convert needs --format; `moe convert --help` lists the formats");
    if (!parse_format(format, "--format", &convert.options.format, &convert.options.keep) ||
        !parse_format(down ? down : format, "--down", &convert.options.down, &convert.options.keep_down) ||
        !parse_rules(&convert, &texts))
        return TOOL_USAGE;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (!convert.threads)
        convert.threads = cpus > 0 ? (size_t)cpus : 1;
    if (convert.threads > MOST_THREADS)
        convert.threads = MOST_THREADS;
    convert.in = operands[0];
    convert.out = operands[1];
    if (pthread_attr_init(&convert.stack) != 0 || pthread_attr_setstacksize(&convert.stack, STACK_BYTES) != 0)
        return tool_fail(TOOL_INPUT, "threads cannot be prepared");
    int code = run(&convert);
    pthread_attr_destroy(&convert.stack);
    return code;
}
