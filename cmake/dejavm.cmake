# Compiler settings and the helpers that every room's CMakeLists.txt uses.
include(GNUInstallDirs)
# Assertions stay on in every kind of build.
foreach(kind RELEASE RELWITHDEBINFO MINSIZEREL)
  string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_${kind} "${CMAKE_C_FLAGS_${kind}}")
endforeach()
find_package(PkgConfig REQUIRED)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(ELF REQUIRED IMPORTED_TARGET libelf)
if(DEJAVM_TESTS)
  pkg_check_modules(DW REQUIRED IMPORTED_TARGET libdw)
endif()
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(NBD REQUIRED IMPORTED_TARGET libnbd)
find_package(zydis REQUIRED)
find_package(Threads REQUIRED)
# Not by pkg-config: slirp.pc asks for GLib's headers, which libslirp.h does not need.
find_path(SLIRP_INCLUDE libslirp.h PATH_SUFFIXES slirp REQUIRED)
find_library(SLIRP_LIBRARY slirp REQUIRED)
add_library(slirp INTERFACE)
target_include_directories(slirp SYSTEM INTERFACE ${SLIRP_INCLUDE})
target_link_libraries(slirp INTERFACE ${SLIRP_LIBRARY})

add_library(dejavm_flags INTERFACE)
target_compile_definitions(dejavm_flags INTERFACE _GNU_SOURCE DEJAVM_VERSION="${PROJECT_VERSION}")
target_compile_options(dejavm_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wpedantic -Werror -Wconversion -Wshadow -Wstrict-prototypes>
  -fno-strict-aliasing -fno-common -fvisibility=hidden)
if(DEJAVM_SANITIZE)
  target_compile_options(dejavm_flags INTERFACE -fsanitize=address,undefined
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(dejavm_flags INTERFACE -fsanitize=address,undefined)
endif()
if(DEJAVM_FUZZERS)
  # So that the fuzzer sees which code it reaches.
  target_compile_options(dejavm_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-fsanitize=fuzzer-no-link>)
  target_link_options(dejavm_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# dejavm_room(NAME SOURCES f.c... [LINK target...])
# One static library per room. LINK names the rooms (and packages) it may know; a room not named there
# is not on the link line, so an include against the arrows does not go unnoticed.
function(dejavm_room name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${arg_LINK} PRIVATE dejavm_flags)
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()

# dejavm_test(NAME SOURCES f.c... LINK target... [ARGS a...] [LABELS l...] [TIMEOUT seconds])
# A cmocka test program, run by ctest.
function(dejavm_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;LINK;ARGS;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LINK} dejavm_flags cmocka)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} ${arg_ARGS})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}"
    SKIP_RETURN_CODE 77)
endfunction()

# dejavm_stage_test(NAME STAGE [ARGS a...] [LABELS l...] [TIMEOUT seconds])
# A test program once more, with the emulator held to its stage 1 or 2 (core/x86/emu.h).
function(dejavm_stage_test name stage)
  cmake_parse_arguments(arg "" "TIMEOUT" "ARGS;LABELS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_test(NAME ${name}_stage${stage} COMMAND ${name} ${arg_ARGS})
  set_tests_properties(${name}_stage${stage} PROPERTIES ENVIRONMENT DEJAVM_EMU_STAGES=${stage} TIMEOUT ${arg_TIMEOUT}
    LABELS "${arg_LABELS}" SKIP_RETURN_CODE 77)
endfunction()
