// head on a GPU: the end of a network, one block per row.
#include "ops/head.h"
#include "rows/team.cuh"

namespace fastrobust {

template cudaError_t cuda_rows(const HeadArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const HeadArgs<double>&, cudaStream_t);
template cudaError_t cuda_rows(const TanhMseArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const TanhMseArgs<double>&, cudaStream_t);

}  // namespace fastrobust
