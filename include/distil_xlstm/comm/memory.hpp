#pragma once

#include <distil_xlstm/core/extent.hpp>

/// Communicators, and what ranks decide together.
namespace distil_xlstm::comm {

/// Where the numbers lie that ranks exchange: in the host's memory, or in that of a device, to which this refers. The
/// host reads and writes a device's memory by `download` and `upload`, which come after all that was asked of the
/// device before.
class memory {
 public:
  /// The host's.
  memory() = default;
  /// That of `device`, which must live as long.
  template <class D>
  requires requires(D& d, void* p, const void* q, index n) {
    bool{D::host_memory};
    d.download(p, q, n), d.upload(p, q, n);
  }
  memory(D& device) : host_(D::host_memory), device_(&device), download_(&copy_from<D>), upload_(&copy_to<D>) {
    if constexpr (requires { device.stream(); }) stream_ = static_cast<void*>(device.stream());
  }

  /// Whether the host reads and writes it as its own.
  bool host() const { return host_; }
  /// Null: the host's memory.
  void* device() const { return device_; }
  /// Where a device has streams, that of its work: what is asked for there follows it.
  void* stream() const { return stream_; }
  /// From the device's memory to the host's. Not where this is the host's own, which has no device.
  void download(void* to, const void* from, index bytes) const { download_(device_, to, from, bytes); }
  /// From the host's memory to the device's; of a device alone, as `download`.
  void upload(void* to, const void* from, index bytes) const { upload_(device_, to, from, bytes); }

 private:
  template <class D>
  static void copy_from(void* device, void* to, const void* from, index bytes) {
    static_cast<D*>(device)->download(to, from, bytes);
  }
  template <class D>
  static void copy_to(void* device, void* to, const void* from, index bytes) {
    static_cast<D*>(device)->upload(to, from, bytes);
  }

  bool host_ = true;
  void *device_ = nullptr, *stream_ = nullptr;
  void (*download_)(void*, void*, const void*, index) = nullptr;
  void (*upload_)(void*, void*, const void*, index) = nullptr;
};

}  // namespace distil_xlstm::comm
