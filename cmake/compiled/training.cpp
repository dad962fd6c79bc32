// distil_xlstm::compiled: of training, in each precision, the loader and the signals of a transformer as a teacher,
// what describes the memory of mLSTM and sLSTM, and AdamW.
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/distil/teacher_source.hpp>
#include <distil_xlstm/model/load_llama.hpp>
#include <distil_xlstm/optim/adamw.hpp>
#include <distil_xlstm/optim/gradient_norm.hpp>

namespace distil_xlstm {
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_LOAD_LLAMA, template)
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_LLAMA_SIGNALS, template)
DISTIL_XLSTM_COMPILED_LAYOUTS(template, mlstm, double)
DISTIL_XLSTM_COMPILED_LAYOUTS(template, mlstm, float)
DISTIL_XLSTM_COMPILED_LAYOUTS(template, slstm, double)
DISTIL_XLSTM_COMPILED_LAYOUTS(template, slstm, float)
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_GRADIENT_NORM, template)
DISTIL_XLSTM_EACH_PRECISION(DISTIL_XLSTM_COMPILED_ADAMW, template)
}  // namespace distil_xlstm
