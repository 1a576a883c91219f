// probe RUNTIME PLUGIN: what TensorRT's own plugin registry makes of the library, without a GPU.
//
// RUNTIME is a library of TensorRT's: libnvinfer, libnvinfer_lean or libtensorrt_rtx. Prints one
// JSON object of what held and what did not; exit code 1 if anything did not. Compile it with
// headers of RUNTIME's major version.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../src/nv_infer.h"

namespace {

using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

bool all_held = true;

void tell(const char* what, bool held) {
  std::printf(", \"%s\": %s", what, held ? "true" : "false");
  all_held = all_held && held;
}

constexpr int32_t kBits = 4, kShift = 0, kRows[] = {64, 64, 32}, kColumns = 9 * 24, kGroup = 1;
constexpr int32_t kKernel[] = {3, 3}, kOnes[] = {1, 1}, kPads[] = {1, 1, 1, 1};

std::vector<PluginField> fields_of(const char* layout, bool conv) {
  std::vector<PluginField> fields = {
      {"act_bits", &kBits, PluginFieldType::kINT32, 1},
      {"top_shift", &kShift, PluginFieldType::kINT32, 1},
      {"plane_rows", kRows, PluginFieldType::kINT32, 3},
      {"K", &kColumns, PluginFieldType::kINT32, 1},
      {"layout", layout, PluginFieldType::kCHAR, static_cast<int32_t>(std::strlen(layout))},
  };
  if (!conv) return fields;
  fields.emplace_back("kernel_shape", kKernel, PluginFieldType::kINT32, 2);
  fields.emplace_back("strides", kOnes, PluginFieldType::kINT32, 2);
  fields.emplace_back("pads", kPads, PluginFieldType::kINT32, 4);
  fields.emplace_back("dilations", kOnes, PluginFieldType::kINT32, 2);
  fields.emplace_back("group", &kGroup, PluginFieldType::kINT32, 1);
  return fields;
}

bool same(const PluginField& a, const PluginField& b) {
  const size_t size = a.type == PluginFieldType::kINT32 ? 4 : 1;
  return std::strcmp(a.name, b.name) == 0 && a.type == b.type && a.length == b.length &&
         std::memcmp(a.data, b.data, size * static_cast<size_t>(a.length)) == 0;
}

bool same(const PluginFieldCollection& a, const PluginFieldCollection& b) {
  if (a.nbFields != b.nbFields || a.nbFields == 0) return false;
  for (int32_t i = 0; i < a.nbFields; ++i) {
    if (!same(a.fields[i], b.fields[i])) return false;
  }
  return true;
}

const PluginFieldCollection& kept_by(nvinfer1::IPluginV3& plugin) {
  return *static_cast<nvinfer1::IPluginV3OneRuntime*>(
              plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME))
              ->getFieldsToSerialize();
}

bool knows_workspace(nvinfer1::IPluginV3& plugin, bool conv) {
  auto* build = static_cast<nvinfer1::IPluginV3OneBuild*>(
      plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
  nvinfer1::DynamicPluginTensorDesc x = {};
  x.max = conv ? nvinfer1::Dims{4, {2, 24, 16, 16}} : nvinfer1::Dims{2, {77, kColumns}};
  x.desc.type = nvinfer1::DataType::kHALF;
  x.desc.format = nvinfer1::TensorFormat::kLINEAR;
  return build->getNbOutputs() == 1 && build->supportsFormatCombination(0, &x, 13, 1) &&
         build->getWorkspaceSize(&x, 1, &x, 1) > 0;
}

void check_operator(nvinfer1::IPluginRegistry& registry, const char* name, bool conv) {
  const auto told = [&](const char* what, bool held) {
    tell((std::string(name) + " " + what).c_str(), held);
  };
  auto* found = registry.getCreator(name, "1", "");
  told("found", found != nullptr);
  if (found == nullptr) return;
  told("is version 3 one",
       std::strcmp(found->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") == 0);
  auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(found);
  const std::vector<PluginField> fields = fields_of("mma-1", conv);
  const PluginFieldCollection given = {static_cast<int32_t>(fields.size()), fields.data()};
  told("wants its attributes", creator->getFieldNames()->nbFields == given.nbFields);
  nvinfer1::IPluginV3* built = creator->createPlugin("a node", &given, TensorRTPhase::kBUILD);
  told("created", built != nullptr);
  if (built == nullptr) return;
  told("sizes its workspace", knows_workspace(*built, conv));
  nvinfer1::IPluginV3* loaded =
      creator->createPlugin("", &kept_by(*built), TensorRTPhase::kRUNTIME);
  told("comes back from an engine", loaded != nullptr && same(kept_by(*built), kept_by(*loaded)));
  nvinfer1::IPluginV3* cloned = built->clone();
  told("cloned", cloned != nullptr && same(kept_by(*built), kept_by(*cloned)));
  const std::vector<PluginField> others = fields_of("mma-0", conv);
  const PluginFieldCollection wrong = {static_cast<int32_t>(others.size()), others.data()};
  told("refuses another layout",
       creator->createPlugin("a stranger", &wrong, TensorRTPhase::kBUILD) == nullptr);
  for (nvinfer1::IPluginV3* one : {built, loaded, cloned}) delete one;
}

template <typename Function>
Function* function_of(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s RUNTIME PLUGIN\n", arguments[0]);
    return 2;
  }
  void* runtime = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
  if (runtime == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  auto* version = function_of<int32_t()>(runtime, "getInferLibVersion");
  auto* registry_of = function_of<nvinfer1::IPluginRegistry*()>(runtime, "getPluginRegistry");
  if (version == nullptr || registry_of == nullptr) {
    std::fprintf(stderr, "%s has no plugin registry\n", arguments[1]);
    return 2;
  }
  nvinfer1::IPluginRegistry& registry = *registry_of();
  std::printf("{\"version\": %d", version());
  const auto handle = registry.loadLibrary(arguments[2]);
  tell("library loaded", handle != nullptr);
  if (handle != nullptr) {
    check_operator(registry, "MPQLinear", false);
    check_operator(registry, "MPQConv", true);
    registry.deregisterLibrary(handle);
    tell("library given back", registry.getCreator("MPQConv", "1", "") == nullptr);
  }
  std::printf("}\n");
  return all_held ? 0 : 1;
}
