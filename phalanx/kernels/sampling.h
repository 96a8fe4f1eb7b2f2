/* Choosing tokens from logits, one row at a time: a row's result is a function of that row alone. */
#pragma once
#include <float.h>
#include <stdlib.h>

#include "vector.h"

/* Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), as in Random123. */
INLINE void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const uint64_t p = 0xD2511F53ull * c0, q = 0xCD9E8D57ull * c2;
        c0 = (uint32_t)(q >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)q;
        c2 = (uint32_t)(p >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

void EXPORT(philox)(const uint32_t *counter, const uint32_t *key, uint32_t *out) { philox(counter, key, out); }

/* Uniform in [0, 1), 53 bits: the random number of output position `position` under `seed`. */
INLINE double uniform(uint64_t seed, uint64_t position) {
    const uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t bits[4];
    philox(counter, key, bits);
    return (double)(((uint64_t)bits[1] << 32 | bits[0]) >> 11) * 0x1p-53;
}

struct choice {
    uint64_t seed, position;
    double temperature; /* 0: the most likely token, the lowest id of equals */
    double top_p, min_p;
    int64_t top_k; /* 0: no limit */
};

/* Weights that are summed, or looked through, together. */
#define BLOCK 256

/* Candidates are ordered by falling weight, then by rising id; a filter keeps those up to and including `cut`. */
struct cut {
    float weight;
    int32_t id;
};

INLINE int kept(float weight, int64_t id, struct cut cut) {
    return weight > cut.weight || (weight == cut.weight && id <= cut.id);
}

static int by_falling_weight(const void *a, const void *b) {
    const struct cut *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* 12 bits of a weight from bit `shift` on. Weights are in [0, 1]: they are ordered as their 30 bits are. */
#define BUCKETS 4096
INLINE int bucket_of(float weight, int shift) {
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return (int)(bits >> shift & (BUCKETS - 1));
}

INLINE vf kept_lanes(const float *weights, int64_t first, struct cut cut) {
    const vf w = load(weights + first);
    const vi id = lane_numbers() + (int32_t)first;
    return (vf)((vi)w & ((w > cut.weight) | ((w == cut.weight) & (id <= cut.id))));
}

/* Room to choose from up to `held` logits. Each thread keeps its own from call to call. */
struct scratch {
    float *weights;      /* a weight a logit, padded with zeros to whole blocks */
    double *blocks;      /* a number a block of weights */
    struct cut *members; /* room for all candidates */
    int64_t held;
};

static struct scratch *scratch(int64_t padded) {
    static _Thread_local struct scratch memory;
    if (memory.held < padded) {
        free(memory.blocks);
        memory.held = 0;
        memory.blocks = malloc(padded / BLOCK * sizeof(double) + padded * (sizeof(struct cut) + sizeof(float)));
        if (!memory.blocks) return NULL;
        memory.members = (struct cut *)(memory.blocks + padded / BLOCK);
        memory.weights = (float *)(memory.members + padded);
        memory.held = padded;
    }
    return &memory;
}

/* The count-th largest of `values`, or 0 where count is too large to be worth the search. */
static double nth_largest(const double *values, int64_t size, int64_t count) {
    enum { MOST = 64 };
    double largest[MOST];
    int64_t found = 0;
    if (count > MOST || count > size) return 0;
    for (int64_t i = 0; i < size; i++) {
        if (found == count && values[i] <= largest[count - 1]) continue;
        int64_t at = found < count ? found++ : count - 1;
        for (; at > 0 && values[i] > largest[at - 1]; at--) largest[at] = largest[at - 1];
        largest[at] = values[i];
    }
    return largest[count - 1];
}

/* Move `cut` up so that at most `count` candidates are kept, and no more than are needed for `share` of their mass
 * (infinite: no limit).
 *
 * The last candidate cannot weigh less than the count-th largest of the blocks' maxima; nor less than (1 - share) of
 * the mass spread evenly, since all that weighs less than that cannot make up 1 - share. Of what is above, histograms
 * over 12 and 12 more bits of the weights find the bucket of the last candidate, and only that bucket is sorted. */
static struct cut narrow(struct scratch *room, int64_t size, struct cut cut, int64_t count, double share) {
    static _Thread_local int64_t counts[BUCKETS];
    static _Thread_local double masses[BUCKETS];
    const float *weights = room->weights;
    const int64_t blocks = (size + BLOCK - 1) / BLOCK;
    double all = 0, mass = 0;
    for (int64_t b = 0; b < blocks; b++) {
        vf sum = {}, most = {};
        for (int64_t i = b * BLOCK; i < (b + 1) * BLOCK; i += LANES) {
            const vf w = kept_lanes(weights, i, cut);
            sum += w;
            most = vector_max(most, w);
        }
        all += lane_sum(sum);
        room->blocks[b] = lane_max(most);
    }
    const double enough = share * all, spread = 0.99 * (all - enough) / size;
    const double least = fmax(nth_largest(room->blocks, blocks, count), spread);

    struct cut *members = room->members;
    int64_t n = 0, found = 0;
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t i = b * BLOCK; room->blocks[b] >= least && i < smaller(size, (b + 1) * BLOCK); i++)
            if (weights[i] >= least && kept(weights[i], i, cut)) members[n++] = (struct cut){weights[i], (int32_t)i};

    for (int shift = 18; shift > 0; shift -= 12) {
        memset(counts, 0, sizeof counts);
        memset(masses, 0, sizeof masses);
        for (int64_t i = 0; i < n; i++) {
            const int bucket = bucket_of(members[i].weight, shift);
            counts[bucket]++;
            masses[bucket] += members[i].weight;
        }
        int last = BUCKETS - 1;
        for (; last > 0; last--) {
            if (counts[last] && (found + counts[last] >= count || mass + masses[last] >= enough)) break;
            found += counts[last];
            mass += masses[last];
        }
        int64_t left = 0;
        for (int64_t i = 0; i < n; i++)
            if (bucket_of(members[i].weight, shift) == last) members[left++] = members[i];
        n = left;
    }
    if (!n) return cut; /* fewer candidates than asked for */
    qsort(members, n, sizeof *members, by_falling_weight);
    for (int64_t at = 0; at < n; at++) {
        mass += members[at].weight;
        if (++found >= count || mass >= enough) return members[at];
    }
    return members[n - 1];
}

/* The first id at which the running sum of kept weights passes `u` times the whole. The whole is summed in blocks of
 * BLOCK weights, so only one block is walked weight by weight. */
static int64_t invert(const struct scratch *room, int64_t size, struct cut cut, double u) {
    const float *weights = room->weights;
    double *sums = room->blocks;
    const int64_t blocks = (size + BLOCK - 1) / BLOCK;
    double all = 0, before = 0;
    for (int64_t b = 0; b < blocks; b++) {
        vf sum = {};
        for (int64_t i = b * BLOCK; i < (b + 1) * BLOCK; i += LANES) sum += kept_lanes(weights, i, cut);
        sums[b] = lane_sum(sum);
        all += sums[b];
    }
    int64_t b = 0;
    for (; b < blocks - 1 && before + sums[b] <= u * all; b++) before += sums[b];
    const int64_t end = smaller(size, (b + 1) * BLOCK);
    for (int64_t i = b * BLOCK; i < end; i++)
        if (kept(weights[i], i, cut) && (before += weights[i]) > u * all) return i;
    /* The two ways of summing a block may differ in the last bits: then the last candidate is meant. */
    for (int64_t i = end - 1; i > 0; i--)
        if (kept(weights[i], i, cut)) return i;
    return 0;
}

/* The largest logit; NaN where any is NaN, infinite where a choice is impossible. */
static float largest_logit(const float *logits, int64_t size) {
    vf most = broadcast(-INFINITY);
    vi bad = {};
    float rest = -INFINITY;
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const vf x = load(logits + i);
        bad |= x != x;
        most = vector_max(most, x);
    }
    for (; i < size; i++) {
        if (logits[i] != logits[i]) return NAN;
        rest = logits[i] > rest ? logits[i] : rest;
    }
    for (int lane = 0; lane < LANES; lane++)
        if (bad[lane]) return NAN;
    return lane_max(most) > rest ? lane_max(most) : rest;
}

