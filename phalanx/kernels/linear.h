/* y = x W^T (+ bias) (+ y): rows of activations times packed weights.
 *
 * Weights are packed once, at load, into panels of PANEL columns: [ceil(N / PANEL)][K][PANEL], so that one pass over
 * a panel is one stream of memory. In a bfloat16 panel columns c and c + PANEL/2 share a 32-bit word (c in its lower
 * half): a shift and a mask expand both, with no shuffles.
 */
#pragma once
#include "vector.h"

#define PANEL 32
#define HALF (PANEL / 2)
/* Rows that go through all panels together: their activations stay in the second-level cache. */
#define ROW_CHUNK 192
/* Depth of one pass over a panel when there are many rows: the part of the panel stays in cache between them. */
#define DEPTH_CHUNK 1024

struct linear {
    const void *panels;
    const float *bias; /* [N] or NULL */
    int64_t inputs;    /* K */
    int64_t outputs;   /* N */
    int64_t kind;      /* enum kind of the panels */
};

INLINE void panel_rows(const int rows, const enum kind kind, const float *restrict x, int64_t x_stride,
                       const void *panel, int64_t depth, float *restrict sums) {
    for (int c = 0; c < HALF; c += LANES) {
        vf a[MAX_ROWS], b[MAX_ROWS];
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) a[r] = load(sums + r * PANEL + c), b[r] = load(sums + r * PANEL + c + HALF);
        for (int64_t k = 0; k < depth; k++) {
            vf u, v;
            if (kind == BFLOAT16) {
                vu pairs;
                memcpy(&pairs, (const uint32_t *)panel + k * HALF + c, sizeof pairs);
                u = (vf)(pairs << 16);
                v = (vf)(pairs & 0xffff0000u);
            } else {
                u = load((const float *)panel + k * PANEL + c);
                v = load((const float *)panel + k * PANEL + c + HALF);
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const float s = x[r * x_stride + k];
                a[r] += s * u;
                b[r] += s * v;
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) store(sums + r * PANEL + c, a[r]), store(sums + r * PANEL + c + HALF, b[r]);
    }
}

static void panel_tile(int rows, enum kind kind, const float *x, int64_t x_stride, const void *panel, int64_t depth,
                       float *sums) {
#define CALL(R) panel_rows(R, BFLOAT16, x, x_stride, panel, depth, sums)
    if (kind == BFLOAT16) WITH_CONSTANT_ROWS(rows, CALL)
#undef CALL
#define CALL(R) panel_rows(R, FLOAT32, x, x_stride, panel, depth, sums)
    else
        WITH_CONSTANT_ROWS(rows, CALL)
#undef CALL
}

struct linear_call {
    const struct linear *w;
    float *y;
    const float *x;
    int64_t rows, add, panels;
};

/* Unit: one panel for one chunk of rows. */
static void linear_units(const void *context, int64_t first_unit, int64_t last_unit) {
    const struct linear_call *call = context;
    const struct linear *w = call->w;
    const int64_t inputs = w->inputs, outputs = w->outputs;
    const enum kind kind = (enum kind)w->kind;
    const int64_t element = kind == BFLOAT16 ? 2 : 4;
    float sums[ROW_CHUNK * PANEL];

    for (int64_t unit = first_unit; unit < last_unit; unit++) {
        const int64_t first = unit / call->panels * ROW_CHUNK, count = smaller(ROW_CHUNK, call->rows - first);
        const int64_t column = unit % call->panels * PANEL, columns = smaller(PANEL, outputs - column);
        const char *panel = (const char *)w->panels + column * inputs * element;
        const int64_t tiles = (count + MAX_ROWS - 1) / MAX_ROWS;
        const int64_t pass = tiles == 1 ? inputs : DEPTH_CHUNK;

        memset(sums, 0, count * PANEL * sizeof *sums);
        for (int64_t k = 0; k < inputs; k += pass)
            for (int64_t tile = 0; tile < tiles; tile++) {
                const int64_t row = count * tile / tiles, end = count * (tile + 1) / tiles;
                panel_tile((int)(end - row), kind, call->x + (first + row) * inputs + k, inputs,
                           panel + k * PANEL * element, smaller(pass, inputs - k), sums + row * PANEL);
            }
        for (int64_t row = 0; row < count; row++) {
            float *out = call->y + (first + row) * outputs + column;
            for (int64_t c = 0; c < columns; c++) {
                float value = sums[row * PANEL + c];
                if (w->bias) value += w->bias[column + c];
                out[c] = call->add ? out[c] + value : value;
            }
        }
    }
}

