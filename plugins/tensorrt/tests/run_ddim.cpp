// run_ddim TABLE IMAGES: the example's loop without an engine. The sample begins as 0, 0.01, 0.02
// and so on; the prediction is 0.3 of the sample and a tenth of the step's index, and a second
// image's worth of channels that no one reads. Writes the last sample, float32, to standard output.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "../example/ddim.h"

int main(int count, char** arguments) try {
  if (count != 3) return 2;
  const example::DdimTable table = example::DdimTable::read(arguments[1]);
  const size_t images = std::strtoul(arguments[2], nullptr, 10), size = table.image_size();
  std::vector<float> sample(images * size);
  for (size_t i = 0; i < sample.size(); ++i) sample[i] = 0.01f * static_cast<float>(i);
  for (const example::DdimStep& step : table.steps) {
    std::vector<float> prediction(2 * sample.size(), 1e30f);
    for (size_t i = 0; i < sample.size(); ++i) {
      prediction[i / size * 2 * size + i % size] =
          0.3f * sample[i] + 0.1f * static_cast<float>(step.step_index);
    }
    table.step(step, sample, prediction);
  }
  return std::fwrite(sample.data(), sizeof(float), sample.size(), stdout) == sample.size() ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
