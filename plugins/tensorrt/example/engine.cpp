#include "engine.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace example {
namespace {

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", text);
  }
} logger;

void require(bool held, const std::string& what) {
  if (!held) throw std::runtime_error(what);
}

void require(cudaError_t status, const std::string& what) {
  require(status == cudaSuccess, what + ": " + cudaGetErrorString(status));
}

size_t size_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
    case nvinfer1::DataType::kINT32:
      return 4;
    case nvinfer1::DataType::kINT64:
      return 8;
    default:
      throw std::runtime_error("the engine has inputs of a type that the example does not know");
  }
}

}  // namespace

void Engine::Freed::operator()(void* memory) const { cudaFree(memory); }

void Engine::StreamEnded::operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }

Engine::Engine(const std::string& path, const std::string& plugin) {
  std::ifstream stream(path, std::ios::binary);
  require(stream.good(), path + " cannot be read");
  const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
  // Some versions of TensorRT return what is no runtime where there is no GPU.
  require(cudaFree(nullptr), "CUDA finds no GPU");
  runtime_.reset(nvinfer1::createInferRuntime(logger));
  require(runtime_ != nullptr, "TensorRT makes no runtime");
  require(plugin.empty() || runtime_->getPluginRegistry().loadLibrary(plugin.c_str()) != nullptr,
          plugin + " cannot be loaded");
  engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
  require(engine_ != nullptr, path + " is no engine of this TensorRT and GPU");
  context_.reset(engine_->createExecutionContext());
  require(context_ != nullptr, "TensorRT makes no context");
  cudaStream_t own = nullptr;
  require(cudaStreamCreate(&own), "CUDA makes no stream");
  stream_.reset(own);
}

bool Engine::takes(const std::string& input) const {
  return engine_->getTensorIOMode(input.c_str()) == nvinfer1::TensorIOMode::kINPUT;
}

void Engine::prepare(int64_t images) {
  const int32_t count = engine_->getNbIOTensors();
  for (int32_t i = 0; i < count; ++i) {
    const char* name = engine_->getIOTensorName(i);
    if (!takes(name)) continue;
    nvinfer1::Dims shape = engine_->getTensorShape(name);
    if (shape.nbDims > 0 && shape.d[0] == -1) shape.d[0] = images;
    require(context_->setInputShape(name, shape),
            std::string("the engine was not built for such a ") + name);
  }
  for (int32_t i = 0; i < count; ++i) {
    const char* name = engine_->getIOTensorName(i);
    const nvinfer1::Dims shape = context_->getTensorShape(name);
    size_t bytes = size_of(engine_->getTensorDataType(name));
    for (int32_t axis = 0; axis < shape.nbDims; ++axis) {
      require(shape.d[axis] > 0, std::string("the example does not know a size of ") + name);
      bytes *= static_cast<size_t>(shape.d[axis]);
    }
    void* memory = nullptr;
    require(cudaMalloc(&memory, bytes), "the GPU has no memory left");
    buffers_[name] = {std::unique_ptr<void, Freed>(memory), bytes};
    require(context_->setTensorAddress(name, memory), std::string("TensorRT refuses ") + name);
  }
}

void Engine::upload(const std::string& input, const void* values, size_t bytes) {
  const auto found = buffers_.find(input);
  require(found != buffers_.end() && found->second.bytes == bytes,
          "the engine's " + input + " has another size");
  require(cudaMemcpyAsync(found->second.memory.get(), values, bytes, cudaMemcpyHostToDevice,
                          stream_.get()),
          "CUDA copies nothing");
}

std::vector<float> Engine::run(const std::string& output) {
  const auto found = buffers_.find(output);
  require(found != buffers_.end(), "the engine has no " + output);
  require(context_->enqueueV3(stream_.get()), "TensorRT ran nothing");
  std::vector<float> values(found->second.bytes / sizeof(float));
  require(cudaMemcpyAsync(values.data(), found->second.memory.get(), found->second.bytes,
                          cudaMemcpyDeviceToHost, stream_.get()),
          "CUDA copies nothing");
  require(cudaStreamSynchronize(stream_.get()), "the step failed");
  return values;
}

}  // namespace example
