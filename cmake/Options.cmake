# One interface target carries how every target of this project is compiled; nothing global is edited.
add_library(pikv_options INTERFACE)
target_compile_features(pikv_options INTERFACE cxx_std_20)
target_compile_options(pikv_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>  # proves the lock annotations of src/detail/thread_annotations.hpp
  $<$<BOOL:${PIKV_WARNINGS_AS_ERRORS}>:-Werror>
  # g++ 12 sees overlap in its own operator+ of a literal and a string (GCC bug 105651).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  # Results must not depend on which compiler fuses what: every fused multiply-add is written out.
  -ffp-contract=off)

if(PIKV_SANITIZE STREQUAL "address+undefined")
  # Null pointers trap without UBSan's help, whose checks of every one of them take g++ a third of its time.
  set(_pikv_sanitize -fsanitize=address,undefined -fno-sanitize=null -fno-sanitize-recover=all -fno-omit-frame-pointer)
elseif(PIKV_SANITIZE STREQUAL "thread")
  set(_pikv_sanitize -fsanitize=thread -fno-omit-frame-pointer)
elseif(PIKV_SANITIZE)
  message(FATAL_ERROR "PIKV_SANITIZE must be empty, address+undefined or thread, not '${PIKV_SANITIZE}'")
endif()
if(PIKV_FUZZ)
  list(APPEND _pikv_sanitize -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
endif()
if(_pikv_sanitize)
  # g++ loses track of what is initialised between a sanitizer's checks, in its own headers too (GCC manual, -fsanitize).
  target_compile_options(pikv_options INTERFACE ${_pikv_sanitize}
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_compile_definitions(pikv_options INTERFACE PIKV_ENABLE_ASSERTS=1)
  target_link_options(pikv_options INTERFACE ${_pikv_sanitize})
endif()
if(CMAKE_UNITY_BUILD)
  # Of several sources in one, g++ takes all but the first for headers.
  target_compile_options(pikv_options INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
endif()
