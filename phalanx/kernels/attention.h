/* Causal attention over a paged KV cache, for prefill chunks and decode rows alike.
 *
 * Cache of one layer: keys [blocks, kv_heads, head_dim, block_size], transposed inside a block so that the scores of
 * its tokens are lanes of a vector; values [blocks, kv_heads, block_size, value_stride], rows padded to whole vectors.
 */
#pragma once
#include "vector.h"

/* Tokens of context whose scores are held at once. Spans begin at multiples of SPAN in absolute positions, so a row
 * meets the same spans however its prompt was chunked. A multiple of every block size. */
#define SPAN 64
#define TILE_ROWS (2 * MAX_ROWS)

struct cache {
    void *keys, *values;
    int64_t kind; /* enum kind of keys and values */
    int64_t query_heads, kv_heads, head_dim, value_stride, block_size;
    int64_t window; /* tokens a row sees, itself included; 0 is all */
    double scale;   /* of the scores, before softmax */
};

/* One sequence's part of a step: rows `row` ... `row + rows` of the batch are its positions `start` ...;
 * block i of its context is batch.blocks[table + i]. */
struct chunk {
    int32_t row, rows, start, table;
};

struct batch {
    const struct chunk *chunks;
    const int32_t *blocks;
    int64_t chunk_count, rows;
};

struct rotary {
    const float *table;           /* [positions, head_dim]: cosines, then sines */
    const float *q_norm, *k_norm; /* [head_dim]: RMS norm of each head before the rotation, or NULL */
    double epsilon;
};

INLINE float sum_of_squares(const float *x, int64_t size) {
    vf total = {};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) total += load(x + i) * load(x + i);
    float sum = lane_sum(total);
    for (; i < size; i++) sum += x[i] * x[i];
    return sum;
}

INLINE void normalise(float *out, const float *x, const float *weight, int64_t size, float epsilon) {
    const float factor = 1 / sqrtf(sum_of_squares(x, size) / size + epsilon);
    for (int64_t i = 0; i < size; i++) out[i] = x[i] * factor * weight[i];
}

INLINE void rotate(float *x, const float *table, int64_t size) {
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half], cosine = table[i], sine = table[half + i];
        x[i] = a * cosine - b * sine;
        x[i + half] = b * cosine + a * sine;
    }
}

struct store_call {
    const struct cache *cache;
    const struct batch *batch;
    const struct rotary *rotary;
    float *qkv;
};

static void store_row(const struct store_call *call, const struct chunk *chunk, int64_t row) {
    const struct cache *cache = call->cache;
    const int64_t dim = cache->head_dim, size = cache->block_size, queries = cache->query_heads;
    const int64_t heads = cache->kv_heads, width = (queries + 2 * heads) * dim;
    const int64_t position = chunk->start + (row - chunk->row), slot = position % size;
    const int64_t block = call->batch->blocks[chunk->table + position / size];
    float *x = call->qkv + row * width;
    for (int64_t h = 0; h < queries + heads; h++, x += dim) {
        const float *norm = h < queries ? call->rotary->q_norm : call->rotary->k_norm;
        if (norm) normalise(x, x, norm, dim, (float)call->rotary->epsilon);
        rotate(x, call->rotary->table + position * dim, dim);
    }
    const float *key = call->qkv + row * width + queries * dim, *value = x;
    for (int64_t h = 0; h < heads; h++, key += dim, value += dim) {
        const int64_t k = (block * heads + h) * dim * size + slot;
        const int64_t v = ((block * heads + h) * size + slot) * cache->value_stride;
        if (cache->kind == BFLOAT16)
            for (int64_t d = 0; d < dim; d++) {
                ((uint16_t *)cache->keys)[k + d * size] = to_bf16(key[d]);
                ((uint16_t *)cache->values)[v + d] = to_bf16(value[d]);
            }
        else
            for (int64_t d = 0; d < dim; d++) {
                ((float *)cache->keys)[k + d * size] = key[d];
                ((float *)cache->values)[v + d] = value[d];
            }
    }
}

/* Unit: one row of the batch. */
static void store_units(const void *context, int64_t first, int64_t last) {
    const struct store_call *call = context;
    for (int64_t c = 0; c < call->batch->chunk_count; c++) {
        const struct chunk *chunk = &call->batch->chunks[c];
        const int64_t end = smaller(last, chunk->row + chunk->rows);
        for (int64_t row = larger(first, chunk->row); row < end; row++) store_row(call, chunk, row);
    }
}

