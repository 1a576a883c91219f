#include "ddim.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "json.h"

namespace example {
namespace {

constexpr double kFormat = 1;

float float_of(const Json& value) { return static_cast<float>(value.number()); }

Mix mix_of(const Json& value) {
  const std::vector<Json>& both = value.list();
  if (both.size() != 2) throw std::runtime_error("two factors are missing");
  return {float_of(both[0]), float_of(both[1])};
}

DdimStep step_of(const Json& value) {
  const Mix next = mix_of(value["next"]);
  return {float_of(value["timestep"]),
          static_cast<int32_t>(value["step_index"].number()),
          mix_of(value["denoised"]),
          mix_of(value["noise"]),
          next.sample,
          next.prediction};
}

}  // namespace

DdimTable DdimTable::read(const std::string& path) {
  std::ifstream stream(path);
  if (!stream) throw std::runtime_error(path + " cannot be read");
  const Json file = Json::parse({std::istreambuf_iterator<char>(stream), {}});
  if (file["format"].number() != kFormat || file["sampler"].text() != "ddim") {
    throw std::runtime_error(path + " is no table of DDIM's steps of format 1");
  }
  DdimTable table;
  for (const Json& side : file["sample_shape"].list()) {
    table.sample_shape.push_back(static_cast<int64_t>(side.number()));
  }
  if (table.sample_shape.size() != 3) throw std::runtime_error("an image has three axes");
  if (!file["classes"].is_null()) table.classes = static_cast<int64_t>(file["classes"].number());
  if (!file["clip"].is_null()) table.clip = float_of(file["clip"]);
  for (const Json& step : file["steps"].list()) table.steps.push_back(step_of(step));
  return table;
}

size_t DdimTable::image_size() const {
  size_t size = 1;
  for (int64_t side : sample_shape) size *= static_cast<size_t>(side);
  return size;
}

void DdimTable::step(const DdimStep& step, std::vector<float>& sample,
                     const std::vector<float>& prediction) const {
  const size_t size = image_size(), images = sample.size() / size;
  const size_t predicted = prediction.size() / images;
  for (size_t i = 0; i < sample.size(); ++i) {
    const float y = prediction[i / size * predicted + i % size];
    float denoised = step.denoised.of(sample[i], y);
    const float noise = step.noise.of(sample[i], y);
    if (clip > 0) denoised = std::clamp(denoised, -clip, clip);
    sample[i] = step.signal_left * denoised + step.noise_left * noise;
  }
}

}  // namespace example
