// conv_spectrum on a GPU: singular values of convolutions, one block per sixteen frequencies.
#include "ops/conv_spectrum.h"
#include "rows/team.cuh"

namespace fastrobust {

template cudaError_t cuda_rows(const ConvSpectrumArgs<float>&, cudaStream_t);
template cudaError_t cuda_rows(const ConvSpectrumArgs<double>&, cudaStream_t);

}  // namespace fastrobust
