# For Conan 2, of this checkout:
#   conan create cmake/ports/conan [-o "&:io=False"]
# and with the libraries that the system has in place of Conan Center's:
#   conan create cmake/ports/conan -pr cmake/ports/conan/system
# Who requires it takes the generators CMakeToolchain, CMakeDeps and PkgConfigDeps: test_package does.
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load
from conan.tools.gnu import PkgConfigDeps

required_conan_version = ">=2.0"


class DistilXlstm(ConanFile):
    name = "distil_xlstm"
    description = "Turns a transformer into a recurrent language model: header-only C++20"
    license = "Apache-2.0"
    topics = ("xlstm", "distillation", "language-model", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    # Files, models and training, and the component compiled; without it Eigen is all that is needed.
    options = {"io": [True, False]}
    default_options = {"io": True}

    @property
    def _checkout(self):
        return os.path.normpath(os.path.join(self.recipe_folder, "..", "..", ".."))

    def set_version(self):
        header = load(self, os.path.join(self._checkout, "include", "distil_xlstm", "version.hpp"))
        self.version = ".".join(re.search(rf"_{part} (\d+)\n", header)[1] for part in ("MAJOR", "MINOR", "PATCH"))

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*"):
            copy(self, pattern, self._checkout, self.export_sources_folder, excludes="cmake/ports/*")

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        self.requires("eigen/[>=3.4 <4]", transitive_headers=True)
        if self.options.io:
            self.requires("nlohmann_json/[>=3.10 <4]", transitive_headers=True)
            self.requires("pcre2/[>=10 <11]", transitive_headers=True, transitive_libs=True)
            self.requires("utf8proc/[>=2 <3]", transitive_headers=True, transitive_libs=True)
            self.requires("openssl/[>=1.1 <4]", transitive_headers=True, transitive_libs=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.settings.clear()

    def generate(self):
        CMakeDeps(self).generate()
        PkgConfigDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables["DISTIL_XLSTM_IO"] = "ON" if self.options.io else "OFF"
        for part in ("TESTS", "EXAMPLES", "BENCH", "MPI"):
            toolchain.cache_variables[f"DISTIL_XLSTM_{part}"] = "OFF"
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()

    def package_info(self):
        # The package that CMake installs says all: find_package(distil_xlstm COMPONENTS io compiled).
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("lib", "cmake", "distil_xlstm")]
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
