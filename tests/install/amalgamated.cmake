# The core in one file: it holds no include of the library, and two sources compiled with it alone are a program that
# trains.
# Run as a script: cmake -D SOURCE=<folder> -D BUILD=<folder> -D COMPILER=... -D EIGEN=<folder> -P amalgamated.cmake
file(REMOVE_RECURSE "${BUILD}")
set(header "${BUILD}/distil_xlstm_core.hpp")
execute_process(COMMAND ${CMAKE_COMMAND} -D INCLUDE=${SOURCE}/include -D OUTPUT=${header} -P
                        ${SOURCE}/cmake/amalgamate.cmake COMMAND_ERROR_IS_FATAL ANY)
file(STRINGS "${header}" left REGEX "^ *# *include *[<\"]distil_xlstm/")
if(left)
  message(FATAL_ERROR "${header} includes ${left}")
endif()

set(objects "")
foreach(name program score)
  execute_process(COMMAND ${COMPILER} -std=c++20 -Wall -Wextra -Werror -I${BUILD} -isystem ${EIGEN} -c
                          ${SOURCE}/tests/install/amalgamated/${name}.cpp -o ${BUILD}/${name}.o
                  COMMAND_ERROR_IS_FATAL ANY)
  list(APPEND objects ${BUILD}/${name}.o)
endforeach()
execute_process(COMMAND ${COMPILER} ${objects} -pthread -o ${BUILD}/program COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${BUILD}/program COMMAND_ERROR_IS_FATAL ANY)

# What it does not have is said in one sentence.
set(ENV{LC_ALL} C)
execute_process(COMMAND ${COMPILER} -std=c++20 -fsyntax-only -DDISTIL_XLSTM_COMPILED -isystem ${EIGEN} -x c++ ${header}
                RESULT_VARIABLE status ERROR_VARIABLE said OUTPUT_VARIABLE said)
if(status EQUAL 0 OR NOT said MATCHES "compile it without DISTIL_XLSTM_COMPILED")
  message(FATAL_ERROR "With DISTIL_XLSTM_COMPILED the compiler says:\n${said}")
endif()
