// distil_xlstm::compiled: configurations, loaders, checkpoints.
#include <distil_xlstm/distil/checkpoint.ipp>
#include <distil_xlstm/distil/needle.ipp>
#include <distil_xlstm/distil/teacher_cache.ipp>
#include <distil_xlstm/model/language_model.ipp>
#include <distil_xlstm/model/linearised.ipp>
#include <distil_xlstm/model/llama.ipp>
#include <distil_xlstm/model/load_language_model.ipp>
#include <distil_xlstm/model/load_linearised.ipp>
#include <distil_xlstm/model/load_llama.ipp>
#include <distil_xlstm/model/load_xlstm.ipp>
#include <distil_xlstm/model/load_xlstm_7b.ipp>
#include <distil_xlstm/model/quantise.ipp>
#include <distil_xlstm/model/random_llama.ipp>
#include <distil_xlstm/model/read_rope_scaling.ipp>
#include <distil_xlstm/model/tensor_files.ipp>
#include <distil_xlstm/model/xlstm.ipp>
#include <distil_xlstm/model/xlstm_7b.ipp>
