// DDIM's steps as mpq_export.ddim_table writes them into a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace example {

// a * sample + b * prediction.
struct Mix {
  float sample, prediction;

  float of(float x, float y) const { return sample * x + prediction * y; }
};

struct DdimStep {
  float timestep;
  int32_t step_index;  // the row of the activation tables
  Mix denoised, noise;
  float signal_left, noise_left;  // of both in the next sample
};

struct DdimTable {
  std::vector<int64_t> sample_shape;  // of an image: channels, height, width
  int64_t classes = 0;                // 0: the model takes no label
  float clip = 0;                     // of the denoised sample; 0: it is not clipped
  std::vector<DdimStep> steps;

  // Throws std::runtime_error.
  static DdimTable read(const std::string& path);

  size_t image_size() const;

  // The next sample in the place of this one. A prediction of more channels holds a variance behind
  // each image's own.
  void step(const DdimStep& step, std::vector<float>& sample,
            const std::vector<float>& prediction) const;
};

}  // namespace example
