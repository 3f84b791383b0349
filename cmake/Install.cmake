# Installs the library, its headers, a CMake package, a pkg-config file, the licence and the documentation.
include(CMakePackageConfigHelpers)

set(_pikv_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/pikv)

install(TARGETS pikv EXPORT pikvTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/pikv DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.hpp" PATTERN "*.h")
install(EXPORT pikvTargets NAMESPACE pikv:: DESTINATION ${_pikv_cmake_dir})

get_target_property(_pikv_type pikv TYPE)
if(_pikv_type STREQUAL "STATIC_LIBRARY")
  set(PIKV_IS_STATIC TRUE)
else()
  set(PIKV_IS_STATIC FALSE)
endif()
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/pikvConfig.cmake.in ${PROJECT_BINARY_DIR}/pikvConfig.cmake
  INSTALL_DESTINATION ${_pikv_cmake_dir} NO_SET_AND_CHECK_MACRO)
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(_pikv_compatibility SameMinorVersion)
else()
  set(_pikv_compatibility SameMajorVersion)
endif()
write_basic_package_version_file(${PROJECT_BINARY_DIR}/pikvConfigVersion.cmake COMPATIBILITY ${_pikv_compatibility})
install(FILES ${PROJECT_BINARY_DIR}/pikvConfig.cmake ${PROJECT_BINARY_DIR}/pikvConfigVersion.cmake
  DESTINATION ${_pikv_cmake_dir})

# pkg-config finds everything relative to its own file, so that an installed tree may be moved as a whole.
set(_pikv_pc_dir ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
foreach(_dir LIBDIR INCLUDEDIR)
  file(RELATIVE_PATH PIKV_PC_${_dir} ${_pikv_pc_dir} ${CMAKE_INSTALL_FULL_${_dir}})
endforeach()
# A program linked with the static library needs what the library needs; the shared one brings it along.
if(PIKV_IS_STATIC)
  set(PIKV_PC_LIBS " -pthread")
  if(PIKV_HAS_CUDA)
    string(APPEND PIKV_PC_LIBS " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt")
  endif()
  set(PIKV_PC_PRIVATE "")
else()
  set(PIKV_PC_LIBS "")
  set(PIKV_PC_PRIVATE ".private")
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/pikv.pc.in ${PROJECT_BINARY_DIR}/pikv.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/pikv.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES ${PROJECT_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} OPTIONAL)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
