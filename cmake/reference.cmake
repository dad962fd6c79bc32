# The reference and the guide: cmake --build build/release --target reference writes build/release/reference/html.
find_package(Doxygen 1.9 QUIET)
if(NOT DOXYGEN_FOUND)
  return()
endif()
set(DISTIL_XLSTM_REFERENCE_FOLDER ${PROJECT_BINARY_DIR}/reference)
file(MAKE_DIRECTORY ${DISTIL_XLSTM_REFERENCE_FOLDER})
configure_file(cmake/reference/Doxyfile.in ${DISTIL_XLSTM_REFERENCE_FOLDER}/Doxyfile @ONLY)
add_custom_target(reference COMMAND Doxygen::doxygen ${DISTIL_XLSTM_REFERENCE_FOLDER}/Doxyfile VERBATIM)