static int64_t sample_row(const float *logits, int64_t size, const struct choice *choice) {
    const float most = largest_logit(logits, size);
    if (!isfinite(most)) return -1;
    if (choice->temperature == 0)
        for (int64_t i = 0; i < size; i++)
            if (logits[i] == most) return i;

    const int64_t padded = (size + BLOCK - 1) / BLOCK * BLOCK;
    struct scratch *room = scratch(padded);
    if (!room) return -2;
    float *weights = room->weights;
    /* A temperature too small for a float must not become 0, by which 0 cannot be divided. */
    const float temperature = fmaxf((float)choice->temperature, FLT_MIN);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        store(weights + i, vector_exp((load(logits + i) - most) / broadcast(temperature)));
    for (; i < size; i++) weights[i] = vector_exp(broadcast((logits[i] - most) / temperature))[0];
    for (; i < padded; i++) weights[i] = 0;

    /* The largest weight is exp(0) = 1, so min_p is a weight. */
    struct cut cut = {0, -1};
    if (choice->min_p > 0) cut = (struct cut){(float)choice->min_p, INT32_MAX};
    if (choice->top_k > 0 && choice->top_k < size) cut = narrow(room, size, cut, choice->top_k, INFINITY);
    if (choice->top_p < 1) cut = narrow(room, size, cut, INT64_MAX, choice->top_p);
    return invert(room, size, cut, uniform(choice->seed, choice->position));
}

struct sample_call {
    const float *logits;
    int64_t size;
    const struct choice *choices;
    int64_t *tokens;
};

static void sample_units(const void *context, int64_t first, int64_t last) {
    const struct sample_call *call = context;
    for (int64_t row = first; row < last; row++)
        call->tokens[row] = sample_row(call->logits + row * call->size, call->size, &call->choices[row]);
}

/* tokens [rows] from logits [rows, size]. -1: the row holds a NaN or an infinity, or nothing to choose; -2: no memory.
 * Filters in this order: min_p, top_k, then top_p of what these leave. */
