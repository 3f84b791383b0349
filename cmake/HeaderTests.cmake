# What is promised of the public headers: each compiles alone, and none includes anything but pikv and the standard
# library.
file(GLOB_RECURSE _pikv_headers RELATIVE ${PROJECT_SOURCE_DIR}/include CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/include/pikv/*.hpp)

add_library(header_self_containment OBJECT)
foreach(_header IN LISTS _pikv_headers)
  string(MAKE_C_IDENTIFIER ${_header} _name)
  set(_source ${CMAKE_CURRENT_BINARY_DIR}/header_self_containment/${_name}.cpp)
  # Included twice, so that a missing guard shows too.
  file(CONFIGURE OUTPUT ${_source} CONTENT "#include \"@_header@\"\n#include \"@_header@\"\n" @ONLY)
  target_sources(header_self_containment PRIVATE ${_source})
endforeach()
target_include_directories(header_self_containment PRIVATE ${PROJECT_SOURCE_DIR}/include)
target_link_libraries(header_self_containment PRIVATE pikv_options)

add_test(NAME public_headers COMMAND ${CMAKE_COMMAND}
  -DINCLUDE_DIR=${PROJECT_SOURCE_DIR}/include -DVERSION=${PROJECT_VERSION}
  -P ${PROJECT_SOURCE_DIR}/cmake/check_public_headers.cmake)
