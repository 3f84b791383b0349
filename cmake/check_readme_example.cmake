# cmake -DREADME=README.md -DSOURCE=quickstart.cpp -DWORK_DIR=dir -P check_readme_example.cmake
#
# Fails unless a ```cpp block of the README is, word for word and less one level of indentation, what stands between the
# lines `// [readme]` and `// [/readme]` of the source.
cmake_minimum_required(VERSION 3.25)

# Sets `out` to what stands in `text` between `begin` and `end`, both excluded.
function(text_between out text begin end what)
  string(FIND "${text}" "${begin}" start)
  if(start EQUAL -1)
    message(FATAL_ERROR "${what}")
  endif()
  string(LENGTH "${begin}" length)
  math(EXPR start "${start} + ${length}")
  string(SUBSTRING "${text}" ${start} -1 rest)
  string(FIND "${rest}" "${end}" length)
  if(length EQUAL -1)
    message(FATAL_ERROR "${what}")
  endif()
  string(SUBSTRING "${rest}" 0 ${length} found)
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

if(NOT EXISTS ${README})
  message(FATAL_ERROR "${README} is missing")
endif()
file(READ ${README} readme)
file(READ ${SOURCE} source)

text_between(example "${source}" "  // [readme]\n" "  // [/readme]\n"
  "${SOURCE} has no part between the lines '// [readme]' and '// [/readme]'")
string(REPLACE "\n  " "\n" example "\n${example}")  # the part stands inside a function
string(SUBSTRING "${example}" 1 -1 example)
string(FIND "${readme}" "```cpp\n${example}```\n" place)
if(place EQUAL -1)
  text_between(block "${readme}" "```cpp\n" "```\n" "${README} has no \`\`\`cpp block")
  file(WRITE ${WORK_DIR}/source.txt "${example}")
  file(WRITE ${WORK_DIR}/readme.txt "${block}")
  execute_process(COMMAND diff -u --label ${SOURCE} --label ${README} ${WORK_DIR}/source.txt ${WORK_DIR}/readme.txt)
  message(FATAL_ERROR "no \`\`\`cpp block of ${README} equals the example in ${SOURCE}; "
                      "above: the difference to its first one")
endif()
