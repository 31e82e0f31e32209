// SPDX-License-Identifier: MIT
// Devices, functions and errors of the emulated machine.
#include "runtime.h"

#include <stdio.h>

machine moe_gpu;

static constexpr size_t SHARED_DEFAULT = 48 * 1024, SHARED_MAX = 227 * 1024, SHARED_SM = 228 * 1024;

/* ---- calls ---- */

thread_state *this_thread(void)
{
    auto found = moe_gpu.threads.find(std::this_thread::get_id());
    if (found == moe_gpu.threads.end())
        found =
            moe_gpu.threads.insert({std::this_thread::get_id(), {0, cudaSuccess, cudaStreamCaptureModeGlobal}}).first;
    return &found->second;
}

bool is_device(int device)
{
    return device >= 0 && device < moe_gpu.num_devices;
}

api_call::api_call(int needs) : lock(moe_gpu.lock), status(cudaSuccess)
{
    if (moe_gpu.fail_call && --moe_gpu.fail_call == 0) {
        moe_gpu.failed = true;
        status = end(moe_gpu.call_error);
        return;
    }
    if (needs & CALL_DRIVER) {
        if (moe_gpu.old_driver)
            status = end(cudaErrorInsufficientDriver);
        else if (moe_gpu.num_devices == 0)
            status = end(cudaErrorNoDevice);
    }
    if (!status && (needs & CALL_UNCAPTURED) && !allowed_under_capture())
        status = end(cudaErrorStreamCaptureUnsupported);
    if (needs & CALL_SYNCHRONISES)
        moe_gpu.counts.synchronisations++;
    if (!status && (needs & 2))
        status = end(moe_gpu.sticky[this_thread()->device]);
}

cudaError_t api_call::end(cudaError_t error)
{
    if (error)
        this_thread()->last_error = error;
    return error;
}

cudaError_t api_call::end_waited(int device)
{
    return end(moe_gpu.sticky[device]);
}

/* ---- errors ---- */

extern "C" cudaError_t cudaPeekAtLastError(void)
{
    std::lock_guard<std::recursive_mutex> lock(moe_gpu.lock);
    cudaError_t sticky = moe_gpu.sticky[this_thread()->device];
    return sticky ? sticky : this_thread()->last_error;
}

extern "C" cudaError_t cudaGetLastError(void)
{
    std::lock_guard<std::recursive_mutex> lock(moe_gpu.lock);
    cudaError_t error = cudaPeekAtLastError();
    this_thread()->last_error = cudaSuccess;
    return error;
}

extern "C" const char *cudaGetErrorName(cudaError_t error)
{
#define NAME(name, number, text)                                                                                       \
    case name:                                                                                                         \
        return #name;
    switch (error) {
        MOE_EMULATE_ERRORS(NAME)
    default:
        return "unrecognized error code";
    }
}

extern "C" const char *cudaGetErrorString(cudaError_t error)
{
#define TEXT(name, number, text)                                                                                       \
    case name:                                                                                                         \
        return text;
    switch (error) {
        MOE_EMULATE_ERRORS(TEXT)
    default:
        return "unrecognized error code";
    }
}

/* ---- devices ---- */

extern "C" cudaError_t cudaDriverGetVersion(int *version)
{
    api_call call(CALL_ANY);
    if (!call.status)
        *version = moe_gpu.old_driver ? 11040 : 13000;
    return call.status;
}

extern "C" cudaError_t cudaRuntimeGetVersion(int *version)
{
    api_call call(CALL_ANY);
    if (!call.status)
        *version = CUDART_VERSION;
    return call.status;
}

extern "C" cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    api_call call(CALL_DRIVER);
    if (!call.status)
        *count = moe_gpu.num_devices;
    return call.status;
}

extern "C" cudaError_t cudaSetDevice(int device)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    if (!is_device(device))
        return call.end(cudaErrorInvalidDevice);
    this_thread()->device = device;
    return call.end(moe_gpu.sticky[device]);
}

extern "C" cudaError_t cudaGetDevice(int *device)
{
    api_call call(CALL_DRIVER);
    if (!call.status)
        *device = this_thread()->device;
    return call.status;
}

