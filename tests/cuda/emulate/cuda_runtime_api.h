// SPDX-License-Identifier: MIT
// The part of CUDA's runtime API that src/cuda uses, for C and C++: names, values and signatures are those of CUDA 13.
#ifndef MOE_EMULATE_CUDA_RUNTIME_API_H
#define MOE_EMULATE_CUDA_RUNTIME_API_H

#include <stddef.h>

#define CUDART_VERSION 13000
#define CUDART_CB

#ifdef __cplusplus
#define MOE_EMULATE_DEFAULT(value) = value
extern "C" {
#else
#define MOE_EMULATE_DEFAULT(value)
#endif

#define MOE_EMULATE_ERRORS(row)                                                                                        \
    row(cudaSuccess, 0, "no error")                                                                                    \
    row(cudaErrorInvalidValue, 1, "invalid argument")                                                                  \
    row(cudaErrorMemoryAllocation, 2, "out of memory")                                                                 \
    row(cudaErrorInitializationError, 3, "initialization error")                                                       \
    row(cudaErrorCudartUnloading, 4, "driver shutting down")                                                           \
    row(cudaErrorInvalidConfiguration, 9, "invalid configuration argument")                                            \
    row(cudaErrorInvalidSymbol, 13, "invalid device symbol")                                                           \
    row(cudaErrorInvalidDevicePointer, 17, "invalid device pointer")                                                   \
    row(cudaErrorInvalidMemcpyDirection, 21, "invalid copy direction for memcpy")                                      \
    row(cudaErrorStubLibrary, 34, "CUDA driver is a stub library")                                                     \
    row(cudaErrorInsufficientDriver, 35, "CUDA driver version is insufficient for CUDA runtime version")               \
    row(cudaErrorCallRequiresNewerDriver, 36, "API call is not supported in the installed CUDA driver")                \
    row(cudaErrorDevicesUnavailable, 46, "CUDA-capable device(s) is/are busy or unavailable")                          \
    row(cudaErrorIncompatibleDriverContext, 49, "incompatible driver context")                                         \
    row(cudaErrorMissingConfiguration, 52, "__global__ function call is not configured")                               \
    row(cudaErrorInvalidDeviceFunction, 98, "invalid device function")                                                 \
    row(cudaErrorNoDevice, 100, "no CUDA-capable device is detected")                                                  \
    row(cudaErrorInvalidDevice, 101, "invalid device ordinal")                                                         \
    row(cudaErrorStartupFailure, 127, "startup failure in cuda runtime")                                               \
    row(cudaErrorInvalidKernelImage, 200, "device kernel image is invalid")                                            \
    row(cudaErrorDeviceUninitialized, 201, "invalid device context")                                                   \
    row(cudaErrorNoKernelImageForDevice, 209, "no kernel image is available for execution on the device")              \
    row(cudaErrorECCUncorrectable, 214, "uncorrectable ECC error encountered")                                         \
    row(cudaErrorUnsupportedLimit, 215, "limit is not supported on this architecture")                                 \
    row(cudaErrorInvalidPtx, 218, "a PTX JIT compilation failed")                                                      \
    row(cudaErrorJitCompilerNotFound, 221, "PTX JIT compiler library not found")                                       \
    row(cudaErrorUnsupportedPtxVersion, 222, "the provided PTX was compiled with an unsupported toolchain.")           \
    row(cudaErrorOperatingSystem, 304, "OS call failed or operation not supported on this OS")                         \
    row(cudaErrorInvalidResourceHandle, 400, "invalid resource handle")                                                \
    row(cudaErrorIllegalState, 401, "the operation cannot be performed in the present state")                          \
    row(cudaErrorSymbolNotFound, 500, "named symbol not found")                                                        \
    row(cudaErrorNotReady, 600, "device not ready")                                                                    \
    row(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered")                                      \
    row(cudaErrorLaunchOutOfResources, 701, "too many resources requested for launch")                                 \
    row(cudaErrorLaunchTimeout, 702, "the launch timed out and was terminated")                                        \
    row(cudaErrorContextIsDestroyed, 709, "context is destroyed")                                                      \
    row(cudaErrorAssert, 710, "device-side assert triggered")                                                          \
    row(cudaErrorHostMemoryAlreadyRegistered, 712, "part or all of the requested memory range is already mapped")      \
    row(cudaErrorHostMemoryNotRegistered, 713, "pointer does not correspond to a registered memory region")            \
    row(cudaErrorHardwareStackError, 714, "hardware stack error")                                                      \
    row(cudaErrorIllegalInstruction, 715, "an illegal instruction was encountered")                                    \
    row(cudaErrorMisalignedAddress, 716, "misaligned address")                                                         \
    row(cudaErrorInvalidAddressSpace, 717, "operation not supported on global/shared address space")                   \
    row(cudaErrorInvalidPc, 718, "invalid program counter")                                                            \
    row(cudaErrorLaunchFailure, 719, "unspecified launch failure")                                                     \
    row(cudaErrorNotPermitted, 800, "operation not permitted")                                                         \
    row(cudaErrorNotSupported, 801, "operation not supported")                                                         \
    row(cudaErrorSystemNotReady, 802, "system not yet initialized")                                                    \
    row(cudaErrorSystemDriverMismatch, 803, "system has unsupported display driver / cuda driver combination")         \
    row(cudaErrorCompatNotSupportedOnDevice, 804, "forward compatibility was attempted on non supported HW")           \
    row(cudaErrorStreamCaptureUnsupported, 900, "operation not permitted when stream is capturing")                    \
    row(cudaErrorStreamCaptureInvalidated, 901, "operation failed due to a previous error during capture")             \
    row(cudaErrorStreamCaptureMerge, 902, "operation would result in a merge of separate capture sequences")           \
    row(cudaErrorStreamCaptureUnmatched, 903, "capture was not ended in the same stream as it began")                  \
    row(cudaErrorStreamCaptureUnjoined, 904, "capturing stream has unjoined work")                                     \
    row(cudaErrorStreamCaptureIsolation, 905, "dependency created on uncaptured work in another stream")               \
    row(cudaErrorStreamCaptureImplicit, 906, "operation would make the legacy stream depend on a capturing stream")    \
    row(cudaErrorCapturedEvent, 907, "operation not permitted on an event last recorded in a capturing stream")        \
    row(cudaErrorStreamCaptureWrongThread, 908, "attempt to terminate a thread-local capture from another thread")     \
    row(cudaErrorExternalDevice, 911, "an async error has occurred in external entity")                                \
    row(cudaErrorUnknown, 999, "unknown error")

#define MOE_EMULATE_ERROR_NUMBER(name, number, text) name = number,
typedef enum cudaError { MOE_EMULATE_ERRORS(MOE_EMULATE_ERROR_NUMBER) cudaErrorApiFailureBase = 10000 } cudaError_t;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphNode_st *cudaGraphNode_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
typedef struct cudaGraphEdgeData_st cudaGraphEdgeData;
typedef void(CUDART_CB *cudaHostFn_t)(void *user);

#define cudaStreamLegacy       ((cudaStream_t)0x1)
#define cudaStreamDefault      0x00
#define cudaStreamNonBlocking  0x01
#define cudaEventDefault       0x00
#define cudaEventBlockingSync  0x01
#define cudaEventDisableTiming 0x02
#define cudaHostAllocDefault   0x00
#define cudaHostAllocPortable  0x01
#define cudaHostAllocMapped    0x02
#define cudaHostAllocWriteCombined 0x04
#define cudaHostRegisterDefault 0x00

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
};
enum cudaMemoryType {
    cudaMemoryTypeUnregistered = 0,
    cudaMemoryTypeHost = 1,
    cudaMemoryTypeDevice = 2,
    cudaMemoryTypeManaged = 3
};
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone = 0,
    cudaStreamCaptureStatusActive = 1,
    cudaStreamCaptureStatusInvalidated = 2
};
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed = 2
};
enum cudaGraphNodeType {
    cudaGraphNodeTypeKernel = 0,
    cudaGraphNodeTypeMemcpy = 1,
    cudaGraphNodeTypeMemset = 2,
    cudaGraphNodeTypeHost = 3
};
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10,
    cudaDevAttrClockRate = 13,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrIntegrated = 18,
    cudaDevAttrComputeMode = 20,
    cudaDevAttrMemoryClockRate = 36,
    cudaDevAttrGlobalMemoryBusWidth = 37,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrUnifiedAddressing = 41,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxRegistersPerMultiprocessor = 82,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
    cudaDevAttrMaxBlocksPerMultiprocessor = 106,
    cudaDevAttrReservedSharedMemoryPerBlock = 111
};

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock;
    int regsPerBlock, warpSize, maxThreadsPerBlock;
    int maxThreadsDim[3], maxGridSize[3];
    int major, minor, multiProcessorCount, integrated;
    int pciBusID, pciDeviceID, pciDomainID;
    int unifiedAddressing, memoryBusWidth, l2CacheSize, maxThreadsPerMultiProcessor;
    size_t sharedMemPerMultiprocessor;
    int regsPerMultiprocessor, maxBlocksPerMultiProcessor, concurrentKernels;
    size_t sharedMemPerBlockOptin, reservedSharedMemPerBlock;
};
struct cudaPointerAttributes {
    enum cudaMemoryType type;
    int device;
    void *devicePointer, *hostPointer;
};
struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, cacheModeCA, maxDynamicSharedSizeBytes;
    int preferredShmemCarveout;
};

cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);

cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceSynchronize(void);

cudaError_t cudaMalloc(void **pointer, size_t size);
cudaError_t cudaFree(void *pointer);
cudaError_t cudaMallocHost(void **pointer, size_t size);
cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned flags);
cudaError_t cudaFreeHost(void *pointer);
cudaError_t cudaHostRegister(void *pointer, size_t size, unsigned flags);
cudaError_t cudaHostUnregister(void *pointer);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind,
                            cudaStream_t stream MOE_EMULATE_DEFAULT(0));
cudaError_t cudaMemset(void *pointer, int value, size_t count);
cudaError_t cudaMemsetAsync(void *pointer, int value, size_t count, cudaStream_t stream MOE_EMULATE_DEFAULT(0));

cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamGetDevice(cudaStream_t stream, int *device);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags MOE_EMULATE_DEFAULT(0));
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *user);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *id MOE_EMULATE_DEFAULT(0),
                                     cudaGraph_t *graph MOE_EMULATE_DEFAULT(0),
                                     const cudaGraphNode_t **dependencies MOE_EMULATE_DEFAULT(0),
                                     const cudaGraphEdgeData **edges MOE_EMULATE_DEFAULT(0),
                                     size_t *num_dependencies MOE_EMULATE_DEFAULT(0));
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode);

cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream MOE_EMULATE_DEFAULT(0));
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end);
cudaError_t cudaEventDestroy(cudaEvent_t event);

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *num_nodes);
cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, enum cudaGraphNodeType *type);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags MOE_EMULATE_DEFAULT(0));
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int block_size,
                                                          size_t dynamic_shared);

#ifdef __cplusplus
}
#endif
#endif
