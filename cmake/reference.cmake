# The reference and the guide: cmake --build build/release --target reference writes build/release/reference/html.
find_package(Doxygen 1.9 QUIET)
if(NOT DOXYGEN_FOUND)
  return()
endif()
set(DISTIL_XLSTM_REFERENCE_FOLDER ${PROJECT_BINARY_DIR}/reference)
file(MAKE_DIRECTORY ${DISTIL_XLSTM_REFERENCE_FOLDER})
configure_file(cmake/reference/Doxyfile.in ${DISTIL_XLSTM_REFERENCE_FOLDER}/Doxyfile @ONLY)
if(DISTIL_XLSTM_TESTS)
  # No warning: every public entity is described.
  add_test(NAME repository.reference COMMAND Doxygen::doxygen ${DISTIL_XLSTM_REFERENCE_FOLDER}/Doxyfile)
  set_tests_properties(repository.reference PROPERTIES LABELS repository)
endif()
add_custom_target(reference COMMAND Doxygen::doxygen ${DISTIL_XLSTM_REFERENCE_FOLDER}/Doxyfile VERBATIM)
