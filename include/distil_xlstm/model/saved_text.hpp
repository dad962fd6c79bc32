#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <distil_xlstm/core/dtype.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/hash.hpp>
#include <distil_xlstm/model/fingerprint.hpp>
#include <distil_xlstm/model/sampler.hpp>

namespace distil_xlstm {

/// The whole memory of a text, and how it goes on: what `reader::save` and `decoder::save` give as bytes.
///
/// The bytes are a header, little-endian, and the numbers of the state. The header says the format and its version,
/// the types of the numbers and products, the model (the whole of `model::fingerprint`; in version 1, which is still
/// read, its tensors alone), how many tokens its caches hold and how many numbers follow; then the next token and its
/// sampler; last a checksum of all of it. It is for the machine that wrote it and its like, not for archives: another
/// version of the library may refuse it.
/// `Product` is what the device multiplies in (`product_t`).
template <class T, class Product = T>
struct saved_text {
  std::vector<T> state;            ///< of one sequence, as `state_memory::save` gives it
  std::int32_t next = -1;          ///< drawn, and not read yet; -1: none
  sampling how = {};               ///< of the sampler that draws what follows
  std::uint64_t random_state = 0;  ///< `sampler::random_state` of it

  /// What `read` reads back: for `model`, `capacity` being that of the state's caches.
  std::vector<std::byte> bytes(const model_fingerprint& model, index capacity) const {
    header h;
    h.model = model.whole, h.capacity = capacity, h.numbers = std::ssize(state);
    h.next = next, h.temperature = how.temperature, h.top_k = how.top_k, h.top_p = how.top_p, h.seed = how.seed;
    h.random_state = random_state;
    h.checksum = h.sum(state.data());
    std::vector<std::byte> out(sizeof h + state.size() * sizeof(T));
    std::memcpy(out.data(), &h, sizeof h);
    if (!state.empty()) std::memcpy(out.data() + sizeof h, state.data(), state.size() * sizeof(T));
    return out;
  }
  /// Throws `error` that says what is wrong: no such bytes, or cut off, or changed, or of another version, type of
  /// numbers, model or capacity.
  static saved_text read(std::span<const std::byte> bytes, const model_fingerprint& model, index capacity) {
    header h;
    require(bytes.size() >= sizeof h, "saved text: ", bytes.size(), " bytes are too few, its header has ",
            sizeof h);
    std::memcpy(&h, bytes.data(), sizeof h);
    const header ours;
    require(h.magic == ours.magic, "saved text: the bytes are none");
    require(h.version == 1 || h.version == ours.version, "saved text: version ", h.version,
            " of the format, this library reads 1 and ", ours.version);
    require(h.type == ours.type && h.product == ours.product, "saved text: its numbers are ", name_of(h.type),
            ", its products ", name_of(h.product), "; here they are ", name_of(ours.type), " and ",
            name_of(ours.product));
    require(h.model == (h.version == 1 ? model.tensors : model.whole), "saved text: it is another model's");
    require(h.capacity == capacity, "saved text: its caches hold ", h.capacity, " tokens, they are to hold ",
            capacity);
    const std::size_t given = bytes.size() - sizeof h;
    require(
        h.numbers >= 0 && static_cast<std::uint64_t>(h.numbers) == given / sizeof(T) && given % sizeof(T) == 0,
        "saved text: ", given, " bytes where ", h.numbers, " numbers of ", sizeof(T), " bytes should follow");
    require(h.next >= -1 && h.next <= 0x7fffffff, "saved text: the next token is ", h.next);
    saved_text t{std::vector<T>(given / sizeof(T)),
                 static_cast<std::int32_t>(h.next),
                 {h.temperature, static_cast<index>(h.top_k), h.top_p, h.seed},
                 h.random_state};
    if (given > 0) std::memcpy(t.state.data(), bytes.data() + sizeof h, given);
    require(h.checksum == h.sum(t.state.data()), "saved text: the bytes have been changed");
    return t;
  }

 private:
  struct header {
    std::array<char, 8> magic = {'d', 'x', ' ', 't', 'e', 'x', 't', '\n'};
    std::uint32_t version = 2;
    std::uint16_t type = static_cast<std::uint16_t>(dtype_of<T>);
    std::uint16_t product =
        static_cast<std::uint16_t>(std::is_same_v<Product, bf16> ? dtype::bf16 : dtype_of<Product>);
    std::uint64_t model = 0;
    std::int64_t capacity = 0, numbers = 0, next = -1, top_k = 0;
    double temperature = 0, top_p = 0;
    std::uint64_t seed = 0, random_state = 0, checksum = 0;

    std::uint64_t sum(const T* first) const {
      fnv_hash hash;
      hash.add(this, offsetof(header, checksum));
      hash.add(first, static_cast<std::size_t>(numbers) * sizeof(T));
      return hash.value();
    }
  };
  static std::string name_of(std::uint16_t type) {
    return type <= static_cast<std::uint16_t>(dtype::u8) ? traits(static_cast<dtype>(type)).name
                                                         : "of no known type";
  }
};

}  // namespace distil_xlstm
