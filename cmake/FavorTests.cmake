# How tests are made. A test executable is linked with the objects of layers, whose functions are hidden in the shared
# libraries:
#
#   favor_add_unit_test(NAME SOURCES FILE... [LAYERS LAYER...] [LIBS LIBRARY...] [TIMEOUT SECONDS])
#   favor_add_mpi_test(NAME SOURCES FILE... NP RANKS... [LAYERS LAYER...] [LIBS LIBRARY...] [TIMEOUT SECONDS])
#   favor_add_script_test(NAME SCRIPT [ARGUMENT...] [TIMEOUT SECONDS])
#                                                      SCRIPT is a path in tests/; exit code 77: skipped
#
# LAYERS defaults to every layer but the program. An MPI test is registered once a rank count, as NAME.np1, NAME.np2, ...
# Every test is killed after TIMEOUT seconds (60 by default, 300 for scripts), and under sanitizers after three times as
# many. What tests share is favor_test_support.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

set(FAVOR_TEST_PATIENCE 1)
if(CMAKE_C_FLAGS MATCHES sanitize)
  set(FAVOR_TEST_PATIENCE 3)
endif()

set(FAVOR_TEST_LAYERS base kernel feature core dist plan io)

# Makes the executable NAME and hands TIMEOUT (and NP) on to the caller.
macro(favor_test_executable name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;NP;LAYERS;LIBS" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_SOURCES)
    message(FATAL_ERROR "test ${name}: no SOURCES, or unknown words: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT arg_LAYERS)
    set(arg_LAYERS ${FAVOR_TEST_LAYERS})
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  math(EXPR arg_TIMEOUT "${FAVOR_TEST_PATIENCE} * ${arg_TIMEOUT}")
  add_executable(${name} ${arg_SOURCES})
  target_compile_options(${name} PRIVATE ${FAVOR_COMPILE_OPTIONS})
  target_link_libraries(${name} PRIVATE favor_test_support ${arg_LIBS} m)
  foreach(layer IN LISTS arg_LAYERS)
    target_link_libraries(${name} PRIVATE favor_${layer})
  endforeach()
endmacro()

function(favor_add_unit_test name)
  favor_test_executable(${name} ${ARGN})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS unit
                                           ENVIRONMENT "OPENBLAS_NUM_THREADS=1;OMP_WAIT_POLICY=passive")
endfunction()

function(favor_add_mpi_test name)
  favor_test_executable(${name} ${ARGN})
  if(NOT arg_NP)
    message(FATAL_ERROR "test ${name}: no NP")
  endif()
  # run_mpi ends the ranks in time; ctest's own limit is for the case that even that hangs.
  math(EXPR last_resort "${arg_TIMEOUT} + 15")
  foreach(ranks IN LISTS arg_NP)
    add_test(NAME ${name}.np${ranks}
             COMMAND ${PROJECT_SOURCE_DIR}/tests/support/run_mpi ${arg_TIMEOUT} ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}.np${ranks} PROPERTIES TIMEOUT ${last_resort} PROCESSORS ${ranks} LABELS mpi)
  endforeach()
endfunction()

function(favor_add_script_test name script)
  cmake_parse_arguments(arg "" "TIMEOUT" "" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  math(EXPR arg_TIMEOUT "${FAVOR_TEST_PATIENCE} * ${arg_TIMEOUT}")
  add_test(NAME ${name} COMMAND ${PROJECT_SOURCE_DIR}/tests/${script} ${arg_UNPARSED_ARGUMENTS})
  # Tests that take all processors wait for those that take one: of these the long ones, which are scripts, go first, or
  # the last of them would run with nothing beside it.
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} SKIP_RETURN_CODE 77 LABELS script COST 10)
endfunction()