/* Rotate queries in place, rotate keys, and write keys and values to the cache.
 * qkv [rows, (query_heads + 2 * kv_heads) * head_dim]. */
void EXPORT(rotate_and_store)(const struct cache *cache, const struct batch *batch, const struct rotary *rotary,
                              float *qkv) {
    const struct store_call call = {cache, batch, rotary, qkv};
    const int64_t width = (cache->query_heads + 2 * cache->kv_heads) * cache->head_dim;
    phalanx_parallel(store_units, &call, batch->rows, 10.0 * batch->rows * width);
}

static void multiply_tile(int rows, enum kind kind, const float *x, int64_t x_stride, const void *const *low,
                          const void *const *high, int64_t segment, int64_t step, int64_t depth, float *sums,
                          int64_t sums_stride) {
#define CALL(R) multiply(R, BFLOAT16, x, x_stride, low, high, segment, step, depth, sums, sums_stride)
    if (kind == BFLOAT16) WITH_CONSTANT_ROWS(rows, CALL)
#undef CALL
#define CALL(R) multiply(R, FLOAT32, x, x_stride, low, high, segment, step, depth, sums, sums_stride)
    else
        WITH_CONSTANT_ROWS(rows, CALL)
#undef CALL
}

/* Scores of one row over a span, of which [first, last) is visible, become weights relative to the largest score so
 * far (online softmax: Milakov and Gimelshein, 2018). Returns the factor for everything summed before. */
INLINE float soften(float *scores, int64_t first, int64_t last, float *largest, float *total) {
    vf most = broadcast(-INFINITY), sum = {};
    const vi numbers = lane_numbers();
    for (int i = 0; i < SPAN; i += LANES) {
        const vi at = numbers + i, visible = (at >= (int)first) & (at < (int)last);
        const vf masked = choose(visible, load(scores + i), broadcast(-INFINITY));
        store(scores + i, masked);
        most = vector_max(most, masked);
    }
    const float before = *largest, now = lane_max(most);
    *largest = now > before ? now : before;
    for (int i = 0; i < SPAN; i += LANES) {
        const vf weight = vector_exp(load(scores + i) - *largest);
        store(scores + i, weight);
        sum += weight;
    }
    const float factor = vector_exp(broadcast(before - *largest))[0];
    *total = *total * factor + lane_sum(sum);
    return factor;
}

