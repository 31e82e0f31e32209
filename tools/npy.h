// SPDX-License-Identifier: MIT
// NumPy's .npy files, versions 1 to 3, little-endian, C order: floats as f32, integers as i64.
#ifndef NPY_H
#define NPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct npy {
    size_t rows, cols;    /* the array's two dimensions */
    float *floats;        /* one of the two is set; npy_free */
    int64_t *integers;
};

/* Read an array of two dimensions. Floats: f2, f4, f8 (rounded to f32); integers: i4, i8. false: a sentence that names
 * the file is on stderr. */
bool npy_read_floats(const char *path, struct npy *out);
bool npy_read_integers(const char *path, struct npy *out);
void npy_free(struct npy *array);

/* Write [rows, cols] as <f4 or <i4. */
bool npy_write_floats(const char *path, const float *values, size_t rows, size_t cols);
bool npy_write_integers(const char *path, const int32_t *values, size_t rows, size_t cols);

#endif
