#include "operators.h"

#include <memory>

#include "kernel.h"
#include "node.h"

namespace mpq::ort {
namespace {

// X and Y share the one type that is left open; the kernel takes float32 and float16 of it, and
// says so with the node's name.
ElementType input_type(const OrtCustomOp*, std::size_t index) {
  switch (index) {
    case kX: return kUndefined;
    case kSteps:
    case kInputShift: return kInt8;
    case kActScale:
    case kScale:
    case kBias:
    case kInputFactor: return kFloat;
    default: return kInt32;
  }
}

template <bool is_conv>
const char* operator_name(const OrtCustomOp*) {
  return is_conv ? "MPQConv" : "MPQLinear";
}

template <bool is_conv>
std::string place_of(const std::string& node) {
  return std::string(operator_name<is_conv>(nullptr)) + " node '" + node + "'";
}

template <bool is_conv>
OrtStatus* create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                  void** kernel) noexcept {
  std::string node;
  return guarded(
      *api,
      [&] {
        node = node_name(*api, *info);
        *kernel = new Kernel(*api, *info, node, is_conv);
      },
      [&] { return place_of<is_conv>(node); });
}

template <bool is_conv>
OrtStatus* compute(void* opaque, OrtKernelContext* context) noexcept {
  const Kernel& kernel = *static_cast<const Kernel*>(opaque);
  return guarded(
      kernel.api(), [&] { kernel.compute(*context); },
      [&] { return place_of<is_conv>(kernel.node()); });
}

template <bool is_conv>
constexpr OrtCustomOp make() {
  OrtCustomOp op{};
  op.version = kApiVersion;
  op.GetName = operator_name<is_conv>;
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* {
    return "CPUExecutionProvider";
  };
  op.GetInputType = input_type;
  op.GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t { return kInputCount; };
  op.GetOutputType = [](const OrtCustomOp*, std::size_t) { return kUndefined; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 1; };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) { return kRequired; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return kRequired; };
  op.GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return kDefaultMemory; };
  op.CreateKernelV2 = create<is_conv>;
  op.KernelComputeV2 = compute<is_conv>;
  return op;
}

}  // namespace

const OrtCustomOp& linear_operator() {
  static const OrtCustomOp op = make<false>();
  return op;
}

const OrtCustomOp& conv_operator() {
  static const OrtCustomOp op = make<true>();
  return op;
}

}  // namespace mpq::ort
