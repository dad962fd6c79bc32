// expect: cached_teacher(cache) refers to the cache, which must live as long: give it a name first
#include <distil_xlstm/device/cpu.hpp>
#include <distil_xlstm/distil/teacher_cache.hpp>

namespace dx = distil_xlstm;

dx::index layers() {
#if defined(EXPECT_FAILURE)
  const dx::cached_teacher<float, dx::device::cpu> cached(dx::teacher_cache("cache"));
#else
  const dx::teacher_cache cache("cache");
  const dx::cached_teacher<float, dx::device::cpu> cached(cache);
#endif
  return cached.layers();
}
