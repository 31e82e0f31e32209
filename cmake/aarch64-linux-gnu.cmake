# SPDX-License-Identifier: MIT
# Toolchain: builds for 64-bit Arm with Debian's cross compiler; CTest runs the programs under qemu-user.
# MOE_ARM_LIBRARIES: a folder with the arm64 packages of jansson and cmocka, unpacked (scripts/test.sh makes it).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
# cmake tries the compiler in projects of its own, which need the folder too.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MOE_ARM_LIBRARIES)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${MOE_ARM_LIBRARIES})
set(ENV{PKG_CONFIG_LIBDIR} ${MOE_ARM_LIBRARIES}/usr/lib/aarch64-linux-gnu/pkgconfig)
# Its /usr/include is not one of the compiler's folders, which pkg-config would leave out.
set(ENV{PKG_CONFIG_ALLOW_SYSTEM_CFLAGS} 1)
set(ENV{PKG_CONFIG_ALLOW_SYSTEM_LIBS} 1)
