# How everything here is compiled and linked.

# A release; and where a project that has this as a subdirectory names no build type, which would mean no optimization.
set(gradcore_release_build "$<OR:$<CONFIG:Release>,$<STREQUAL:$<CONFIG>,>>")

# -ffp-contract=fast: GCC and Clang then fuse a * b + c alike, on every target with an FMA.
# The two -fno-* flags give up errno and floating-point traps, nothing of IEEE arithmetic.
function(gradcore_compile_options target)
  target_compile_features(${target} PRIVATE cxx_std_17)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden
                                             VISIBILITY_INLINES_HIDDEN ON)
  target_compile_options(
    ${target}
    PRIVATE $<${gradcore_release_build}:-O3>
            -ffp-contract=fast
            -fno-math-errno
            -fno-trapping-math
            -ffunction-sections
            -fdata-sections
            -ffile-prefix-map=${PROJECT_SOURCE_DIR}=.
            -Wall
            -Wextra
            -Wno-psabi)
  if(GRADCORE_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(GRADCORE_SANITIZE)
    list(JOIN GRADCORE_SANITIZE "," sanitizers)
    target_compile_options(${target} PRIVATE -fsanitize=${sanitizers} -fno-sanitize-recover=all
                                             -fno-omit-frame-pointer -g)
  endif()
endfunction()

# Further options for single sources, after those of their target.
function(gradcore_compile_sources options)
  set_property(SOURCE ${ARGN} APPEND PROPERTY COMPILE_OPTIONS "${options}")
endfunction()

function(gradcore_link_options target)
  if(GRADCORE_SANITIZE)
    list(JOIN GRADCORE_SANITIZE "," sanitizers)
    target_link_options(${target} PUBLIC -fsanitize=${sanitizers})
  endif()
  if(NOT APPLE)
    target_link_options(${target} PRIVATE -Wl,--gc-sections)
  endif()
endfunction()

# Only the names of gradcore.h leave the library, not even the weak symbols of its C++ templates. It stays loaded when a
# host unloads the plugin that it came with: its threads would return into nothing.
function(gradcore_export_only_c_interface target)
  set(map "${PROJECT_SOURCE_DIR}/cmake/exports.map")
  if(NOT APPLE)
    target_link_options(${target} PRIVATE -Wl,--version-script=${map} -Wl,-z,nodelete)
    if(NOT GRADCORE_SANITIZE) # whose symbols come from the program
      target_link_options(${target} PRIVATE -Wl,--no-undefined)
    endif()
    set_target_properties(${target} PROPERTIES LINK_DEPENDS ${map})
  endif()
endfunction()
