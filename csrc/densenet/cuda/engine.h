// A DenseNet in eval mode on a GPU: forward, and backward to its input, of a whole batch.
#pragma once

#include <cuda_runtime_api.h>

#include "densenet/cuda/layout.h"

namespace fastrobust {

// Launches the forward, then the backward, as far as they are asked for. Nothing is allocated,
// nothing waits, so that a CUDA graph can hold it. An image's results do not depend on its batch.
cudaError_t densenet_cuda(const DenseNetCudaArgs& args, cudaStream_t stream);

}  // namespace fastrobust
