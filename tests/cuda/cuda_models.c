// SPDX-License-Identifier: MIT
// usage: cuda_models MODEL...: every layer of models on the CUDA backend's emulated device, composed and by
// moe_forward, against their float64 references, with the CPU's number of dispatches.
#include "try_backend.h"

extern const struct moe_backend_ops moe_cuda_ops;

int main(int argc, char **argv)
{
    return try_backend(&moe_cuda_ops, argc - 1, argv + 1);
}
