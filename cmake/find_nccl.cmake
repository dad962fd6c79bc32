# distil_xlstm::nccl_library: the NCCL of the system, of the CUDA toolkit, or of the folder of PyPI's packages that nvcc is from.
if(NOT TARGET distil_xlstm::nccl_library)
  get_filename_component(beside "${CMAKE_CUDA_COMPILER}" DIRECTORY)
  find_path(DISTIL_XLSTM_NCCL_INCLUDE nccl.h
            HINTS ${CUDAToolkit_INCLUDE_DIRS} "${beside}/../include" "${beside}/../../nccl/include")
  find_library(DISTIL_XLSTM_NCCL_LIBRARY NAMES nccl libnccl.so.2
               HINTS ${CUDAToolkit_LIBRARY_DIR} "${beside}/../lib64" "${beside}/../lib" "${beside}/../../nccl/lib")
  mark_as_advanced(DISTIL_XLSTM_NCCL_INCLUDE DISTIL_XLSTM_NCCL_LIBRARY)
  if(DISTIL_XLSTM_NCCL_INCLUDE AND DISTIL_XLSTM_NCCL_LIBRARY)
    add_library(distil_xlstm::nccl_library INTERFACE IMPORTED)
    target_include_directories(distil_xlstm::nccl_library INTERFACE "${DISTIL_XLSTM_NCCL_INCLUDE}")
    target_link_libraries(distil_xlstm::nccl_library INTERFACE "${DISTIL_XLSTM_NCCL_LIBRARY}")
  endif()
endif()
