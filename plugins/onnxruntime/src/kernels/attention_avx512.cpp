#include "attention_lanes.h"
#include "exp2_avx512.h"

namespace mpq {
namespace {

Lanes weight(Lanes score) { return avx512::exp2(score); }

void attend(const AttentionHead& head, void* scratch) {
  const avx512::NoDenormals flushed;
  attend_in_lanes<weight>(head, scratch);
}

}  // namespace

const AttentionKernels kAvx512Attention = {LanesScratch::bytes, attend};

}  // namespace mpq
