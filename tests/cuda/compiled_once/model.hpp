#pragma once

// A student of one's own: two sLSTM blocks of width 32, on a GPU.
#include <distil_xlstm/block/norm.hpp>
#include <distil_xlstm/block/residual.hpp>
#include <distil_xlstm/block/sequential.hpp>
#include <distil_xlstm/block/slstm.hpp>
#include <distil_xlstm/block/stack.hpp>
#include <distil_xlstm/device/cuda.hpp>
#include <distil_xlstm/model/decoder.hpp>
#include <distil_xlstm/model/reader.hpp>

namespace model {

namespace dx = distil_xlstm;
using layer = dx::residual<
    dx::sequential<dx::named<"norm", dx::layer_norm<32>>, dx::named<"cell", dx::basic_slstm<32, 4>>>>;
using stack = dx::stack<layer, 2>;
using student = dx::model<stack, float, dx::device::cuda>;

}  // namespace model
