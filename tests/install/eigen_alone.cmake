# The default configuration where nothing but Eigen is found, its installation, and those who use it: what each says.
# Run as a script: cmake -D SOURCE=<folder> -D BUILD=<folder> -D GENERATOR=... -D COMPILER=... -D VERSION=... -P eigen_alone.cmake
file(REMOVE_RECURSE "${BUILD}")
set(common -G ${GENERATOR} -D CMAKE_CXX_COMPILER=${COMPILER})
unset(ENV{CMAKE_BUILD_TYPE})

# Runs a command, which is to succeed or to fail as `wanted` says; its output is to have each of the texts that follow.
function(says wanted command)
  execute_process(COMMAND ${${command}} RESULT_VARIABLE status OUTPUT_VARIABLE said ERROR_VARIABLE said)
  set(result "fails")
  if(status EQUAL 0)
    set(result "succeeds")
  endif()
  if(NOT result STREQUAL wanted)
    message(FATAL_ERROR "${${command}}\n${result}:\n${said}")
  endif()
  string(REGEX REPLACE "[ \n]+" " " said "${said}")
  foreach(text ${ARGN})
    string(FIND "${said}" "${text}" at)
    if(at EQUAL -1)
      message(FATAL_ERROR "${${command}}\ndoes not say `${text}`:\n${said}")
    endif()
  endforeach()
endfunction()

set(none "")
foreach(package Boost ZLIB benchmark nlohmann_json OpenSSL PkgConfig)
  list(APPEND none -D CMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
endforeach()
set(configure ${CMAKE_COMMAND} -S ${SOURCE} -B ${BUILD}/library ${common} ${none})
says(succeeds configure "no build type is set, this is a Release" "left out:" "distil_xlstm::io: not found: nlohmann_json"
     "the tests: not found:" "Boost.Test 1.74 (libboost-test-dev)" "zlib (zlib1g-dev)")
set(install ${CMAKE_COMMAND} --install ${BUILD}/library --prefix ${BUILD}/prefix)
says(succeeds install)

# Who asks for what is not there by name is told what is missing.
set(configure ${CMAKE_COMMAND} -S ${SOURCE} -B ${BUILD}/tests ${common} ${none} -D DISTIL_XLSTM_TESTS=ON)
says(fails configure "DISTIL_XLSTM_TESTS is ON, but the tests cannot be built without distil_xlstm::io, zlib")

# A project that uses it.
function(uses wanted name components)
  file(WRITE ${BUILD}/${name}/CMakeLists.txt "cmake_minimum_required(VERSION 3.24)
project(${name} LANGUAGES CXX)
find_package(distil_xlstm ${VERSION} CONFIG REQUIRED ${components})
add_library(${name} OBJECT ${SOURCE}/examples/consumer/one_block.cpp)
target_link_libraries(${name} PRIVATE distil_xlstm::distil_xlstm)\n")
  set(project ${CMAKE_COMMAND} -S ${BUILD}/${name} -B ${BUILD}/${name}/build ${common}
              -D CMAKE_PREFIX_PATH=${BUILD}/prefix)
  says(${wanted} project ${ARGN})
endfunction()
uses(succeeds plain "" "no build type is set, and without optimisation a training step takes 40 times as long")
uses(fails with_io "COMPONENTS io" "distil_xlstm: its component io was left out where it was installed")
uses(fails with_more "COMPONENTS gpu" "it has no component 'gpu' (io, compiled, ")

# And one without CMake.
find_program(pkg_config pkg-config)
if(pkg_config)
  file(GLOB_RECURSE description ${BUILD}/prefix/distil_xlstm.pc)
  cmake_path(GET description PARENT_PATH folder)
  set(ENV{PKG_CONFIG_PATH} ${folder})
  set(flags ${pkg_config} --modversion distil_xlstm)
  says(succeeds flags "${VERSION}")
  execute_process(COMMAND ${pkg_config} --cflags distil_xlstm OUTPUT_VARIABLE found COMMAND_ERROR_IS_FATAL ANY)
  string(STRIP "${found}" found)
  separate_arguments(found)
  file(WRITE ${BUILD}/program.cpp "#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/version.hpp>
#if DISTIL_XLSTM_VERSION < 100 || DISTIL_XLSTM_VERSION_MAJOR != 0
#error another version
#endif
int main() { return distil_xlstm::device::cpu(1).threads() == 1 ? 0 : 1; }\n")
  set(compile ${COMPILER} -std=c++20 -fsyntax-only ${found} ${BUILD}/program.cpp)
  says(succeeds compile)
endif()
