# What distil_xlstm::io links, for the build and for the installed package.
find_package(nlohmann_json 3.10 REQUIRED)
find_package(PkgConfig REQUIRED)
foreach(module libpcre2-8 libutf8proc)
  if(NOT TARGET PkgConfig::${module})
    pkg_check_modules(${module} REQUIRED IMPORTED_TARGET GLOBAL ${module})
  endif()
endforeach()
set(DISTIL_XLSTM_IO_LIBRARIES nlohmann_json::nlohmann_json PkgConfig::libpcre2-8 PkgConfig::libutf8proc)
