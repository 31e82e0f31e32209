# SPDX-License-Identifier: MIT
# Toolchain: 64-bit Arm with Debian's cross compiler; CTest runs programs under qemu-user, with all features it knows.
# MOE_ARM_LIBRARIES: a folder with the arm64 packages of jansson and cmocka, unpacked (scripts/test.sh makes it).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MOE_ARM_LIBRARIES)
# pkg-config leaves out folders that a native compiler searches by itself; this one does not search these.
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${MOE_ARM_LIBRARIES})
set(ENV{PKG_CONFIG_LIBDIR} ${MOE_ARM_LIBRARIES}/usr/lib/aarch64-linux-gnu/pkgconfig)
set(ENV{PKG_CONFIG_ALLOW_SYSTEM_CFLAGS} 1)
set(ENV{PKG_CONFIG_ALLOW_SYSTEM_LIBS} 1)
