#pragma once

#if !__has_include(<openssl/evp.h>)
#error "distil_xlstm's files, models and training need libcrypto: link distil_xlstm::io (package libssl-dev)"
#include <distil_xlstm: see the error above>
#endif
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
  sha256();

  /// @{
  /// The next bytes.
  sha256& update(const void* data, std::size_t bytes);
  sha256& update(std::span<const std::byte> bytes) { return update(bytes.data(), bytes.size()); }
  /// @}

  /// The digest of all bytes so far, as 64 lower-case hexadecimal digits.
  std::string hex() const;

 private:
  struct free_context {
    void operator()(EVP_MD_CTX* p) const { EVP_MD_CTX_free(p); }
  };
  using context = std::unique_ptr<EVP_MD_CTX, free_context>;
  static void check(bool good) { require(good, "OpenSSL's libcrypto cannot compute SHA-256"); }

  context state_;
};

}  // namespace distil_xlstm::io

#ifndef DISTIL_XLSTM_COMPILED
#include <distil_xlstm/io/sha256.ipp>
#endif