/* y [rows, N], x [rows, K], both contiguous. With `add`, y holds a residual that is added to. */
void EXPORT(linear)(const struct linear *w, float *y, const float *x, int64_t rows, int64_t add) {
    const int64_t panels = (w->outputs + PANEL - 1) / PANEL, chunks = (rows + ROW_CHUNK - 1) / ROW_CHUNK;
    const struct linear_call call = {w, y, x, rows, add, panels};
    phalanx_parallel(linear_units, &call, panels * chunks, 2.0 * rows * w->inputs * w->outputs);
}

struct pack_call {
    const struct linear *w;
    const void *weights;
    int64_t first, last;
};

/* Unit: one panel, from that of column `first` on. */
static void pack_units(const void *context, int64_t first_unit, int64_t last_unit) {
    const struct pack_call *call = context;
    const struct linear *w = call->w;
    const int64_t inputs = w->inputs, begin = call->first / PANEL;
    for (int64_t p = begin + first_unit; p < begin + last_unit; p++)
        for (int64_t k0 = 0; k0 < inputs; k0 += 64)
            for (int64_t n = larger(call->first, p * PANEL); n < smaller(call->last, (p + 1) * PANEL); n++) {
                const int64_t c = n % PANEL, from = (n - call->first) * inputs, k1 = smaller(inputs, k0 + 64);
                if (w->kind == BFLOAT16) {
                    uint16_t *to = (uint16_t *)w->panels + p * inputs * PANEL + (c % HALF) * 2 + c / HALF;
                    for (int64_t k = k0; k < k1; k++) to[k * PANEL] = ((const uint16_t *)call->weights)[from + k];
                } else {
                    float *to = (float *)w->panels + p * inputs * PANEL + c;
                    for (int64_t k = k0; k < k1; k++) to[k * PANEL] = ((const float *)call->weights)[from + k];
                }
            }
}

/* Copy weight rows [count, K] (float32 or bfloat16, as the panels) into columns first ... first+count of `w`. */
void EXPORT(pack)(const struct linear *w, const void *weights, int64_t first, int64_t count) {
    const struct pack_call call = {w, weights, first, first + count};
    const int64_t panels = (call.last + PANEL - 1) / PANEL - first / PANEL;
    phalanx_parallel(pack_units, &call, panels, 1.0 * count * w->inputs);
}

struct embed_call {
    const struct linear *w;
    float *x;
    const int32_t *tokens;
};

static void embed_units(const void *context, int64_t first, int64_t last) {
    const struct embed_call *call = context;
    const struct linear *w = call->w;
    const int64_t inputs = w->inputs;
    for (int64_t row = first; row < last; row++) {
        const int64_t p = call->tokens[row] / PANEL, c = call->tokens[row] % PANEL;
        float *out = call->x + row * inputs;
        if (w->kind == BFLOAT16) {
            const uint16_t *from = (const uint16_t *)w->panels + p * inputs * PANEL + (c % HALF) * 2 + c / HALF;
            for (int64_t k = 0; k < inputs; k++) out[k] = from_bf16(from[k * PANEL]);
        } else {
            const float *from = (const float *)w->panels + p * inputs * PANEL + c;
            for (int64_t k = 0; k < inputs; k++) out[k] = from[k * PANEL];
        }
    }
}

/* x [rows, K] = weight rows `tokens` of a packed matrix: the embedding that may be tied to the output layer. */
void EXPORT(embed)(const struct linear *w, float *x, const int32_t *tokens, int64_t rows) {
    const struct embed_call call = {w, x, tokens};
    phalanx_parallel(embed_units, &call, rows, 50.0 * rows * w->inputs);
}
