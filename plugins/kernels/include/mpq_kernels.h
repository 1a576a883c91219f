/* The packed layers on NVIDIA GPUs: plain C, no allocation, no synchronisation.
 *
 * A layer runs in two launches on one stream, mpq_quantize and mpq_multiply, which share a
 * workspace. Both can be captured in a CUDA graph. All pointers are the device's; sizes are the
 * caller's word. Row tables are made by mpq_export.core.kernel_layout and specified in
 * docs/gpu_kernels.md.
 */
#ifndef MPQ_KERNELS_H
#define MPQ_KERNELS_H

/* NVRTC has neither these headers nor host functions: for device code see src/fixed_width.h. */
#ifndef __CUDACC_RTC__
#include <stddef.h>
#include <stdint.h>
#endif

#define MPQ_PUBLIC __attribute__((visibility("default")))

/* Of this file: another number, and structures or functions are others. */
#define MPQ_INTERFACE_VERSION 3
/* Of the order of `words`: mpq_export.core.kernel_layout.LAYOUT. */
#define MPQ_LAYOUT_VERSION "mma-1"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st* MpqStream;

/* Negative: nothing was launched. Positive: a cudaError_t of the launch. */
enum {
  MPQ_OK = 0,
  MPQ_BAD_LAYER = -1, /* a size or a bit width that the contract does not allow */
  MPQ_BAD_CALL = -2,  /* no output, or a pointer that is null or misaligned */
  MPQ_TOO_LARGE = -3, /* activations beyond 2 GiB, or more tiles than a grid has */
  MPQ_SMALL_WORKSPACE = -4
};

/* Constants of one layer. V padded rows, I input channels, T sampler steps. */
typedef struct MpqLayer {
  const int32_t* words;          /* 16-byte aligned */
  const int32_t* tile_begins;    /* [tiles + 1] */
  const int8_t* steps;           /* [1 + max_planes, V] */
  const float* scale;            /* [V] */
  const float* bias;             /* [V] */
  const int32_t* row_sums;       /* [2, V] */
  const int32_t* output_rows;    /* [V] */
  const float* act_scale;        /* [T] */
  const int32_t* act_zero_point; /* [T] */
  const float* input_factor;     /* [I] */
  const int8_t* input_shift;     /* [I] */
  int32_t rows;                  /* O */
  int32_t channels;              /* I; of a linear layer K */
  int32_t group;
  int32_t max_planes; /* 1..8 */
  int32_t act_bits;   /* 2..8 */
  int32_t top_shift;  /* the largest input_shift */
  int32_t linear;     /* 0: a convolution */
  int32_t kernel_shape[2];
  int32_t strides[2];
  int32_t pads[4]; /* top, left, bottom, right */
  int32_t dilations[2];
} MpqLayer;

/* One use of a layer. A linear layer's x is [M, K] and its y [M, O]: batch 1, height 1, width M. A
 * convolution's are NCHW, or NHWC where channels come last. x, y and residual have one type, and
 * that type's alignment. */
typedef struct MpqCall {
  const void* x;
  void* y;
  const void* residual;      /* null, or of y's shape: added to y as y's type holds it */
  const int32_t* step_index; /* [1], 0 <= step_index < T */
  void* workspace;           /* 256-byte aligned */
  size_t workspace_bytes;
  int32_t batch, height, width;
  int32_t float16;         /* 0: float32 */
  int32_t channels_last;   /* of a convolution; 0: NCHW */
  int32_t multiprocessors; /* of the device: how finely the work is cut */
} MpqCall;

#ifndef __CUDACC_RTC__

/* Bytes that a call needs, 0 for one that would fail. Reads sizes alone, no pointers. */
MPQ_PUBLIC size_t mpq_workspace_bytes(const MpqLayer* layer, const MpqCall* call);

/* x to channels-last int8 in the workspace, spatial padding included. */
MPQ_PUBLIC int mpq_quantize(const MpqLayer* layer, const MpqCall* call, MpqStream stream);

/* y from the workspace, which it leaves as it was: it may follow itself. */
MPQ_PUBLIC int mpq_multiply(const MpqLayer* layer, const MpqCall* call, MpqStream stream);

/* MPQ_OK, or CUDA's error: whether driver and current device run this library's kernels. Nothing is
 * launched. */
MPQ_PUBLIC int mpq_ready(void);

/* What the library was built with: MPQ_INTERFACE_VERSION and MPQ_LAYOUT_VERSION. */
MPQ_PUBLIC int mpq_interface_version(void);
MPQ_PUBLIC const char* mpq_layout_version(void);

/* What a status of the functions here means. */
MPQ_PUBLIC const char* mpq_status_text(int status);

/* A launch for those who load compiled code themselves (cuLaunchKernel, with a cubin of NVRTC's).
 */
typedef struct MpqLaunch {
  const char* kernel; /* its name in the code */
  uint32_t grid[3];
  uint32_t threads; /* of a thread block, in one dimension */
  uint32_t shared_bytes;
  uint32_t argument_bytes;
  uint64_t argument[64]; /* the kernel's one argument */
} MpqLaunch;

/* What mpq_quantize and mpq_multiply launch. */
MPQ_PUBLIC int mpq_plan_quantize(const MpqLayer* layer, const MpqCall* call, MpqLaunch* launch);
MPQ_PUBLIC int mpq_plan_multiply(const MpqLayer* layer, const MpqCall* call, MpqLaunch* launch);

/* What a status of these two means, none of which is CUDA's. */
MPQ_PUBLIC const char* mpq_plan_status_text(int status);

/* A kernel that launches may name, and the most shared memory that one of them takes: to be allowed
 * once, when it is loaded (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES). */
typedef struct MpqKernel {
  const char* name;
  uint32_t shared_bytes;
} MpqKernel;

/* Number `index` of them; beyond the last the name is null. */
MPQ_PUBLIC void mpq_kernel(int index, MpqKernel* kernel);

#endif

#ifdef __cplusplus
}
#endif

#endif
