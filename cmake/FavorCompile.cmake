# How every target of the project is compiled.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON) # GNU attributes and POSIX; still -std=gnu17
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# Warnings are errors with the compiler that the project is developed with; others, used for fuzzing, warn of more.
# -ffp-contract=off: the plain C kernels mean what they say; fused multiply-adds are written where they are wanted.
set(FAVOR_COMPILE_OPTIONS -Wall -Wextra $<$<C_COMPILER_ID:GNU>:-Werror> -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
                          -ffp-contract=off -fno-math-errno)
# Clang, which the thread sanitizer needs, has other pragmas, and tells of each loop that it leaves as it is.
if(CMAKE_C_COMPILER_ID MATCHES Clang)
  list(APPEND FAVOR_COMPILE_OPTIONS -Wno-unknown-pragmas -Wno-pass-failed)
endif()