extern "C" cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    api_call call(CALL_DRIVER);
    if (call.status)
        return call.status;
    if (!is_device(device))
        return call.end(cudaErrorInvalidDevice);
    *p = {};
    snprintf(p->name, sizeof p->name, "emulated device %d", device);
    p->totalGlobalMem = moe_gpu.memory;
    p->sharedMemPerBlock = SHARED_DEFAULT;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = moe_gpu.major;
    p->minor = moe_gpu.minor;
    p->multiProcessorCount = moe_gpu.num_multiprocessors;
    p->unifiedAddressing = p->concurrentKernels = 1;
    p->memoryBusWidth = 6144;
    p->l2CacheSize = 1 << 20;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->sharedMemPerMultiprocessor = SHARED_SM;
    p->sharedMemPerBlockOptin = SHARED_MAX;
    p->reservedSharedMemPerBlock = 1024;
    p->pciBusID = device + 1;
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    struct cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error)
        return error;
    const std::map<int, int> values = {{cudaDevAttrMaxThreadsPerBlock, p.maxThreadsPerBlock},
                                       {cudaDevAttrMaxSharedMemoryPerBlock, (int)p.sharedMemPerBlock},
                                       {cudaDevAttrWarpSize, 32},
                                       {cudaDevAttrClockRate, 1000000},
                                       {cudaDevAttrMultiProcessorCount, p.multiProcessorCount},
                                       {cudaDevAttrIntegrated, 0},
                                       {cudaDevAttrComputeMode, 0},
                                       {cudaDevAttrMemoryClockRate, 1000000},
                                       {cudaDevAttrGlobalMemoryBusWidth, p.memoryBusWidth},
                                       {cudaDevAttrL2CacheSize, p.l2CacheSize},
                                       {cudaDevAttrMaxThreadsPerMultiProcessor, p.maxThreadsPerMultiProcessor},
                                       {cudaDevAttrUnifiedAddressing, 1},
                                       {cudaDevAttrComputeCapabilityMajor, p.major},
                                       {cudaDevAttrComputeCapabilityMinor, p.minor},
                                       {cudaDevAttrMaxSharedMemoryPerMultiprocessor, (int)p.sharedMemPerMultiprocessor},
                                       {cudaDevAttrMaxRegistersPerMultiprocessor, p.regsPerMultiprocessor},
                                       {cudaDevAttrMaxSharedMemoryPerBlockOptin, (int)p.sharedMemPerBlockOptin},
                                       {cudaDevAttrMaxBlocksPerMultiprocessor, p.maxBlocksPerMultiProcessor},
                                       {cudaDevAttrReservedSharedMemoryPerBlock, (int)p.reservedSharedMemPerBlock}};
    auto found = values.find(attribute);
    if (found == values.end()) {
        this_thread()->last_error = cudaErrorInvalidValue;
        return cudaErrorInvalidValue;
    }
    *value = found->second;
    return cudaSuccess;
}

/* ---- functions ---- */

extern "C" cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    api_call call(CALL_HEALTHY | CALL_UNCAPTURED);
    if (call.status)
        return call.status;
    if (!function)
        return call.end(cudaErrorInvalidDeviceFunction);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)
        return value < -1 || value > 100 ? call.end(cudaErrorInvalidValue) : cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || (size_t)value > SHARED_MAX)
        return call.end(cudaErrorInvalidValue);
    moe_gpu.shared_limits[{this_thread()->device, function}] = value;
    return cudaSuccess;
}

extern "C" cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    auto found = moe_gpu.shared_limits.find({this_thread()->device, function});
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->ptxVersion = attributes->binaryVersion = 10 * moe_gpu.major + moe_gpu.minor;
    attributes->maxDynamicSharedSizeBytes = found == moe_gpu.shared_limits.end() ? (int)SHARED_DEFAULT : found->second;
    return cudaSuccess;
}

extern "C" cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int block_size,
                                                                     size_t dynamic_shared)
{
    api_call call(CALL_HEALTHY);
    if (call.status)
        return call.status;
    if (!function || block_size < 1)
        return call.end(cudaErrorInvalidValue);
    size_t count = block_size > 1024 ? 0 : 2048 / (((size_t)block_size + 31) / 32 * 32);
    size_t by_shared = dynamic_shared > SHARED_MAX ? 0 : SHARED_SM / ((dynamic_shared + 127) / 128 * 128 + 1024);
    count = count < by_shared ? count : by_shared;
    *blocks = (int)(count < 32 ? count : 32);
    return cudaSuccess;
}
