#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/tensor_info.hpp>

namespace distil_xlstm::io {

/// The tensors of a file beside those that a model asks for: each is taken by its name, and `finish` says in
/// one error all that does not fit: what is missing, unused, of another shape, of a type that is not supported, or
/// there twice.
class tensor_match {
 public:
  /// A tensor that the model knows by `name`. It must live as long as this.
  void offer(const std::string& name, const tensor_info& tensor);
  /// Whether such a tensor was offered, and neither taken nor ignored yet.
  bool has(const std::string& name) const { return tensors_.count(name) > 0; }
  /// Nobody asks for this one, and it may be there.
  void ignore(const std::string& name) { tensors_.erase(name); }
  /// The same of all whose names `superfluous(name)` is true of.
  template <class Predicate>
  void ignore_if(const Predicate& superfluous) {
    std::erase_if(tensors_, [&](const auto& t) { return superfluous(t.first); });
  }

  /// A tensor of floating-point or quantised numbers whose shape `fits(shape)`; null, and a complaint, if it is
  /// not there or not such. `wanted` is what the complaint says.
  template <class Fits>
  const tensor_info* take(const std::string& name, const std::string& wanted, const Fits& fits) {
    const auto at = tensors_.find(name);
    if (at == tensors_.end()) return complain(name + " is missing");
    const tensor_info* t = at->second;
    tensors_.erase(at);
    if (!t->readable || t->dtype >= dtype::i64)
      return complain(name + " holds " + detail::printable(t->type) + ", which is not supported");
    if (!fits(t->shape))
      return complain(name + " has shape " + detail::shape_text(t->shape) + " instead of " + wanted);
    return t;
  }
  /// The same of one shape.
  const tensor_info* take(const std::string& name, const std::vector<index>& shape);
  /// One more thing that `finish` is to say; gives null.
  std::nullptr_t complain(const std::string& what);

  /// Throws `error` with all complaints, behind the file's name; a tensor that nobody took is one.
  void finish(const std::string& file);

 private:
  std::map<std::string, const tensor_info*> tensors_;
  std::string complaints_;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/tensor_match.ipp>
#endif
