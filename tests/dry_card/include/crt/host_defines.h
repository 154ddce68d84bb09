// In the place of a header that NVIDIA ships with its compiler alone: what the C declarations of CUDA's runtime use of
// it. Marks that are for a compiler of kernels are empty.
#pragma once
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define __cudart_builtin__
#define __device_builtin__
#define __host__
#define CUDARTAPI
