# SPDX-License-Identifier: MIT
# cmake -D BUILD= -D SOURCE= -D WORK= -D CC= -D GENERATOR= -D LIBDIR= -D PLUGINS= -P: install a build, move the copy
# elsewhere, and use it from an outside project, by find_package and by pkg-config.

# run(WHAT COMMAND...): its output in `output`; stops if it fails.
function(run what)
    execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
    if(NOT result EQUAL 0)
        message(FATAL_ERROR "${what}: ${result}\n${output}")
    endif()
    set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${WORK})
run("install" ${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/first)
set(prefix "${WORK}/moved here")
file(RENAME ${WORK}/first ${prefix})
set(lib ${prefix}/${LIBDIR})
foreach(file include/moe/moe.h include/moe/model.h include/moe/format.h include/moe/backend.h
        ${LIBDIR}/libmoe.a ${LIBDIR}/libmoe.so
        ${LIBDIR}/libmoe.so.1 ${LIBDIR}/pkgconfig/libmoe.pc ${LIBDIR}/cmake/libmoe/libmoeConfig.cmake
        ${LIBDIR}/cmake/libmoe/libmoeConfigVersion.cmake bin/moe)
    if(NOT EXISTS ${prefix}/${file})
        message(FATAL_ERROR "not installed: ${file}")
    endif()
endforeach()
# Nothing that is installed may name the place it was built or installed in.
file(GLOB_RECURSE texts ${prefix}/*.cmake ${prefix}/*.pc ${prefix}/*.h)
foreach(text ${texts})
    file(READ ${text} content)
    foreach(place ${BUILD} ${WORK})
        string(FIND "${content}" "${place}" at)
        if(NOT at EQUAL -1)
            message(FATAL_ERROR "${text} names ${place}")
        endif()
    endforeach()
endforeach()

# The installed command finds the installed library.
set(ENV{LD_LIBRARY_PATH} "")
run("ldd" ldd ${prefix}/bin/moe)
string(FIND "${output}" "${lib}/libmoe.so.1" at)
string(FIND "${output}" "${prefix}/bin/../${LIBDIR}/libmoe.so.1" other)
if(at EQUAL -1 AND other EQUAL -1)
    message(FATAL_ERROR "the installed moe loads another library:\n${output}")
endif()
run("moe info" ${prefix}/bin/moe info)

# And that the backends that are libraries of their own, whether or not this machine has what they are for.
foreach(plugin ${PLUGINS})
    if(NOT EXISTS ${lib}/${plugin})
        message(FATAL_ERROR "not installed: ${plugin}")
    endif()
    string(FIND "${output}" "cannot be loaded" at)
    if(NOT at EQUAL -1)
        message(FATAL_ERROR "the installed libmoe does not find ${plugin}:\n${output}")
    endif()
endforeach()

# An outside project.
run("configure" ${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK}/consumer -G ${GENERATOR} -DCMAKE_C_COMPILER=${CC}
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=${prefix})
run("build" ${CMAKE_COMMAND} --build ${WORK}/consumer)
run("consumer, shared" ${WORK}/consumer/consumer_shared)
run("consumer, static" ${WORK}/consumer/consumer_static)

# By hand, as a Makefile would: pkg-config quotes for a shell. No semicolons, CMake would split there.
find_program(PKG_CONFIG NAMES pkg-config pkgconf REQUIRED)
set(ENV{PKG_CONFIG_PATH} ${lib}/pkgconfig)
set(ENV{CC} ${CC})
set(ENV{PKG_CONFIG} ${PKG_CONFIG})
set(ENV{LD_LIBRARY_PATH} ${lib})
set(flags "$($PKG_CONFIG $2 --cflags --libs libmoe | sed \"$3\")")
set(link "out=$1 && eval \"set -- ${flags}\" && \"$CC\" \"$0\" -o $out \"$@\"")
run("pkg-config, shared" sh -ec "${link} && ./$out" ${SOURCE}/consumer.c by_hand_shared "" ""
    WORKING_DIRECTORY ${WORK})
set(ENV{LD_LIBRARY_PATH} "")
run("pkg-config, static" sh -ec "${link} && ./$out" ${SOURCE}/consumer.c by_hand_static --static
    "s/-lmoe/-l:libmoe.a/" WORKING_DIRECTORY ${WORK})
