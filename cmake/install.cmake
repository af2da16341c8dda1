# Headers, library, CMake package and pkg-config file: below gradcore/ in the wheel, in the usual
# places of a prefix otherwise.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

if(GRADCORE_BUILD_PYTHON)
  set(include_dir gradcore/include)
  set(library_dir gradcore/lib)
else()
  set(include_dir ${CMAKE_INSTALL_INCLUDEDIR})
  set(library_dir ${CMAKE_INSTALL_LIBDIR})
endif()
set(package_dir ${library_dir}/cmake/gradcore)
set(pkgconfig_dir ${library_dir}/pkgconfig)

install(DIRECTORY csrc/include/gradcore DESTINATION ${include_dir})
install(
  TARGETS gradcore
  EXPORT gradcoreTargets
  LIBRARY DESTINATION ${library_dir}
  ARCHIVE DESTINATION ${library_dir}
  INCLUDES
  DESTINATION ${include_dir})
install(EXPORT gradcoreTargets NAMESPACE gradcore:: DESTINATION ${package_dir})

configure_package_config_file(cmake/gradcoreConfig.cmake.in gradcoreConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(gradcoreConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/gradcoreConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/gradcoreConfigVersion.cmake DESTINATION ${package_dir})

# Relative to the .pc file itself, so that the installed tree may be moved. Directories may be absolute, too.
foreach(kind include library pkgconfig)
  get_filename_component(full_${kind}_dir "${${kind}_dir}" ABSOLUTE BASE_DIR "${CMAKE_INSTALL_PREFIX}")
endforeach()
file(RELATIVE_PATH pkgconfig_to_include "${full_pkgconfig_dir}" "${full_include_dir}")
file(RELATIVE_PATH pkgconfig_to_library "${full_pkgconfig_dir}" "${full_library_dir}")
if(GRADCORE_STATIC)
  set(pkgconfig_cflags " -DGRADCORE_STATIC")
  set(pkgconfig_libs " -l${gradcore_cxx_library} -lm -pthread")
elseif(GRADCORE_BUILD_PYTHON) # no loader looks into a wheel by itself
  set(pkgconfig_libs " -Wl,-rpath,\${libdir}")
endif()
configure_file(cmake/gradcore.pc.in gradcore.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/gradcore.pc DESTINATION ${pkgconfig_dir})
