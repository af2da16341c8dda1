# How everything here is compiled and linked.

# What it is written for: futexes, vectors and target regions of these compilers. Said here, not by their error messages.
set(gradcore_oldest_GNU 10)
set(gradcore_oldest_Clang 14)
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(FATAL_ERROR "gradcore: expected Linux, got ${CMAKE_SYSTEM_NAME}")
endif()
if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS "${gradcore_oldest_${CMAKE_CXX_COMPILER_ID}}")
  message(FATAL_ERROR "gradcore: expected GCC ${gradcore_oldest_GNU} or Clang ${gradcore_oldest_Clang} or newer, "
                      "got ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
endif()

# A release; and where a project that has this as a subdirectory names no build type, which would mean no optimization.
set(gradcore_release_build "$<OR:$<CONFIG:Release>,$<STREQUAL:$<CONFIG>,>>")

# -fno-fast-math, -fexceptions: a host that hands its own flags to all its parts cannot take away what this one
# is built on: NaN and infinity must be seen, and bad_alloc is caught.
# -ffp-contract=fast: GCC and Clang then fuse a * b + c alike, on every target with an FMA.
# The next two give up errno and floating-point traps, nothing of IEEE arithmetic.
function(gradcore_compile_options target)
  target_compile_features(${target} PRIVATE cxx_std_17)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden
                                             VISIBILITY_INLINES_HIDDEN ON UNITY_BUILD OFF)
  target_compile_options(
    ${target}
    PRIVATE $<${gradcore_release_build}:-O3>
            -fno-fast-math
            -fexceptions
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
    # No class here has virtual functions; a program in C that Clang links lacks the part that checks these (vptr).
    target_compile_options(${target} PRIVATE -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-sanitize=vptr
                                             -fno-omit-frame-pointer)
  endif()
endfunction()

# Further options for single sources, after those of their target.
function(gradcore_compile_sources options)
  set_property(SOURCE ${ARGN} APPEND PROPERTY COMPILE_OPTIONS "${options}")
endfunction()

function(gradcore_link_options target)
  # Else -ffast-math of a host links code that takes subnormal numbers for zero in the whole process.
  target_link_options(${target} PRIVATE -fno-fast-math)
  if(GRADCORE_SANITIZE)
    list(JOIN GRADCORE_SANITIZE "," sanitizers)
    target_link_options(${target} PUBLIC -fsanitize=${sanitizers})
  endif()
  target_link_options(${target} PRIVATE -Wl,--gc-sections)
endfunction()

# Only the names of gradcore.h leave the library, not even the weak symbols of its C++ templates. It stays loaded when a
# host unloads the plugin that it came with: its threads would return into nothing.
function(gradcore_export_only_c_interface target)
  set(map "${PROJECT_SOURCE_DIR}/cmake/exports.map")
  target_link_options(${target} PRIVATE -Wl,--version-script=${map} -Wl,-z,nodelete)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${map})
endfunction()
