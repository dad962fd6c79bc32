#pragma once

#include <distil_xlstm/block/feed_forward.hpp>
#include <distil_xlstm/block/mixed.hpp>
#include <distil_xlstm/block/mlstm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/block/stack.hpp>

namespace distil_xlstm {

/// x + mLSTM(LN(x))
using mlstm_block = residual<sequential<named<"xlstm_norm", layer_norm<>>, named<"xlstm", mlstm>>>;
/// x + sLSTM(LN(x)), without the feed-forward
using bare_slstm_block = residual<sequential<named<"xlstm_norm", layer_norm<>>, named<"xlstm", slstm>>>;
/// x + sLSTM(LN(x)), then x + FFN(LN(x))
using slstm_block =
    sequential<named<"", bare_slstm_block>,
               named<"", residual<sequential<named<"ffn_norm", layer_norm<>>, named<"ffn", feed_forward>>>>>;
/// A layer of a student, its kind chosen when the program runs.
using xlstm_layer = mixed<mlstm_block, slstm_block, bare_slstm_block>;

/// xLSTMBlockStack of NX-AI/xlstm.
using xlstm_stack = stack<xlstm_layer>;

}  // namespace distil_xlstm
