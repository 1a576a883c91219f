// draw ENGINE TABLE OUT.ppm [PLUGIN] [IMAGES] [SEED]: one denoising loop of an engine, without
// Python.
//
// ENGINE is TensorRT's, TABLE is what `python -m mpq_export.ddim_table BUNDLE TABLE` writes, PLUGIN
// is libmpq_tensorrt.so. Images lie side by side; every class in turn where the model takes one.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <random>

#include "ddim.h"
#include "engine.h"

namespace {

std::vector<float> drawn_noise(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> bell;
  std::vector<float> noise(count);
  std::generate(noise.begin(), noise.end(), [&] { return bell(random); });
  return noise;
}

unsigned char byte_of(float value) {
  return static_cast<unsigned char>(std::lround(255 * std::clamp(value / 2 + 0.5f, 0.0f, 1.0f)));
}

// Grey or red, green and blue, from -1 to 1.
void write_images(const char* path, const std::vector<float>& images,
                  const std::vector<int64_t>& shape, int64_t count) {
  const int64_t channels = shape[0], height = shape[1], width = shape[2];
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << count * width << ' ' << height << "\n255\n";
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < count * width; ++x) {
      for (int64_t color = 0; color < 3; ++color) {
        const int64_t channel = x / width * channels + (channels == 3 ? color : 0);
        file.put(static_cast<char>(byte_of(images[(channel * height + y) * width + x % width])));
      }
    }
  }
  if (!file.flush()) throw std::runtime_error(std::string(path) + " cannot be written");
}

}  // namespace

int main(int count, char** arguments) try {
  if (count < 4) {
    std::fprintf(stderr, "usage: %s ENGINE TABLE OUT.ppm [PLUGIN] [IMAGES] [SEED]\n", arguments[0]);
    return 2;
  }
  const example::DdimTable table = example::DdimTable::read(arguments[2]);
  const int64_t images = count > 5 ? std::max(1, std::atoi(arguments[5])) : 4;
  const unsigned seed = count > 6 ? static_cast<unsigned>(std::atoi(arguments[6])) : 0;
  example::Engine engine(arguments[1], count > 4 ? arguments[4] : "");
  engine.prepare(images);
  if (table.classes > 0) {
    std::vector<int64_t> labels(static_cast<size_t>(images));
    for (int64_t i = 0; i < images; ++i) labels[static_cast<size_t>(i)] = i % table.classes;
    engine.set("class_labels", labels);
  }
  auto sample = drawn_noise(static_cast<size_t>(images) * table.image_size(), seed);
  for (const example::DdimStep& step : table.steps) {
    engine.set("sample", sample);
    if (engine.takes("timestep")) engine.set("timestep", std::vector<float>{step.timestep});
    engine.set("step_index", std::vector<int32_t>{step.step_index});
    table.step(step, sample, engine.run("prediction"));
  }
  write_images(arguments[3], sample, table.sample_shape, images);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
