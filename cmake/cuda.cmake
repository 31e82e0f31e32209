# SPDX-License-Identifier: MIT
# libmoe_cuda.so, the CUDA backend: a library of its own that libmoe loads when "cuda" is asked for. CUDA's runtime is
# in it, and its own copies of what it needs of the core; it has one symbol, moe_cuda_ops.
if(NOT MOE_CUDA MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "MOE_CUDA is ON, OFF or AUTO, not ${MOE_CUDA}")
endif()
if(NOT MOE_CUDA STREQUAL OFF)
    include(CheckLanguage)
    # CMake tries nvcc on a program of its own, for an architecture that every nvcc which will do knows.
    if(NOT CMAKE_CUDA_ARCHITECTURES)
        set(CMAKE_CUDA_ARCHITECTURES 80)
    endif()
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER AND (MOE_CUDA STREQUAL ON OR NOT (CMAKE_CROSSCOMPILING OR MOE_SANITIZE)))
        set(MOE_WITH_CUDA ON)
    elseif(MOE_CUDA STREQUAL ON)
        message(FATAL_ERROR "MOE_CUDA is ON, but there is no nvcc in the PATH (or set CMAKE_CUDA_COMPILER)")
    endif()
endif()
if(NOT MOE_WITH_CUDA)
    message(STATUS "libmoe: without the CUDA backend")
    return()
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

file(GLOB MOE_CUDA_HOST CONFIGURE_DEPENDS src/cuda/*.c)
file(GLOB MOE_CUDA_KERNELS CONFIGURE_DEPENDS src/cuda/*.cu)
add_library(moe_cuda SHARED ${MOE_CUDA_HOST} ${MOE_CUDA_KERNELS} src/check.c)
target_include_directories(moe_cuda PRIVATE include src)
target_compile_definitions(moe_cuda PRIVATE MOE_API=)
target_link_libraries(moe_cuda PRIVATE moe_flags CUDA::cudart_static)
set_target_properties(moe_cuda PROPERTIES
    VERSION ${MOE_BACKEND_ABI}.${PROJECT_VERSION} SOVERSION ${MOE_BACKEND_ABI}
    CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden CUDA_RUNTIME_LIBRARY Static
    CUDA_ARCHITECTURES OFF LINKER_LANGUAGE C)
# sm_80 and, through its PTX, all that came after; sm_90a with what only Hopper has. As in C, a multiplication and an
# addition are fused only where a kernel says so, and warnings count.
target_compile_options(moe_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:
    "SHELL:-gencode arch=compute_80,code=[sm_80,compute_80]" "SHELL:-gencode arch=compute_90a,code=sm_90a"
    --fmad=false -Xcompiler=-Wall,-Wextra,-ffp-contract=off,-fno-exceptions,-fno-threadsafe-statics
    $<$<BOOL:${MOE_WERROR}>:-Werror=all-warnings>>)
target_link_options(moe_cuda PRIVATE LINKER:--no-undefined LINKER:--exclude-libs,ALL LINKER:--as-needed)
