/* What lies between the matrix products: norms and the gated activation. */
#pragma once
#include "attention.h"

/* out [rows, size] = x / sqrt(mean(x^2) + epsilon) * weight */
void EXPORT(rms_norm)(float *out, const float *x, const float *weight, int64_t rows, int64_t size, double epsilon) {
#pragma omp parallel for num_threads(threads_for(10.0 * rows * size)) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        normalise(out + row * size, x + row * size, weight, size, (float)epsilon);
}

/* out [rows, size] = silu(gate) * up; gate_up [rows, 2 * size] holds gate, then up. */
void EXPORT(silu_and_multiply)(float *out, const float *gate_up, int64_t rows, int64_t size) {
#pragma omp parallel for num_threads(threads_for(20.0 * rows * size)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *gate = gate_up + row * 2 * size, *up = gate + size;
        float *to = out + row * size;
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) {
            const vf x = load(gate + i);
            store(to + i, x / (1.0f + vector_exp(-x)) * load(up + i));
        }
        for (; i < size; i++) to[i] = gate[i] / (1.0f + vector_exp(broadcast(-gate[i]))[0]) * up[i];
    }
}