/* Rows first ... first+count of one chunk and one kv head; row i is token i / group, query head i % group. */
static void attend(const struct cache *cache, const struct chunk *chunk, const int32_t *blocks, const float *qkv,
                   float *out, int64_t head, int64_t first, int64_t count) {
    const int64_t dim = cache->head_dim, size = cache->block_size, stride = cache->value_stride;
    const int64_t heads = cache->kv_heads, group = cache->query_heads / heads;
    const int64_t width = (cache->query_heads + 2 * heads) * dim;
    const enum kind kind = (enum kind)cache->kind;
    const int64_t element = kind == BFLOAT16 ? 2 : 4;
    const int64_t oldest = chunk->start + first / group, end = chunk->start + (first + count - 1) / group + 1;
    const int64_t seen_from = cache->window ? larger(0, oldest - cache->window + 1) : 0;
    const int64_t tiles = (count + MAX_ROWS - 1) / MAX_ROWS;
    float q[TILE_ROWS * dim], sums[TILE_ROWS * stride], scores[TILE_ROWS * SPAN], largest[TILE_ROWS], total[TILE_ROWS];

    for (int64_t i = 0; i < count; i++) {
        const int64_t row = chunk->row + (first + i) / group, query = head * group + (first + i) % group;
        for (int64_t d = 0; d < dim; d++) q[i * dim + d] = qkv[row * width + query * dim + d] * (float)cache->scale;
        largest[i] = -INFINITY;
        total[i] = 0;
    }
    memset(sums, 0, count * stride * sizeof *sums);

    for (int64_t span = seen_from / SPAN * SPAN; span < end; span += SPAN) {
        const int64_t tokens = smaller(SPAN, end - span);
        memset(scores, 0, count * SPAN * sizeof *scores);
        for (int64_t t = 0; t < tokens; t += 2 * LANES) {
            /* Past the end there may be no block: the low lanes' one stands in, and the mask drops its scores. */
            const int64_t low = span + t, high = low + LANES < end ? low + LANES : low;
            const void *a = (char *)cache->keys +
                            ((blocks[low / size] * heads + head) * dim * size + low % size) * element;
            const void *b = (char *)cache->keys +
                            ((blocks[high / size] * heads + head) * dim * size + high % size) * element;
            for (int64_t tile = 0; tile < tiles; tile++) {
                const int64_t row = count * tile / tiles, rows = count * (tile + 1) / tiles - row;
                multiply_tile((int)rows, kind, q + row * dim, dim, &a, &b, dim, size, dim, scores + row * SPAN + t,
                              SPAN);
            }
        }
        for (int64_t i = 0; i < count; i++) {
            const int64_t position = chunk->start + (first + i) / group;
            const int64_t visible = smaller(SPAN, position + 1 - span);
            const int64_t hidden = cache->window ? larger(0, position + 1 - cache->window - span) : 0;
            if (hidden >= visible) {
                memset(scores + i * SPAN, 0, SPAN * sizeof *scores);
                continue;
            }
            const float factor = soften(scores + i * SPAN, hidden, visible, &largest[i], &total[i]);
            if (factor != 1)
                for (int64_t d = 0; d < stride; d++) sums[i * stride + d] *= factor;
        }
        /* Only tokens that were written: a slot past them may hold a NaN, which a weight of 0 would not stop. */
        const void *low[SPAN / 16], *high[SPAN / 16];
        for (int64_t d = 0; d < stride; d += 2 * LANES) {
            for (int64_t t = 0; t < tokens; t += size) {
                low[t / size] = (char *)cache->values +
                                ((blocks[(span + t) / size] * heads + head) * size * stride + d) * element;
                high[t / size] = (char *)low[t / size] + LANES * element;
            }
            for (int64_t tile = 0; tile < tiles; tile++) {
                const int64_t row = count * tile / tiles, rows = count * (tile + 1) / tiles - row;
                multiply_tile((int)rows, kind, scores + row * SPAN, SPAN, low, high, size, stride, tokens,
                              sums + row * stride + d, stride);
            }
        }
    }
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = chunk->row + (first + i) / group, query = head * group + (first + i) % group;
        float *to = out + (row * cache->query_heads + query) * dim;
        for (int64_t d = 0; d < dim; d++) to[d] = sums[i * stride + d] / total[i];
    }
}

struct attention_call {
    const struct cache *cache;
    const struct batch *batch;
    const float *qkv;
    float *out;
    const int64_t *units; /* tiles of the chunks before each, and of all */
};

/* Unit: one tile of query rows of one kv head. */
static void attention_units(const void *context, int64_t first, int64_t last) {
    const struct attention_call *call = context;
    const int64_t heads = call->cache->kv_heads, group = call->cache->query_heads / heads;
    int64_t c = 0, after = call->batch->chunk_count;
    while (after - c > 1) {
        const int64_t middle = (c + after) / 2;
        if (call->units[middle] <= first)
            c = middle;
        else
            after = middle;
    }
    for (int64_t unit = first; unit < last; unit++) {
        while (unit >= call->units[c + 1]) c++;
        const struct chunk *chunk = &call->batch->chunks[c];
        const int64_t tile = (unit - call->units[c]) / heads, head = (unit - call->units[c]) % heads;
        attend(call->cache, chunk, call->batch->blocks + chunk->table, call->qkv, call->out, head, tile * TILE_ROWS,
               smaller(TILE_ROWS, chunk->rows * group - tile * TILE_ROWS));
    }
}

/* out [rows, query_heads * head_dim]; qkv as rotate_and_store left it, keys and values of the batch in the cache. */
void EXPORT(attention)(const struct cache *cache, const struct batch *batch, const float *qkv, float *out) {
    const int64_t group = cache->query_heads / cache->kv_heads;
    double work = 0;
    int64_t units[batch->chunk_count + 1];
    units[0] = 0;
    for (int64_t c = 0; c < batch->chunk_count; c++) {
        const struct chunk chunk = batch->chunks[c];
        work += 4.0 * chunk.rows * (chunk.start + chunk.rows) * cache->query_heads * cache->head_dim;
        units[c + 1] = units[c] + cache->kv_heads * ((chunk.rows * group + TILE_ROWS - 1) / TILE_ROWS);
    }
    const struct attention_call call = {cache, batch, qkv, out, units};
    phalanx_parallel(attention_units, &call, units[batch->chunk_count], work);
}
