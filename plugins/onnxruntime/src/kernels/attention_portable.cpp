#include "attention_lanes.h"

namespace mpq {

const AttentionKernel kPortableAttention = lanes_attention();

}  // namespace mpq
