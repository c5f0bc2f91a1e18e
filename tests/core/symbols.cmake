# The images that test_symbols.c reads: one source, as ELF64 with DWARF 5 and as ELF32 with DWARF 4.
foreach(bits 64 32)
  add_executable(symbols_guest_${bits} ${CMAKE_CURRENT_LIST_DIR}/symbols_guest.c)
  target_compile_options(symbols_guest_${bits} PRIVATE -g -O1 -m${bits} -ffreestanding -fno-pie -fno-stack-protector
    -fno-asynchronous-unwind-tables)
  target_link_options(symbols_guest_${bits} PRIVATE -m${bits} -nostdlib -static -Wl,--build-id=none)
  set_target_properties(symbols_guest_${bits} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endforeach()
target_compile_options(symbols_guest_64 PRIVATE -gdwarf-5)
target_compile_options(symbols_guest_32 PRIVATE -gdwarf-4)
target_link_libraries(test_symbols PRIVATE PkgConfig::DW)
add_dependencies(test_symbols symbols_guest_64 symbols_guest_32)
target_compile_definitions(test_symbols PRIVATE
  SYMBOLS_GUEST_SOURCE="${CMAKE_CURRENT_LIST_DIR}/symbols_guest.c"
  SYMBOLS_GUEST_64="$<TARGET_FILE:symbols_guest_64>"
  SYMBOLS_GUEST_32="$<TARGET_FILE:symbols_guest_32>"
  SYMBOLS_DAMAGE_ROUNDS=3000)
