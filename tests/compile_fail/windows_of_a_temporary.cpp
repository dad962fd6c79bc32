// expect: token_windows(text, length) refers to the text, which must live as long: give it a name first
#include <distil_xlstm/distil/token_windows.hpp>

namespace dx = distil_xlstm;

dx::index count(const dx::token_text& text) {
#if defined(EXPECT_FAILURE)
  const dx::token_windows windows(dx::token_text(text), 8);
#else
  const dx::token_windows windows(text, 8);
#endif
  return windows.count();
}
