// What host code makes of a call before anything is launched.
#pragma once

#include "problem.h"

namespace mpq {

// MPQ_OK, or what is wrong with the sizes. Places in the workspace begin at call.workspace, which
// may be null.
int describe(const MpqLayer& layer, const MpqCall& call, Problem& problem);

// As `describe`, and the pointers must be there and aligned, and the workspace large enough.
int prepare(const MpqLayer* layer, const MpqCall* call, Problem& problem);

}  // namespace mpq
