#pragma once

#include <vector>

#include <distil_xlstm/device/device.hpp>

namespace distil_xlstm::testing {

/// n numbers of a device, on the host.
template <class T, class D>
std::vector<T> on_host(D& device, const T* data, index n) {
  std::vector<T> out(static_cast<std::size_t>(n));
  device.download(out.data(), data, n * static_cast<index>(sizeof(T)));
  return out;
}
/// All of a buffer, on the host.
template <class T, class D>
std::vector<T> on_host(D& device, const buffer<T, D>& from) {
  return on_host(device, static_cast<const T*>(from.data()), from.size());
}

/// @{ The host's numbers into a device's memory, which must have room for all of them.
template <class T, class D>
void to_device(D& device, T* to, const std::vector<T>& numbers) {
  device.upload(to, numbers.data(), static_cast<index>(numbers.size() * sizeof(T)));
}
template <class T, class D>
void to_device(D& device, const buffer<T, D>& to, const std::vector<T>& numbers) {
  to_device(device, to.data(), numbers);
}
/// @}

}  // namespace distil_xlstm::testing
