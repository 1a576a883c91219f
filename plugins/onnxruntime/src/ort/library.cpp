// What the library exports: RegisterCustomOps, which ONNX Runtime calls, the names of the kernels
// that this processor runs, and what they can do at most.
#include <string>

#include "../kernels/kernels.h"
#include "attention_kernel.h"
#include "gelu_kernel.h"
#include "group_norm_kernel.h"
#include "layer_norm_kernel.h"
#include "operator.h"
#include "packed_kernel.h"

#ifdef _WIN32
#define MPQ_EXPORT __declspec(dllexport)
#else
#define MPQ_EXPORT __attribute__((visibility("default")))
#endif

namespace mpq::ort {
namespace {

// One for the process; sessions keep pointing to it, so it is never released.
OrtCustomOpDomain* domain_of(const OrtApi& api) {
  static OrtCustomOpDomain* const domain = [&] {
    OrtCustomOpDomain* made = nullptr;
    require(api, api.CreateCustomOpDomain("mpq", &made));
    try {
      for (const OrtCustomOp* op :
           {&Operator<Typed<LinearKernel, kFloat>>::get(),
            &Operator<Typed<LinearKernel, kFloat16>>::get(),
            &Operator<Typed<ConvKernel, kFloat>>::get(),
            &Operator<Typed<ConvKernel, kFloat16>>::get(), &Operator<PlainGroupNormKernel>::get(),
            &Operator<SiluGroupNormKernel>::get(), &Operator<GeluKernel>::get(),
            &Operator<GegluKernel>::get(), &Operator<AdaLayerNormKernel>::get(),
            &Operator<Typed<AttentionKernel, kFloat>>::get(),
            &Operator<Typed<AttentionKernel, kFloat16>>::get()}) {
        require(api, api.CustomOpDomain_Add(made, op));
      }
    } catch (...) {
      api.ReleaseCustomOpDomain(made);
      throw;
    }
    return made;
  }();
  return domain;
}

}  // namespace
}  // namespace mpq::ort

extern "C" {

MPQ_EXPORT mpq::ort::OrtStatus* RegisterCustomOps(mpq::ort::OrtSessionOptions* options,
                                                  const mpq::ort::OrtApiBase* base) noexcept {
  using namespace mpq::ort;
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    // Every version has CreateStatus in its first slot.
    const OrtApi* oldest = base->GetApi(1);
    return oldest == nullptr
               ? nullptr
               : oldest->CreateStatus(kFail, "the mpq operators need ONNX Runtime 1.17 or newer");
  }
  return guarded(
      *api, [&] { require(*api, api->AddCustomOpDomain(options, domain_of(*api))); },
      [] { return std::string("registering the mpq operators"); });
}

// The kernels that this processor runs, fastest first, separated by commas.
MPQ_EXPORT const char* MpqKernelNames() noexcept {
  try {
    static const std::string names = [] {
      std::string joined;
      for (const mpq::Kernels* kernels : mpq::available_kernels()) {
        joined += (joined.empty() ? "" : ",") + std::string(mpq::name_of(*kernels));
      }
      return joined;
    }();
    return names.c_str();
  } catch (...) {
    return "";
  }
}

// Runs the products of the chosen kernels on registers alone, and returns how many multiply-
// accumulates these were; 0 where MPQ_CPU_KERNELS names kernels that do not run here.
MPQ_EXPORT std::int64_t MpqSpin(std::int64_t rounds) noexcept {
  try {
    return mpq::chosen_kernels().spin(rounds);
  } catch (...) {
    return 0;
  }
}

// The same of float32 products, by whichever kernels are this processor's best: they are of none.
MPQ_EXPORT std::int64_t MpqSpinFloat(std::int64_t rounds) noexcept {
  try {
    return mpq::available_kernels().front()->spin_float(rounds);
  } catch (...) {
    return 0;
  }
}

}  // extern "C"
