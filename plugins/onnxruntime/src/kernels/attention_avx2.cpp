#include "attention_lanes.h"

namespace mpq {

const AttentionKernel kAvx2Attention = lanes_attention();

}  // namespace mpq
