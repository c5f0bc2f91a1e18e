# Run at build time: writes OUTPUT from INPUT with the current commit's name, only when that changes.
set(DEJAVM_GIT "")
find_program(GIT git)
if(GIT)
  execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --dirty --tags
    OUTPUT_VARIABLE DEJAVM_GIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    set(DEJAVM_GIT "")
  endif()
endif()
configure_file(${INPUT} ${OUTPUT} @ONLY)
