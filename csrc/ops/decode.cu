// decode on a GPU: nearest target vectors, one block per row.
#include "ops/decode.h"
#include "rows/team.cuh"

namespace fastrobust {

template cudaError_t cuda_rows(const DecodeArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const DecodeArgs<double>&, cudaStream_t);

}  // namespace fastrobust
