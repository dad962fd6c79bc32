# The port of the checkout that it lies in:
#   vcpkg install distil-xlstm --overlay-ports=<checkout>/cmake/ports/vcpkg --no-binarycaching
set(VCPKG_BUILD_TYPE release)  # headers
cmake_path(SET SOURCE_PATH NORMALIZE "${CMAKE_CURRENT_LIST_DIR}/../../..")

vcpkg_check_features(OUT_FEATURE_OPTIONS options FEATURES io DISTIL_XLSTM_IO)
vcpkg_find_acquire_program(PKGCONFIG)
vcpkg_cmake_configure(SOURCE_PATH "${SOURCE_PATH}"
                      OPTIONS ${options}
                              "-DPKG_CONFIG_EXECUTABLE=${PKGCONFIG}"
                              -DDISTIL_XLSTM_TESTS=OFF
                              -DDISTIL_XLSTM_EXAMPLES=OFF
                              -DDISTIL_XLSTM_BENCH=OFF
                              -DDISTIL_XLSTM_MPI=OFF)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME distil_xlstm CONFIG_PATH lib/cmake/distil_xlstm)
vcpkg_fixup_pkgconfig()

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/share/doc")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
