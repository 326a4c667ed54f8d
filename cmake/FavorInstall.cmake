# What `cmake --install` puts where: headers, both libraries, the program, a CMake package and pkg-config files.
include(CMakePackageConfigHelpers)

install(DIRECTORY include/favor DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(TARGETS favor_library favor_io_library favor_program EXPORT favorTargets
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT favorTargets NAMESPACE favor:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/favor)

configure_package_config_file(cmake/favorConfig.cmake.in ${PROJECT_BINARY_DIR}/favorConfig.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/favor)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/favorConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/favorConfig.cmake ${PROJECT_BINARY_DIR}/favorConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/favor)

# The .pc files find themselves, so that the tree can be moved, and carry the flags of the MPI that favor was built with,
# for its name in pkg-config differs between MPIs.
set(pc_mpi_cflags "")
foreach(directory IN LISTS MPI_C_INCLUDE_DIRS)
  string(APPEND pc_mpi_cflags " -I${directory}")
endforeach()
string(REPLACE ";" " " pc_mpi_libs "${MPI_C_LIBRARIES}")
file(RELATIVE_PATH pc_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" pc_to_prefix "${pc_to_prefix}")
foreach(name favor favor-io)
  configure_file(cmake/${name}.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
