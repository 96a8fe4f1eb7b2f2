/* Vectors of one machine register, written with GCC's vector extensions.
 *
 * Every kernel is compiled once for each instruction-set level (level_*.c) and picked when it is loaded. A vector
 * holds LANES floats; a micro-kernel keeps up to MAX_ROWS rows of two vectors each in registers.
 *
 * Batch invariance rests on one rule kept in every kernel: the order in which one output element is summed is fixed
 * by its own row. How many rows a tile holds, where a chunk starts or which thread ran it never enters into it.
 */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "threads.h"

#if defined(__AVX512F__)
#define LANES 16
#define MAX_ROWS 12
#elif defined(__AVX2__)
#define LANES 8
#define MAX_ROWS 6
#elif defined(__aarch64__)
#define LANES 4
#define MAX_ROWS 12
#else
#define LANES 4
#define MAX_ROWS 6
#endif

#define INLINE static inline __attribute__((always_inline))
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
/* An exported function of this level: EXPORT(linear) is linear_avx512. */
#define EXPORT(name) JOIN(name, LEVEL)

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));

enum kind { FLOAT32 = 0, BFLOAT16 = 1 };

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf broadcast(float x) { return x - (vf){}; }
INLINE vf choose(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
INLINE vf vector_max(vf a, vf b) { return choose(a > b, a, b); }

/* bfloat16 is the upper half of a float32. */
INLINE vf load_bf16(const uint16_t *p) {
    vh half;
    memcpy(&half, p, sizeof half);
    return (vf)(__builtin_convertvector(half, vu) << 16);
}
INLINE float from_bf16(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
/* Round to nearest, ties to even; a NaN stays a NaN. */
INLINE uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE vf load_as(enum kind kind, const void *p, int64_t index) {
    return kind == BFLOAT16 ? load_bf16((const uint16_t *)p + index) : load((const float *)p + index);
}

/* Lanes are folded in halves, in the same order for every caller. */
INLINE float lane_sum(vf v) {
    float x[LANES];
    memcpy(x, &v, sizeof x);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) x[i] += x[i + width];
    return x[0];
}
INLINE float lane_max(vf v) {
    float x[LANES], most;
    memcpy(x, &v, sizeof x);
    most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
}
INLINE vi lane_numbers(void) {
    vi v;
    for (int i = 0; i < LANES; i++) v[i] = i;
    return v;
}

/* exp to about 1 ulp; 0 below -87.3 (where float32 leaves its normal range), so exp(-inf) is exactly 0.
 * Argument reduction and polynomial of Cephes' expf (S. Moshier). */
INLINE vf vector_exp(vf x) {
    const vf magic = broadcast(12582912.0f); /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    const vi underflow = x < -87.3f;
    x = choose(x > 88.7f, broadcast(88.7f), choose(underflow, broadcast(-87.3f), x));
    const vf shifted = x * 1.44269504088896341f + magic;
    const vf n = shifted - magic;
    const vf f = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    vf y = f * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * (f * f) + f + 1.0f;
    const vf scaled = (vf)((vi)y + (((vi)shifted - (vi)magic) << 23));
    return (vf)(~underflow & (vi)scaled);
}

/* sums[row][0 .. 2*LANES) += x[row][k] * w[k][...] for k = 0 .. depth-1 in order: one fused multiply-add a term.
 *
 * The weights of step k are two vectors. They lie in segments of `segment` steps each: low vector at
 * low[k / segment] + (k % segment) * step elements, high vector likewise.
 */
INLINE void multiply(const int rows, const enum kind kind, const float *restrict x, int64_t x_stride,
                     const void *const *low, const void *const *high, int64_t segment, int64_t step, int64_t depth,
                     float *restrict sums, int64_t sums_stride) {
    vf a[MAX_ROWS], b[MAX_ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) a[r] = load(sums + r * sums_stride), b[r] = load(sums + r * sums_stride + LANES);
    for (int64_t done = 0; done < depth; done += segment, low++, high++) {
        const int64_t steps = smaller(segment, depth - done);
        for (int64_t k = 0; k < steps; k++) {
            const vf u = load_as(kind, *low, k * step), v = load_as(kind, *high, k * step);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const float s = x[r * x_stride + done + k];
                a[r] += s * u;
                b[r] += s * v;
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) store(sums + r * sums_stride, a[r]), store(sums + r * sums_stride + LANES, b[r]);
}

/* Call `function(rows, ...)` with `rows` a constant, so that its accumulators live in registers. */
#define UP_TO_SIX_ROWS(CALL)                                                                                 \
    case 1: CALL(1); break;                                                                                  \
    case 2: CALL(2); break;                                                                                  \
    case 3: CALL(3); break;                                                                                  \
    case 4: CALL(4); break;                                                                                  \
    case 5: CALL(5); break;                                                                                  \
    case 6: CALL(6); break;
#if MAX_ROWS == 12
#define MORE_ROWS(CALL)                                                                                      \
    case 7: CALL(7); break;                                                                                  \
    case 8: CALL(8); break;                                                                                  \
    case 9: CALL(9); break;                                                                                  \
    case 10: CALL(10); break;                                                                                \
    case 11: CALL(11); break;                                                                                \
    case 12: CALL(12); break;
#else
#define MORE_ROWS(CALL)
#endif
#define WITH_CONSTANT_ROWS(rows, CALL)                                                                       \
    switch (rows) {                                                                                          \
        UP_TO_SIX_ROWS(CALL)                                                                                 \
        MORE_ROWS(CALL)                                                                                      \
    }
