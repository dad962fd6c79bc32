# distil_xlstm::compiled: distil_xlstm::io with a part compiled once, in the project that links it and with its flags:
# what is no template (files, tokenizers, configurations, checkpoints), and as extern templates, in each precision, the
# CPU's operations, the loader and the signals of a transformer as a teacher, what describes the memory of mLSTM and
# sLSTM, and AdamW. What includes the library then compiles in less time. Both the build and the installed package add
# it.
function(distil_xlstm_add_compiled folder)
  add_library(distil_xlstm_compiled STATIC EXCLUDE_FROM_ALL ${folder}/files.cpp ${folder}/models.cpp
              ${folder}/operations.cpp ${folder}/training.cpp)
  add_library(distil_xlstm::compiled ALIAS distil_xlstm_compiled)
  target_link_libraries(distil_xlstm_compiled PUBLIC distil_xlstm::io)
  target_compile_definitions(distil_xlstm_compiled PUBLIC DISTIL_XLSTM_COMPILED)
endfunction()
