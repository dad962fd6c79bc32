# Who compiles templates without optimisation is told: a training step takes 40 times as long.
get_property(distil_xlstm_many GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(NOT distil_xlstm_many AND NOT CMAKE_BUILD_TYPE AND NOT "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_INIT}" MATCHES "-O[1-3s]")
  message(NOTICE "distil_xlstm: no build type is set, and without optimisation a training step takes 40 times as long: "
                 "configure with -DCMAKE_BUILD_TYPE=Release")
endif()
