# cmake --install: program, libraries, headers, notices, and the package that find_package(vvtq) finds.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(headers include/vvtq)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/vvtq)

# The folders of backends, and vectors whose width depends on -march, stay inside.
install(DIRECTORY engine autograd nn quant data DESTINATION ${headers} FILES_MATCHING PATTERN "*.h"
        PATTERN engine/cpu EXCLUDE PATTERN engine/cuda EXCLUDE PATTERN data/lanes.h EXCLUDE)
install(DIRECTORY apps/training DESTINATION ${headers}/apps FILES_MATCHING PATTERN "*.h")
install(FILES README.md THIRD_PARTY.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(EXPORT vvtq FILE vvtq-targets.cmake NAMESPACE vvtq:: DESTINATION ${package})
configure_package_config_file(cmake/vvtq-config.cmake.in vvtq-config.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(vvtq-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/vvtq-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/vvtq-config-version.cmake
        DESTINATION ${package})
