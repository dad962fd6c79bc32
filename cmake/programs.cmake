# Programs, essays, tests, benchmarks, fuzz targets: what is built of this project alone.
# The program, its tests and fuzz targets take the library compiled once, essays and benchmarks its headers alone.
target_compile_options(distil_xlstm_compiled PRIVATE -Wall -Wextra -Wshadow ${DISTIL_XLSTM_TUNE})
if(DISTIL_XLSTM_FUZZ)
  # A fuzz target steers by what it reaches in the library, too.
  target_compile_options(distil_xlstm_compiled PRIVATE -fsanitize=fuzzer-no-link)
endif()

# For what takes longer to compile than to run. g++ clears the upper halves of AVX's registers before a call with the second
# only; without that, Intel's processors take five times as long for what is computed number by number.
set(distil_xlstm_light -O1 $<$<CXX_COMPILER_ID:GNU>:-fexpensive-optimizations>)

# A program of ours: warnings, the tuning of this build, and its dependencies.
function(distil_xlstm_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE distil_xlstm::io)
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;${DISTIL_XLSTM_TUNE}>)
  # g++ 12 takes AVX-512 intrinsics for uses of uninitialised memory (its bug 105593), and a vector
  # or a string that grows for an overflow.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${name} PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:-Wno-uninitialized;-Wno-maybe-uninitialized;-Wno-stringop-overflow;-Wno-restrict>)
  endif()
endfunction()

# What nvcc compiles. Kernels are made for the chips of CMAKE_CUDA_ARCHITECTURES: by default sm_80 and sm_90.
if(DISTIL_XLSTM_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit 12.4 REQUIRED)
endif()
function(distil_xlstm_cuda_program name)
  distil_xlstm_program(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE distil_xlstm::cuda)
  # nvcc does not know g++'s unroll pragmas, and says what it thinks of Eigen's annotations.
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-diag-suppress=1675,20011,20012,20014>)
endfunction()

# What the program `distil` has that its tests and fuzz targets include, too, as "distil/<name>.hpp". The page of its
# report is compiled in.
set(parts examples/distil/objective.cpp examples/distil/report.cpp)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS examples/distil/report.html)
file(READ examples/distil/report.html page)
configure_file(examples/distil/report_page.hpp.in distil/report_page.hpp @ONLY)
add_library(distil_parts STATIC EXCLUDE_FROM_ALL ${parts})
target_include_directories(distil_parts PUBLIC ${PROJECT_SOURCE_DIR}/examples PRIVATE ${PROJECT_BINARY_DIR}/distil)
target_link_libraries(distil_parts PUBLIC distil_xlstm::compiled ZLIB::ZLIB)

if(DISTIL_XLSTM_EXAMPLES)
  # The program `distil`.
  file(GLOB sources RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS examples/distil/*.cpp)
  list(REMOVE_ITEM sources ${parts})
  if(DISTIL_XLSTM_CUDA)
    file(GLOB kernels CONFIGURE_DEPENDS examples/distil/*.cu)
    distil_xlstm_cuda_program(distil ${sources} ${kernels})
    target_compile_definitions(distil PRIVATE DISTIL_WITH_CUDA)
  else()
    distil_xlstm_program(distil ${sources})
  endif()
  target_link_libraries(distil PRIVATE distil_parts Boost::program_options)
  if(DISTIL_XLSTM_MPI)
    target_link_libraries(distil PRIVATE distil_xlstm::mpi)
    target_compile_definitions(distil PRIVATE DISTIL_WITH_MPI)
  endif()
  # The essays: each says in its exit status whether its claim holds.
  file(GLOB essays CONFIGURE_DEPENDS examples/*.cpp)
  foreach(file ${essays})
    cmake_path(GET file STEM name)
    distil_xlstm_program(example.${name} ${file})
    # They take longer to compile than to run, but for that which trains.
    if(NOT name STREQUAL "parity")
      target_compile_options(example.${name} PRIVATE ${distil_xlstm_light})
    endif()
  endforeach()
endif()

if(DISTIL_XLSTM_TESTS)
  enable_testing()
  add_subdirectory(tests)
endif()

if(DISTIL_XLSTM_BENCH)
  file(GLOB_RECURSE benches CONFIGURE_DEPENDS bench/*.bench.cpp)
  if(benchmark_FOUND)
    foreach(file ${benches})
      cmake_path(RELATIVE_PATH file BASE_DIRECTORY ${PROJECT_SOURCE_DIR}/bench OUTPUT_VARIABLE name)
      string(REPLACE ".bench.cpp" "" name ${name})
      string(REPLACE "/" "." name ${name})
      distil_xlstm_program(bench.${name} ${file})
      target_link_libraries(bench.${name} PRIVATE benchmark::benchmark)
    endforeach()
  endif()
endif()

if(DISTIL_XLSTM_BENCH AND DISTIL_XLSTM_CUDA)
  file(GLOB_RECURSE benches CONFIGURE_DEPENDS bench/*.bench.cu)
  foreach(file ${benches})
    cmake_path(RELATIVE_PATH file BASE_DIRECTORY ${PROJECT_SOURCE_DIR}/bench OUTPUT_VARIABLE name)
    string(REPLACE ".bench.cu" "" name ${name})
    string(REPLACE "/" "." name ${name})
    distil_xlstm_cuda_program(bench.${name} ${file})
    if(benchmark_FOUND)
      target_link_libraries(bench.${name} PRIVATE benchmark::benchmark)
    endif()
  endforeach()
endif()

if(DISTIL_XLSTM_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "distil_xlstm: DISTIL_XLSTM_FUZZ needs clang's libFuzzer; the compiler is ${CMAKE_CXX_COMPILER_ID}")
  endif()
  file(GLOB fuzzers CONFIGURE_DEPENDS tests/fuzz/*.cpp)
  foreach(file ${fuzzers})
    cmake_path(GET file STEM name)
    distil_xlstm_program(${name} ${file})
    target_link_libraries(${name} PRIVATE distil_parts)
    target_compile_options(${name} PRIVATE -g -fsanitize=fuzzer,address,undefined)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer,address,undefined)
  endforeach()
endif()
