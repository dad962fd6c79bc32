# The Conan recipe, with the libraries of this system: it packages the checkout, with io and without, and its test_package
# builds and runs. Conan's own folder is one of this test.
# Run as a script: cmake -D SOURCE=<folder> -D BUILD=<folder> -D VERSION=... -P conan.cmake
cmake_minimum_required(VERSION 3.24)
file(REMOVE_RECURSE "${BUILD}")
find_program(conan conan)
set(found "no conan")
if(conan)
  execute_process(COMMAND ${conan} --version OUTPUT_VARIABLE found ERROR_VARIABLE found)
endif()
if(NOT found MATCHES "Conan version 2")
  string(STRIP "${found}" found)
  message(STATUS "skipped: needs Conan 2 (pip install conan), and there is: ${found}")
  return()
endif()

set(ENV{CONAN_HOME} "${BUILD}/home")
execute_process(COMMAND ${conan} profile detect OUTPUT_QUIET ERROR_QUIET COMMAND_ERROR_IS_FATAL ANY)
foreach(io False True)
  execute_process(COMMAND ${conan} create ${SOURCE}/cmake/ports/conan --profile ${SOURCE}/cmake/ports/conan/system
                          --no-remote -s build_type=Debug -o &:io=${io}
                          -c tools.cmake.cmake_layout:test_folder=${BUILD}/io_${io} -c tools.build:jobs=1
                  COMMAND_ERROR_IS_FATAL ANY)
endforeach()
execute_process(COMMAND ${conan} list distil_xlstm/${VERSION}:* OUTPUT_VARIABLE packages ERROR_QUIET COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "io: (True|False)" packages "${packages}")
list(SORT packages)
if(NOT packages STREQUAL "io: False;io: True")
  message(FATAL_ERROR "distil_xlstm/${VERSION} has the packages ${packages}")
endif()
