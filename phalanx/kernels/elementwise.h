/* What lies between the matrix products: norms and the gated activation. */
#pragma once
#include "attention.h"

struct elementwise_call {
    float *out;
    const float *x, *weight;
    int64_t size;
    float epsilon;
};

static void rms_norm_units(const void *context, int64_t first, int64_t last) {
    const struct elementwise_call *call = context;
    for (int64_t row = first; row < last; row++)
        normalise(call->out + row * call->size, call->x + row * call->size, call->weight, call->size, call->epsilon);
}

/* out [rows, size] = x / sqrt(mean(x^2) + epsilon) * weight */
void EXPORT(rms_norm)(float *out, const float *x, const float *weight, int64_t rows, int64_t size, double epsilon) {
    const struct elementwise_call call = {out, x, weight, size, (float)epsilon};
    phalanx_parallel(rms_norm_units, &call, rows, 5.0 * rows * size);
}

static void silu_units(const void *context, int64_t first, int64_t last) {
    const struct elementwise_call *call = context;
    const int64_t size = call->size;
    for (int64_t row = first; row < last; row++) {
        const float *gate = call->x + row * 2 * size, *up = gate + size;
        float *to = call->out + row * size;
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) {
            const vf x = load(gate + i);
            store(to + i, x / (1.0f + vector_exp(-x)) * load(up + i));
        }
        for (; i < size; i++) to[i] = gate[i] / (1.0f + vector_exp(broadcast(-gate[i]))[0]) * up[i];
    }
}

/* out [rows, size] = silu(gate) * up; gate_up [rows, 2 * size] holds gate, then up. */
void EXPORT(silu_and_multiply)(float *out, const float *gate_up, int64_t rows, int64_t size) {
    const struct elementwise_call call = {out, gate_up, 0, size, 0};
    phalanx_parallel(silu_units, &call, rows, 20.0 * rows * size);
}
