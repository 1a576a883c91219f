// A class of kernels as an operator of ONNX Runtime.
#pragma once

#include <string>

#include "reader.h"

namespace mpq::ort {

// Kernel has: static kName, kInputs, kRequiredInputs, after which they may be absent; static
// ElementType input_type(index), kUndefined for the type that X and Y share, and kOutput, that of
// Y; a constructor (api, info); compute(context), const, for any number of threads at once. It
// throws ContractError on nodes and inputs that it does not take.
template <typename Kernel>
class Operator {
 public:
  // Lives as long as the library.
  static const OrtCustomOp& get() {
    static const OrtCustomOp op = make();
    return op;
  }

 private:
  struct Instance {
    const OrtApi& api;
    const std::string node;
    const Kernel kernel;
  };

  static std::string place_of(const std::string& node) {
    return std::string(Kernel::kName) + " node '" + node + "'";
  }

  static OrtStatus* create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                           void** instance) noexcept {
    std::string node;
    return guarded(
        *api,
        [&] {
          node = node_name(*api, *info);
          *instance = new Instance{*api, node, Kernel(*api, *info)};
        },
        [&] { return place_of(node); });
  }

  static OrtStatus* compute(void* opaque, OrtKernelContext* context) noexcept {
    const Instance& instance = *static_cast<const Instance*>(opaque);
    return guarded(
        instance.api, [&] { instance.kernel.compute(*context); },
        [&] { return place_of(instance.node); });
  }

  static OrtCustomOp make() {
    OrtCustomOp op{};
    op.version = kApiVersion;
    op.GetName = [](const OrtCustomOp*) { return Kernel::kName; };
    op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* {
      return "CPUExecutionProvider";
    };
    op.GetInputType = [](const OrtCustomOp*, std::size_t index) {
      return Kernel::input_type(index);
    };
    op.GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t { return Kernel::kInputs; };
    op.GetOutputType = [](const OrtCustomOp*, std::size_t) { return Kernel::kOutput; };
    op.GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 1; };
    op.KernelDestroy = [](void* instance) { delete static_cast<Instance*>(instance); };
    op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t index) {
      return index < Kernel::kRequiredInputs ? kRequired : kOptional;
    };
    op.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return kRequired; };
    op.GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return kDefaultMemory; };
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    return op;
  }
};

// Kernels whose Y has the type of several inputs. The runtime infers it from one input alone, or is
// told: two operators of one name.
template <typename Kernel, ElementType type>
struct Typed : Kernel {
  using Kernel::Kernel;
  static constexpr ElementType kOutput = type;
  static ElementType input_type(std::size_t index) {
    const ElementType own = Kernel::input_type(index);
    return own == kUndefined ? type : own;
  }
};

}  // namespace mpq::ort
