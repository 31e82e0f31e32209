# SPDX-License-Identifier: MIT
# cmake --install: library (shared and static), headers, package files for CMake and pkg-config, the moe command.
# The installed tree may be moved: every path in it is relative.
option(MOE_INSTALL "Install rules" ${PROJECT_IS_TOP_LEVEL})
if(NOT MOE_INSTALL)
    return()
endif()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(MOE_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/libmoe)

# Two export sets: who links the shared library need not have the headers of what it is made from.
install(TARGETS moe EXPORT libmoeTargets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS moe_static EXPORT libmoeStaticTargets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET moe_cuda)    # nothing links it
    install(TARGETS moe_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} NAMELINK_SKIP)
endif()
install(EXPORT libmoeTargets NAMESPACE libmoe:: DESTINATION ${MOE_CMAKE_DIR})
install(EXPORT libmoeStaticTargets NAMESPACE libmoe:: DESTINATION ${MOE_CMAKE_DIR})
install(DIRECTORY include/moe DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

configure_package_config_file(cmake/libmoeConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/libmoeConfig.cmake
    INSTALL_DESTINATION ${MOE_CMAKE_DIR} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may break programs.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/libmoeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/libmoeConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/libmoeConfigVersion.cmake
    DESTINATION ${MOE_CMAKE_DIR})

# libmoe.pc finds its prefix from where it lies.
file(RELATIVE_PATH MOE_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
file(RELATIVE_PATH MOE_PC_LIBDIR ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_LIBDIR})
file(RELATIVE_PATH MOE_PC_INCLUDEDIR ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/libmoe.pc.in ${CMAKE_CURRENT_BINARY_DIR}/libmoe.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/libmoe.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(TARGET moe_command)
    file(RELATIVE_PATH MOE_BIN_TO_LIB ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
    set_target_properties(moe_command PROPERTIES INSTALL_RPATH "$ORIGIN/${MOE_BIN_TO_LIB}")
    install(TARGETS moe_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
