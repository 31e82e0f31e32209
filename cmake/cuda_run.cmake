# SPDX-License-Identifier: MIT
# Programs for a machine with a GPU and no packages: libmoe and jansson are linked into them, the CUDA backend lies
# beside them or one folder up. moe-portable is the moe command built so.
find_library(MOE_JANSSON_ARCHIVE libjansson.a HINTS ${JANSSON_LIBRARY_DIRS})
add_library(moe_portable INTERFACE)
target_include_directories(moe_portable INTERFACE ${PROJECT_SOURCE_DIR}/include ${JANSSON_INCLUDE_DIRS})
target_link_libraries(moe_portable INTERFACE moe_flags $<TARGET_FILE:moe_static>
    $<IF:$<BOOL:${MOE_JANSSON_ARCHIVE}>,${MOE_JANSSON_ARCHIVE},PkgConfig::JANSSON> Threads::Threads m ${CMAKE_DL_LIBS})

function(moe_portable_program name)
    add_dependencies(${name} moe_static moe_cuda)
    set_target_properties(${name} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin BUILD_RPATH "$ORIGIN;$ORIGIN/..")
endfunction()

file(GLOB MOE_PORTABLE_SOURCES CONFIGURE_DEPENDS tools/*.c)
add_executable(moe-portable EXCLUDE_FROM_ALL ${MOE_PORTABLE_SOURCES})
target_link_libraries(moe-portable PRIVATE moe_portable)
moe_portable_program(moe-portable)
