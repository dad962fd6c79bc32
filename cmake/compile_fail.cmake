# One pair: FILE compiles as it stands, and under EXPECT_FAILURE it does not, for the reason it names.
# Run as a script: cmake -D COMPILER=... -D FLAGS=a;b -D FILE=... -P compile_fail.cmake
set(ENV{LC_ALL} C)
file(STRINGS "${FILE}" expected REGEX "^// expect: ")
string(REGEX REPLACE "^// expect: " "" expected "${expected}")
string(REPLACE "\\;" ";" expected "${expected}")  # file(STRINGS) escapes what separates a list
if(NOT expected)
  message(FATAL_ERROR "${FILE}: no line `// expect: message`")
endif()
set(command ${COMPILER} -std=c++20 -fsyntax-only ${FLAGS})
execute_process(COMMAND ${command} ${FILE} RESULT_VARIABLE status ERROR_VARIABLE said OUTPUT_VARIABLE said)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${FILE} must compile as it stands:\n${said}")
endif()
execute_process(COMMAND ${command} -DEXPECT_FAILURE ${FILE} RESULT_VARIABLE status ERROR_VARIABLE said
                OUTPUT_VARIABLE said)
if(status EQUAL 0)
  message(FATAL_ERROR "${FILE} must not compile with -DEXPECT_FAILURE")
endif()
string(FIND "${said}" "${expected}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "${FILE}: the compiler does not say `${expected}`:\n${said}")
endif()
