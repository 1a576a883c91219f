// The instructions that C++ has no words for. Under emulation each has a counterpart of the same
// name and effect.
#pragma once

#include "fixed_width.h"

#ifdef MPQ_EMULATION

#include "../emulation/device.h"

#else

namespace mpq {

// Shared memory of a launch, by address within it.
using SharedAddress = uint32_t;

template <typename T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(1024) char memory[];
  return reinterpret_cast<T*>(memory);
}

__device__ __forceinline__ SharedAddress shared_begin() {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(shared_memory<char>()));
}

// All threads of the block come here; a warp's lanes together, warps each from its own place in the
// code, which CUDA's own barrier does not allow.
__device__ __forceinline__ void meet() { asm volatile("bar.sync 0;" ::: "memory"); }

// Of code that there are several variants of, this warp is in this one. Under emulation lanes in
// different variants do not meet.
__device__ __forceinline__ void enter_variant(int) {}

// sums += a * b: 16 x 32 by 32 x 8 bytes, as the PTX ISA lays them over a warp.
__device__ __forceinline__ void multiply_add(int32_t (&sums)[4], const uint32_t (&a)[4],
                                             uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 16-byte matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

// Sixteen bytes into shared memory: `count` (0 or 16) from `from`, the others 0. They are there
// after wait_for_copies of this thread.
__device__ __forceinline__ void copy_async(SharedAddress to, const void* from, int32_t count) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(to), "l"(from), "r"(count)
               : "memory");
}

__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// All but the last kPending commits of this thread are done.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four of eight bytes: a nibble's lower bits name a byte of `high` and `low`; where its upper bit
// is set, that byte's sign is spread instead. (__byte_perm clears upper bits.)
__device__ __forceinline__ uint32_t choose_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t chosen;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(chosen) : "r"(low), "r"(high), "r"(selector));
  return chosen;
}

// Constants that are read once: they need no place in the first cache.
__device__ __forceinline__ uint2 load_once(const uint2* from) {
  uint2 value;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
               : "=r"(value.x), "=r"(value.y)
               : "l"(from));
  return value;
}

// What another thread block wrote in this launch.
__device__ __forceinline__ int32_t load_fresh(const int32_t* from) {
  int32_t value;
  asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}

__device__ __forceinline__ float from_float16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

__device__ __forceinline__ uint16_t to_float16(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

}  // namespace mpq

#endif
