#pragma once

#include <openssl/evp.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include <distil_xlstm/core/error.hpp>

namespace distil_xlstm::io {

/// SHA-256 (FIPS 180-4), incremental: `update` any number of times, then `hex` (which does not end the stream).
class sha256 {
 public:
  sha256() : state_(EVP_MD_CTX_new()) {
    check(state_ != nullptr && EVP_DigestInit_ex(state_.get(), EVP_sha256(), nullptr) == 1);
  }

  sha256& update(const void* data, std::size_t bytes) {
    check(EVP_DigestUpdate(state_.get(), data, bytes) == 1);
    return *this;
  }
  sha256& update(std::span<const std::byte> bytes) { return update(bytes.data(), bytes.size()); }

  /// The digest of all bytes so far, as 64 lower-case hexadecimal digits.
  std::string hex() const {
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

 private:
  struct free_context {
    void operator()(EVP_MD_CTX* p) const { EVP_MD_CTX_free(p); }
  };
  using context = std::unique_ptr<EVP_MD_CTX, free_context>;
  static void check(bool good) { require(good, "OpenSSL's libcrypto cannot compute SHA-256"); }

  context state_;
};

}  // namespace distil_xlstm::io
