// Launch of a kernel on a GPU: the counterpart of cpu_rows, defined in team.cuh.
#pragma once

#include <cuda_runtime_api.h>

namespace fastrobust {

// Computes all rows of a kernel on a stream. Instantiated for each Args in the .cu beside its
// header.
template <typename Args>
cudaError_t cuda_rows(const Args& args, cudaStream_t stream);

}  // namespace fastrobust
