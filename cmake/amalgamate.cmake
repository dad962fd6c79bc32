# The core in one file: every header of distil_xlstm::distil_xlstm.
# Run as a script: cmake -D INCLUDE=<folder> -D OUTPUT=<file> -P amalgamate.cmake
#
# A header of the library stands where it is first included, as a compiler would see it. Other people's are included
# once, at the top, but for those under a condition.
cmake_minimum_required(VERSION 3.24)

include("${CMAKE_CURRENT_LIST_DIR}/core_headers.cmake")

# Appends to the globals `body` and `others` what including `header` gives for the first time.
function(emit header)
  get_property(done GLOBAL PROPERTY "emitted ${header}")
  if(done)
    return()
  endif()
  set_property(GLOBAL PROPERTY "emitted ${header}" TRUE)
  file(READ "${INCLUDE}/${header}" text)
  string(REPLACE "\n#pragma once\n" "\n" text "\n${text}")

  # All of it is here, and nothing compiled elsewhere.
  string(REGEX REPLACE "\n#ifndef DISTIL_XLSTM_COMPILED\n(#include <[^>]+[.]ipp>\n)#endif\n" "\n\\1" text "${text}")
  distil_xlstm_without_compiled(${header} text)

  set(depth 0)
  while(text MATCHES "\n *# *(include <|if|endif)[^\n]*")
    set(line "${CMAKE_MATCH_0}")
    string(FIND "${text}" "${line}" at)
    string(SUBSTRING "${text}" 0 ${at} before)
    string(LENGTH "${line}" length)
    math(EXPR at "${at} + ${length}")
    string(SUBSTRING "${text}" ${at} -1 text)
    set_property(GLOBAL APPEND_STRING PROPERTY body "${before}")
    if(line MATCHES "include <(distil_xlstm/[^>]+)>")
      if(depth GREATER 0)
        message(FATAL_ERROR "amalgamate: ${header} has <${CMAKE_MATCH_1}> under a condition")
      endif()
      emit(${CMAKE_MATCH_1})
    elseif(line MATCHES "include (<[a-zA-Z_0-9./]+>)" AND depth EQUAL 0)
      set_property(GLOBAL APPEND PROPERTY others "${CMAKE_MATCH_1}")
    else()
      set_property(GLOBAL APPEND_STRING PROPERTY body "${line}")
      if(line MATCHES "# *if")
        math(EXPR depth "${depth} + 1")
      elseif(line MATCHES "# *endif")
        math(EXPR depth "${depth} - 1")
      endif()
    endif()
  endwhile()
  set_property(GLOBAL APPEND_STRING PROPERTY body "${text}")
  if(NOT depth EQUAL 0)
    message(FATAL_ERROR "amalgamate: ${header}: #if and #endif do not match")
  endif()
endfunction()

file(GLOB_RECURSE headers RELATIVE "${INCLUDE}" "${INCLUDE}/distil_xlstm/*.hpp")
distil_xlstm_core_headers("${INCLUDE}" headers)
list(LENGTH headers count)
if(count EQUAL 0)
  message(FATAL_ERROR "amalgamate: no headers in ${INCLUDE}/distil_xlstm")
endif()
foreach(header IN LISTS headers)
  emit(${header})
endforeach()

get_property(body GLOBAL PROPERTY body)
get_property(others GLOBAL PROPERTY others)
list(REMOVE_DUPLICATES others)
list(SORT others)
list(TRANSFORM others PREPEND "#include ")
list(JOIN others "\n" others)
string(REGEX REPLACE "\n\n\n+" "\n\n" body "\n${body}")
file(READ "${INCLUDE}/distil_xlstm/version.hpp" version)
string(REGEX REPLACE ".*_MAJOR ([0-9]+)\n.*_MINOR ([0-9]+)\n.*_PATCH ([0-9]+)\n.*" "\\1.\\2.\\3" version "${version}")
file(WRITE "${OUTPUT}"
"// distil_xlstm ${version}, its core: blocks, models, decoders, losses, AdamW, on the CPU; all that needs Eigen alone.
// Made of the library's headers, and taken in their place, not beside them:
//   g++ -std=c++20 -O3 -march=native -I/usr/include/eigen3 program.cpp
// Apache-2.0
#pragma once

#ifdef DISTIL_XLSTM_COMPILED
#error \"this is all of distil_xlstm's core: compile it without DISTIL_XLSTM_COMPILED\"
#endif

${others}
${body}")
message(STATUS "amalgamate: ${count} headers in ${OUTPUT}")
