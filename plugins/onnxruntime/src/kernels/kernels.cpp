#include "kernels.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "../layer.h"

namespace mpq {

extern const Kernels kPortable, kAvx2, kAvxVnni, kAvx512Vnni, kAmx, kNeon;

std::vector<const Kernels*> available_kernels() {
  const Kernels* const compiled[] = {
#ifdef MPQ_HAVE_AMX
      &kAmx,
#endif
#ifdef MPQ_HAVE_AVX512VNNI
      &kAvx512Vnni,
#endif
#ifdef MPQ_HAVE_AVXVNNI
      &kAvxVnni,
#endif
#ifdef MPQ_HAVE_AVX2
      &kAvx2,
#endif
#ifdef MPQ_HAVE_NEON
      &kNeon,
#endif
      &kPortable,
  };
  std::vector<const Kernels*> available;
  for (const Kernels* kernels : compiled)
    if (kernels->supported()) available.push_back(kernels);
  return available;
}

const Kernels& chosen_kernels() {
  const std::vector<const Kernels*> available = available_kernels();
  const char* wanted = std::getenv("MPQ_CPU_KERNELS");
  if (wanted == nullptr || *wanted == '\0') return *available.front();
  std::string names;
  for (const Kernels* kernels : available) {
    if (std::strcmp(kernels->name, wanted) == 0) return *kernels;
    names += names.empty() ? kernels->name : std::string(", ") + kernels->name;
  }
  throw ContractError(std::string("MPQ_CPU_KERNELS names the kernels ") + wanted +
                      ", which this processor or this build does not have; it has " + names);
}

const char* name_of(const Kernels& kernels) { return kernels.name; }

}  // namespace mpq
