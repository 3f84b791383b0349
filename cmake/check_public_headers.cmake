# cmake -DINCLUDE_DIR=include -DVERSION=x.y.z -P check_public_headers.cmake
#
# Fails when a public header includes anything but pikv's own headers and the C++ standard library's, when one names
# something of CUDA, and when version.hpp and the CMake project tell different versions.
cmake_minimum_required(VERSION 3.25)

file(GLOB_RECURSE headers RELATIVE ${INCLUDE_DIR} ${INCLUDE_DIR}/pikv/*.hpp)
list(LENGTH headers num_headers)
if(num_headers EQUAL 0)
  message(FATAL_ERROR "no headers under ${INCLUDE_DIR}/pikv")
endif()

foreach(header IN LISTS headers)
  file(STRINGS ${INCLUDE_DIR}/${header} includes REGEX "^[ \t]*#[ \t]*include")
  foreach(line IN LISTS includes)
    if(line MATCHES "include[ \t]*\"(pikv/[a-z0-9_/]+\\.hpp)\"")
      if(NOT EXISTS ${INCLUDE_DIR}/${CMAKE_MATCH_1})
        message(SEND_ERROR "${header} includes ${CMAKE_MATCH_1}, which is not a public header")
      endif()
    elseif(NOT line MATCHES "include[ \t]*<[a-z0-9_]+>")  # the standard library's names have neither dot nor slash
      message(SEND_ERROR "${header}: '${line}' is neither pikv's nor the C++ standard library's")
    endif()
  endforeach()

  file(READ ${INCLUDE_DIR}/${header} text)
  # cuda.hpp is the bridge, and names the one type that it bridges.
  if(header STREQUAL "pikv/cuda.hpp")
    string(REGEX REPLACE "struct CUstream_st;[^\n]*|CUstream_st|cuda(Stream_t|MallocAsync)|CUstream " "" text "${text}")
  endif()
  if(text MATCHES "(cuda|cublas)[A-Z][A-Za-z_]*|CU(stream|event|device|context)|__global__|__shared__")
    message(SEND_ERROR "${header} names '${CMAKE_MATCH_0}', which is CUDA's")
  endif()
endforeach()

file(READ ${INCLUDE_DIR}/pikv/version.hpp text)
set(numbers "")
foreach(part MAJOR MINOR PATCH)
  string(REGEX MATCH "#define PIKV_VERSION_${part} ([0-9]+)" _ "${text}")
  list(APPEND numbers ${CMAKE_MATCH_1})
endforeach()
list(JOIN numbers "." header_version)
if(NOT header_version STREQUAL VERSION)
  message(SEND_ERROR "version.hpp says ${header_version}, CMakeLists.txt says ${VERSION}")
endif()
message(STATUS "checked ${num_headers} headers")
