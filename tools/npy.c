// SPDX-License-Identifier: MIT
// NumPy's .npy files. Layout: "\x93NUMPY", major, minor, header length (2 bytes in version 1, 4 later), a Python dict
// of descr, fortran_order and shape as text, padded with spaces to a multiple of 64, then the values.
#include "npy.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "outfile.h"
#include "tool.h"

#define LONGEST_HEADER 65536u   /* a two-dimensional header has about 80 bytes */

struct header {
    char type;          /* 'f' or 'i' */
    size_t item;        /* bytes of a value */
    size_t rows, cols;
};

static bool bad(const char *path, const char *reason)
{
    tool_fail(TOOL_INPUT, "%s: %s", path, reason);
    return false;
}

/* What follows 'key': in the dict, blanks skipped; NULL if it is not there. */
static const char *value_of(const char *dict, const char *key)
{
    char quoted[32];
    for (int i = 0; i < 2; i++) {
        snprintf(quoted, sizeof quoted, i ? "\"%s\"" : "'%s'", key);
        const char *found = strstr(dict, quoted);
        if (!found)
            continue;
        found += strlen(quoted);
        found += strspn(found, " ");
        if (*found++ != ':')
            return NULL;
        return found + strspn(found, " ");
    }
    return NULL;
}

static bool parse_size(const char **text, size_t *out)
{
    *text += strspn(*text, " ");
    if (!isdigit((unsigned char)**text))
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(*text, &end, 10);
    if (errno || value > SIZE_MAX)
        return false;
    *out = (size_t)value;
    *text = end + strspn(end, " ");
    return true;
}

static bool parse_shape(const char *path, const char *text, struct header *header)
{
    bool two = text && *text++ == '(' && parse_size(&text, &header->rows) && *text++ == ',' &&
               parse_size(&text, &header->cols);
    if (two && *text == ',')
        text += 1 + strspn(text + 1, " ");
    if (!two || *text != ')')
        return bad(path, "the array must have two dimensions, [tokens, values]");
    return true;
}

static bool parse_header(const char *path, const char *dict, const char *types, struct header *header)
{
    const char *descr = value_of(dict, "descr"), *order = value_of(dict, "fortran_order");
    if (!descr || !order || (*descr != '\'' && *descr != '"') || strlen(descr) < 4)
        return bad(path, "not a valid .npy file: its header lacks descr or fortran_order");
    if (descr[1] == '>')
        return bad(path, "values are big-endian; save the array with astype('<f4') or astype('<i4')");
    if (strncmp(order, "False", 5) != 0)
        return bad(path, "the array is in Fortran order; save numpy.ascontiguousarray(array)");
    header->type = descr[2];
    header->item = (size_t)(descr[3] - '0');
    bool known = descr[1] == '<' && header->type == types[0] && strchr(types + 1, descr[3]) && descr[4] == descr[0];
    if (!known) {
        tool_fail(TOOL_INPUT, "%s: values have type %.*s, expected %s", path, (int)strcspn(descr + 1, "'\""), descr + 1,
                  types[0] == 'f' ? "floats: <f4 (<f2 and <f8 are converted)" : "integers: <i4 or <i8");
        return false;
    }
    return parse_shape(path, value_of(dict, "shape"), header);
}

static bool read_header(const char *path, FILE *file, const char *types, struct header *header)
{
    unsigned char start[12];
    if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0)
        return bad(path, "not a .npy file");
    if (start[6] < 1 || start[6] > 3)
        return bad(path, "a .npy version that is not known (1, 2 and 3 are)");
    size_t length = (size_t)start[8] | (size_t)start[9] << 8;
    if (start[6] > 1) {
        if (fread(start + 10, 1, 2, file) != 2)
            return bad(path, "the file ends inside its header");
        length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    }
    if (length > LONGEST_HEADER)
        return bad(path, "not a valid .npy file: its header is too long");
    char *dict = tool_alloc(length + 1, 1);
    if (!dict)
        return false;
    bool good = fread(dict, 1, length, file) == length;
    dict[good ? length : 0] = '\0';
    good = good ? parse_header(path, dict, types, header) : bad(path, "the file ends inside its header");
    free(dict);
    return good;
}

static float from_half(const unsigned char *bytes)
{
    float value = 0;
    moe_format_dequantise(MOE_FORMAT_F16, &value, bytes, 1, 1);
    return value;
}