void EXPORT(sample)(const float *logits, int64_t rows, int64_t size, const struct choice *choices, int64_t *tokens) {
    const struct sample_call call = {logits, size, choices, tokens};
    phalanx_parallel(sample_units, &call, rows, 10.0 * rows * size);
}

struct logprob_call {
    const float *logits;
    int64_t size, top;
    const int64_t *tokens;
    double *logprobs;
    int64_t *ranks, *top_ids;
    double *top_logprobs;
};

static void logprob_row(const struct logprob_call *call, int64_t row) {
    const int64_t size = call->size, top = call->top;
    const float *x = call->logits + row * size, most = largest_logit(x, size), own = x[call->tokens[row]];
    double sum = 0;
    int64_t above = 0, found = 0;
    for (int64_t first = 0; first < size; first += BLOCK) {
        const int64_t end = smaller(size, first + BLOCK);
        vf part = {};
        vi larger_ones = {};
        int64_t i = first;
        for (; i + LANES <= end; i += LANES) {
            part += vector_exp(load(x + i) - most);
            larger_ones -= load(x + i) > own;
        }
        sum += lane_sum(part);
        for (int lane = 0; lane < LANES; lane++) above += larger_ones[lane];
        for (; i < end; i++) {
            sum += vector_exp(broadcast(x[i] - most))[0];
            above += x[i] > own;
        }
    }
    const double whole = most + log(sum);
    call->logprobs[row] = own - whole;
    call->ranks[row] = above + 1;

    int64_t *ids = call->top_ids + row * top;
    double *values = call->top_logprobs + row * top;
    for (int64_t i = 0; i < size && top; i++) {
        if (found == top && !(x[i] > values[top - 1])) continue;
        int64_t at = found < top ? found++ : top - 1;
        for (; at > 0 && x[i] > values[at - 1]; at--) ids[at] = ids[at - 1], values[at] = values[at - 1];
        ids[at] = i;
        values[at] = x[i];
    }
    for (int64_t i = 0; i < top; i++) values[i] -= whole;
}

static void logprob_units(const void *context, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) logprob_row(context, row);
}

/* log-softmax of logits [rows, size]: of tokens[row], with its rank (1: no logit is larger), and of the `top` most
 * likely ids in order, lower ids first among equals. */
void EXPORT(log_probabilities)(const float *logits, int64_t rows, int64_t size, const int64_t *tokens, int64_t top,
                               double *logprobs, int64_t *ranks, int64_t *top_ids, double *top_logprobs) {
    const struct logprob_call call = {logits, size, top, tokens, logprobs, ranks, top_ids, top_logprobs};
    phalanx_parallel(logprob_units, &call, rows, 10.0 * rows * size);
}

struct penalties {
    double repetition, frequency, presence;
};

/* In a type that holds the largest logit divided by the smallest penalty. */
static long double penalised(float logit, int32_t times, const struct penalties *by) {
    const long double repetition = by->repetition;
    const long double value = logit > 0 ? logit / repetition : logit * repetition;
    return times ? value - by->frequency * times - by->presence : value;
}

/* Penalties that give more than a float holds: the largest become the largest float. All others are so far below
 * that no temperature makes them likely, which half of it says as well. */
static void penalise_beyond_floats(float *logits, const int32_t *tokens, int64_t count, int32_t *seen, int32_t done,
                                   const struct penalties *by) {
    long double most = -INFINITY;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < count; i++) {
            float *logit = &logits[tokens[i]];
            if (seen[tokens[i]] & done) continue;
            const long double value = penalised(*logit, seen[tokens[i]], by);
            if (pass == 0) {
                most = value > most ? value : most;
                continue;
            }
            *logit = value < 0 ? -FLT_MAX : value == most ? FLT_MAX : FLT_MAX / 2;
            seen[tokens[i]] |= done;
        }
}

/* Penalise one row in place. tokens: prompt, then output from `prompt` on. Repetition (Keskar et al., CTRL, 2019)
 * counts both; frequency and presence, as OpenAI defines them, count the output. */
int64_t EXPORT(penalise)(float *logits, int64_t size, const int32_t *tokens, int64_t count, int64_t prompt,
                         double repetition, double frequency, double presence) {
    enum { DONE = 1 << 30 };
    const struct penalties by = {repetition, frequency, presence};
    int beyond = 0;
    int32_t *seen = calloc(size, sizeof *seen);
    if (!seen) return -2;
    for (int64_t i = prompt; i < count; i++) seen[tokens[i]]++;
    for (int64_t i = 0; i < count; i++) {
        float *logit = &logits[tokens[i]];
        const int32_t times = seen[tokens[i]];
        if (times & DONE) continue;
        float value = (float)(*logit > 0 ? *logit / repetition : *logit * repetition);
        if (times) value = (float)(value - frequency * times - presence);
        if (isfinite(*logit) && !isfinite(value)) {
            beyond = 1;
            continue;
        }
        *logit = value;
        seen[tokens[i]] |= DONE;
    }
    if (beyond) penalise_beyond_floats(logits, tokens, count, seen, DONE, &by);
    free(seen);
    return 0;
}
