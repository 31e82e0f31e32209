// SPDX-License-Identifier: MIT
// One row through the device's dequantisers; on the default stream.
#ifndef MOE_DEQUANTISE_PROBE_H
#define MOE_DEQUANTISE_PROBE_H

#include <cuda_runtime_api.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dequantise_probe {
    float *out;                 /* device memory, like row */
    const unsigned char *row;
    size_t cols;
    int format;                 /* enum moe_cuda_format */
};
cudaError_t dequantise_probe_launch(const struct dequantise_probe *probe);

#ifdef __cplusplus
}
#endif
#endif