static void convert(struct npy *out, size_t i, const struct header *header, const unsigned char *bytes)
{
    float f;
    double d;
    int32_t n;
    if (header->type == 'i' && header->item == 8) {
        memcpy(&out->integers[i], bytes, 8);
    } else if (header->type == 'i') {
        memcpy(&n, bytes, 4);
        out->integers[i] = n;
    } else if (header->item == 2) {
        out->floats[i] = from_half(bytes);
    } else if (header->item == 4) {
        memcpy(&f, bytes, 4);
        out->floats[i] = f;
    } else {
        memcpy(&d, bytes, 8);
        out->floats[i] = (float)d;
    }
}

/* Whether exactly bytes follow; a file that cannot be sought (a pipe) is taken at its word and read to the end. */
static bool has_bytes(FILE *file, uint64_t bytes)
{
    off_t here = ftello(file);
    if (here < 0 || fseeko(file, 0, SEEK_END) != 0)
        return true;
    off_t end = ftello(file);
    return fseeko(file, here, SEEK_SET) == 0 && end >= here && (uint64_t)(end - here) == bytes;
}

static bool read_values(const char *path, FILE *file, const struct header *header, struct npy *out)
{
    if (header->cols && header->rows > SIZE_MAX / 8 / header->cols)
        return bad(path, "the array is too large");
    size_t count = header->rows * header->cols;
    if (!has_bytes(file, (uint64_t)count * header->item)) {
        tool_fail(TOOL_INPUT, "%s: the header promises [%zu, %zu] values of %zu bytes, but the file has another size",
                  path, header->rows, header->cols, header->item);
        return false;
    }
    void *memory = tool_alloc(count, header->type == 'i' ? sizeof(int64_t) : sizeof(float));
    if (!memory)
        return false;
    *out = (struct npy){.rows = header->rows, .cols = header->cols};
    if (header->type == 'i')
        out->integers = memory;
    else
        out->floats = memory;
    unsigned char bytes[4096];
    for (size_t done = 0; done < count;) {
        size_t now = count - done < sizeof bytes / 8 ? count - done : sizeof bytes / 8;
        if (fread(bytes, header->item, now, file) != now) {
            npy_free(out);
            return bad(path, "the file ends before its array does");
        }
        for (size_t i = 0; i < now; i++)
            convert(out, done + i, header, bytes + i * header->item);
        done += now;
    }
    return true;
}

/* types: 'f' or 'i', then the sizes that are taken. */
static bool read_array(const char *path, const char *types, struct npy *out)
{
    *out = (struct npy){0};
    FILE *file = fopen(path, "rb");
    if (!file)
        return bad(path, strerror(errno));
    struct header header = {0};
    bool good = read_header(path, file, types, &header) && read_values(path, file, &header, out);
    fclose(file);
    return good;
}

bool npy_read_floats(const char *path, struct npy *out)
{
    return read_array(path, "f248", out);
}

bool npy_read_integers(const char *path, struct npy *out)
{
    return read_array(path, "i48", out);
}

void npy_free(struct npy *array)
{
    free(array->floats);
    free(array->integers);
    *array = (struct npy){0};
}

static bool write_array(const char *path, const char *descr, const void *values, size_t rows, size_t cols)
{
    char header[192] = "\x93NUMPY\x01";   /* minor version 0 and the length follow */
    int text = snprintf(header + 10, sizeof header - 10,
                        "{'descr': '%s', 'fortran_order': False, 'shape': (%zu, %zu), }", descr, rows, cols);
    size_t total = (10 + (size_t)text + 1 + 63) / 64 * 64;
    memset(header + 10 + text, ' ', total - 10 - (size_t)text);
    header[total - 1] = '\n';
    header[8] = (char)((total - 10) & 255);
    header[9] = (char)((total - 10) >> 8);
    struct outfile out;
    bool good = outfile_open(&out, path) && outfile_write(&out, header, total) &&
                outfile_write(&out, values, rows * cols * 4) && outfile_commit(&out);
    outfile_discard(&out);
    return good;
}

bool npy_write_floats(const char *path, const float *values, size_t rows, size_t cols)
{
    return write_array(path, "<f4", values, rows, cols);
}

bool npy_write_integers(const char *path, const int32_t *values, size_t rows, size_t cols)
{
    return write_array(path, "<i4", values, rows, cols);
}
