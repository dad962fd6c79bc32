// distil_xlstm::compiled: configurations, loaders, checkpoints, what a run is given.
#include <distil_xlstm/distil/checkpoint.ipp>
#include <distil_xlstm/distil/needle.ipp>
#include <distil_xlstm/distil/teacher_cache.ipp>
#include <distil_xlstm/distil/token_windows.ipp>
#include <distil_xlstm/distil/training_options.ipp>
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

namespace distil_xlstm {
template llama_stack llama_config::stack() const;
template linearised_stack linearised_config::stack() const;
template xlstm_stack xlstm_config::stack() const;
template xlstm_7b_stack xlstm_7b_config::stack() const;
template any_config::stack_type any_config::stack() const;
template index xlstm_config::trainable<xlstm_stack>() const;
template index xlstm_7b_config::total<xlstm_7b_stack>() const;
template detail::linearised_files::linearised_files(const std::filesystem::path&);
template detail::xlstm_files::xlstm_files(const std::filesystem::path&);
template detail::xlstm_7b_files::xlstm_7b_files(const std::filesystem::path&);
template quantised_model quantise(const std::filesystem::path&, dtype, const std::filesystem::path&);
}  // namespace distil_xlstm
