#pragma once

#include <distil_xlstm/core/config.hpp>
#include <distil_xlstm/io/sha256.hpp>

namespace distil_xlstm::io {

DISTIL_XLSTM_INLINE sha256::sha256() : state_(EVP_MD_CTX_new()) {
  check(state_ != nullptr && EVP_DigestInit_ex(state_.get(), EVP_sha256(), nullptr) == 1);
}

DISTIL_XLSTM_INLINE sha256& sha256::update(const void* data, std::size_t bytes) {
  check(EVP_DigestUpdate(state_.get(), data, bytes) == 1);
  return *this;
}

DISTIL_XLSTM_INLINE std::string sha256::hex() const {
  const context last(EVP_MD_CTX_new());
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  check(last != nullptr && EVP_MD_CTX_copy_ex(last.get(), state_.get()) == 1 &&
        EVP_DigestFinal_ex(last.get(), digest, &size) == 1);
  std::string out;
  for (unsigned i = 0; i < size; ++i)
    for (const int digit : {digest[i] >> 4, digest[i] & 15}) out += "0123456789abcdef"[digit];
  return out;
}

}  // namespace distil_xlstm::io
