// What differs between processors: unpacking rows, integer products, and the loops around them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mpq {

struct Kernels;

// The kernels that this processor runs, fastest first: "amx", "avx512vnni", "avx2", "neon",
// "portable". Those that were not compiled in, or that the processor lacks, are not among them.
std::vector<const Kernels*> available_kernels();

// The first of them, or those that the environment variable MPQ_CPU_KERNELS names. Throws
// ContractError on a name that is not available; the message lists those that are.
const Kernels& chosen_kernels();

const char* name_of(const Kernels& kernels);

}  // namespace mpq
