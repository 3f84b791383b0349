# Code compiled for an instruction set that the CPU may lack must not hold functions that the linker could keep for
# everybody: apart from its table, no object of the row kernels may define a weak or global function.
set(num_checked 0)
foreach(object IN LISTS OBJECTS)
  if(NOT object MATCHES "rows_avx")
    continue()
  endif()
  execute_process(COMMAND ${NM} --defined-only --extern-only ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  if(symbols MATCHES " [TWu] ")
    message(FATAL_ERROR "${object} defines functions that other files could be linked to:\n${symbols}")
  endif()
  math(EXPR num_checked "${num_checked} + 1")
endforeach()
message(STATUS "${num_checked} objects checked")
