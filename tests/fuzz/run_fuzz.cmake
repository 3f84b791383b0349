# Runs PROGRAM, a libFuzzer target, for SECONDS over a copy of the folders CORPUS; what it finds stays under WORK.
file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}/corpus" "${WORK}/found")
foreach(folder IN LISTS CORPUS)
  file(GLOB seeds "${folder}/*")
  if(NOT seeds)
    message(FATAL_ERROR "no seeds in ${folder}")
  endif()
  file(COPY ${seeds} DESTINATION "${WORK}/corpus")
endforeach()
execute_process(
  COMMAND "${PROGRAM}" -max_total_time=${SECONDS} -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0
    "-artifact_prefix=${WORK}/found/" "${WORK}/corpus"
  RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} ended with ${result}; the input is in ${WORK}/found")
endif()
