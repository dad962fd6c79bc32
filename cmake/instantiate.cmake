# distil_xlstm_instantiate(<target> HEADER <file> TYPES <class template with its arguments>...)
#
# Adds a source to the target that nvcc compiles: the header, device/cuda.cuh, and an explicit instantiation of each
# type. The target's other sources include the header and device/cuda.hpp, and may be any host compiler's.
function(distil_xlstm_instantiate target)
  cmake_parse_arguments(PARSE_ARGV 1 a "" "HEADER" "TYPES")
  if(NOT a_HEADER OR NOT a_TYPES OR a_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "distil_xlstm_instantiate(<target> HEADER <file> TYPES <type>...): HEADER is '${a_HEADER}', "
                        "TYPES are '${a_TYPES}', not understood: '${a_UNPARSED_ARGUMENTS}'")
  endif()
  cmake_path(ABSOLUTE_PATH a_HEADER BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
  set(text "#include <distil_xlstm/device/cuda.cuh>\n#include \"${a_HEADER}\"\n")
  foreach(type ${a_TYPES})
    string(APPEND text "template class ${type};\n")
  endforeach()
  set(source ${CMAKE_CURRENT_BINARY_DIR}/${target}.instantiated.cu)
  file(CONFIGURE OUTPUT ${source} CONTENT "${text}" @ONLY)
  target_sources(${target} PRIVATE ${source})
  target_link_libraries(${target} PRIVATE distil_xlstm::cuda)
endfunction()
