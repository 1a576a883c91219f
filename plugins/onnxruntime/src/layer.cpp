#include "layer.h"

#include "packed_weight.h"

namespace mpq {

Layer::Layer(const LayerDescription& description, const Kernels& kernels)
    : weight_(std::make_unique<PackedWeight>(description, kernels)) {}
Layer::~Layer() = default;
Layer::Layer(Layer&&) noexcept = default;
Layer& Layer::operator=(Layer&&) noexcept = default;

int64_t Layer::input_channels() const { return mpq::input_channels(weight_->layer()); }
int64_t Layer::rows() const { return weight_->rows(); }
int64_t Layer::table_size() const { return weight_->layer().act_scale.shape[0]; }

}  // namespace mpq
