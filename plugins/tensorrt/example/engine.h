// An engine, its buffers on the GPU, and one call of it at a time.
#pragma once

#include <NvInferRuntime.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace example {

// Throws std::runtime_error, with TensorRT's own words on standard error.
class Engine {
 public:
  // `plugin` is libmpq_tensorrt.so; empty where the engine has it inside.
  Engine(const std::string& path, const std::string& plugin);

  // For inputs of this many images: buffers are made once.
  void prepare(int64_t images);

  bool takes(const std::string& input) const;

  template <typename T>
  void set(const std::string& input, const std::vector<T>& values) {
    upload(input, values.data(), values.size() * sizeof(T));
  }

  // Runs a step and waits for it; the floats of an output.
  std::vector<float> run(const std::string& output);

 private:
  struct Freed {
    void operator()(void* memory) const;
  };
  struct Buffer {
    std::unique_ptr<void, Freed> memory;
    size_t bytes = 0;
  };
  struct StreamEnded {
    void operator()(cudaStream_t stream) const;
  };

  void upload(const std::string& input, const void* values, size_t bytes);

  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::unique_ptr<CUstream_st, StreamEnded> stream_;
  std::map<std::string, Buffer> buffers_;
};

}  // namespace example
