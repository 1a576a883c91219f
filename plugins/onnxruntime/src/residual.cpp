#include "residual.h"

#include <algorithm>
#include <string>

#include "description.h"

namespace mpq {
namespace {

std::string text(const Extents& shape) {
  std::string result = "[";
  for (std::size_t i = 0; i < shape.rank; ++i)
    result += (i == 0 ? "" : ", ") + std::to_string(shape.dims[i]);
  return result + "]";
}

}  // namespace

ResidualForm residual_form(const Extents& residual, const Extents& y, bool is_conv) {
  const int64_t* dims = residual.dims;
  if (residual.rank == y.rank) {
    if (std::equal(dims, dims + y.rank, y.dims)) return ResidualForm::kEveryPixel;
    if (is_conv && y.rank == 4 && dims[1] == y.dims[1] && dims[2] == 1 && dims[3] == 1) {
      if (dims[0] == y.dims[0]) return ResidualForm::kEveryChannel;
      if (dims[0] == 1) return ResidualForm::kSharedChannels;
    }
  }
  std::string expected = text(y);
  if (is_conv) expected += " or [N or 1, " + std::to_string(y.dims[1]) + ", 1, 1]";
  throw ContractError("residual is " + text(residual) + ", expected " + expected);
}

}  // namespace mpq
