# What all targets of vvtq share.

# vvtq_settings(TARGET): warnings, instruction set, sanitizers, for the target alone and not for those that link to it.
function(vvtq_settings target)
  set(warnings -Wall -Wextra -Wshadow)
  if(VVTQ_WERROR)
    list(APPEND warnings -Werror)
  endif()
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${warnings};-Wpedantic;-march=${VVTQ_ARCH}>")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # g++ 12 reports std::string's operator+ falsely (GCC bug 105651)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>")
  endif()
  # clang warns of `omp simd` loops that it does not vectorize
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wno-pass-failed>")
  if(VVTQ_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(VVTQ_SANITIZE)
    set(sanitizers -fsanitize=address,undefined)
    target_compile_options(${target} PRIVATE ${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)  # g++ 12 reports <regex> falsely here
    endif()
    target_link_options(${target} PUBLIC ${sanitizers})
  endif()
  if(VVTQ_HAS_CUDA)
    list(JOIN warnings "," warnings)
    # CMake 3.25 does not know that nvcc 13 speaks C++20, so the flag is given by hand.
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;-Xcompiler=${warnings}$<$<BOOL:${VVTQ_WERROR}>:;--Werror=all-warnings>>")
  endif()
endfunction()

# vvtq_library(NAME SOURCES...): the static library vvtq_NAME, for users vvtq::NAME.
function(vvtq_library name)
  set(target vvtq_${name})
  add_library(${target} STATIC ${ARGN})
  add_library(vvtq::${name} ALIAS ${target})
  vvtq_settings(${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(${target} PUBLIC cxx_std_20)
  # "engine/tensor.h" is found in the source tree and in PREFIX/include/vvtq.
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  if(VVTQ_INSTALL)
    install(TARGETS ${target} EXPORT vvtq INCLUDES DESTINATION include/vvtq)
  endif()
endfunction()
