#include "attention_lanes.h"

namespace mpq {

const AttentionKernels kAvx2Attention = {LanesScratch::bytes, attend_in_lanes<generic_weight>};

}  // namespace mpq
