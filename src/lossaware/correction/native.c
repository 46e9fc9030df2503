/* The correction in one pass over parameters, gradients and their means on a CPU; see native.py, and operators.py for
 * the meaning.
 *
 * Plain loops that compilers turn into vector code. The arithmetic is that of the torch form, operation for operation
 * and each rounded, so that both give the same bits.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

/* Types of the parameters, and of their gradients where that is another. */
enum { FLOAT32, FLOAT64, BFLOAT16, BFLOAT16_FLOAT32, FLOAT16, FLOAT16_FLOAT32, FLOAT32_BFLOAT16_MEANS };

enum { AHEAD = 8, FETCHED = 256 }; /* tensors and bytes that are asked for before they are read */

typedef struct {
    int64_t count;             /* tensors */
    const int64_t *parameters; /* where each lies */
    const int64_t *gradients;
    const int64_t *sizes;      /* elements of each */
    const int64_t *numbers;    /* of each in the step; for 16 bits only */
    const int64_t *means;      /* where that of the gradients of each lies; NULL where phi reads the gradients */
    int64_t total;             /* elements of all */
    int64_t shares, next;      /* pieces of work, and the first that nobody has taken */
    double amount, xi;
    double weight; /* of a gradient in its mean */
    uint32_t seed;
    int kind, maximize, rest;
} Work;

/* A hash of 32 bits that spreads every bit of its argument over all of the result. */
static inline uint32_t mixed(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x45d9f3bu;
    x = (x ^ (x >> 16)) * 0x45d9f3bu;
    return x ^ (x >> 16);
}

/* Where the noise of a tensor in this step begins, by its number. */
static inline uint32_t key_of(const Work *w, int64_t number) {
    return mixed(mixed(w->seed) + (uint32_t)number * 0x9e3779b9u);
}

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* The number, or the number negated, for a mask of 0 or of the bit of the sign. */
static inline float signed_float(float value, uint32_t mask) { return as_float(as_bits(value) ^ mask); }

static inline double signed_double(double value, uint64_t mask) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    bits ^= mask;
    memcpy(&value, &bits, 8);
    return value;
}

/* What phi reads of an element: its gradient, or the mean, which takes the gradient in first; and the push by that. */
#define REAL_ARITHMETIC(REAL, BITS)                                                                                   \
    static inline REAL read_##REAL(REAL g, REAL *restrict mean, int64_t i, REAL weight, int means) {                  \
        return means ? (mean[i] = mean[i] + weight * (g - mean[i])) : g;                                              \
    }                                                                                                                 \
    static inline REAL over_phi_##REAL(REAL g, REAL amount, REAL xi, BITS negated, int rest) {                        \
        REAL d = signed_##REAL(g, negated);                                                                           \
        REAL push = amount / (d + (d >= 0 ? xi : -xi));                                                               \
        return rest && d == 0 ? 0 : push;                                                                             \
    }
REAL_ARITHMETIC(float, uint32_t)
REAL_ARITHMETIC(double, uint64_t)

#define MEMORY_OF(TENSORS) (void *)(intptr_t)(TENSORS)[tensor]
#define MEANS_OF(w) ((w)->means ? MEMORY_OF((w)->means) : NULL)
#define PART const Work *w, int64_t tensor, int64_t from, int64_t to, int rest, int means
#define SIGN(w, BITS) ((w)->maximize ? (BITS)1 << (8 * sizeof(BITS) - 1) : 0)

/* Ask for a piece of memory before it is read: processors look ahead too little for loops that also divide. */
enum { PIECE = 64, FAR = 512 }; /* elements */
static inline void fetch_ahead(const void *piece, size_t size) {
    const char *first = (const char *)piece + FAR * size;
    for (size_t byte = 0; byte < PIECE * size; byte += 64) __builtin_prefetch(first + byte);
}

#define WIDE(REAL, BITS)                                                                                              \
    static inline void push_##REAL(PART) {                                                                            \
        REAL *restrict p = MEMORY_OF(w->parameters), *restrict mean = MEANS_OF(w);                                    \
        const REAL *restrict g = MEMORY_OF(w->gradients);                                                             \
        const REAL amount = (REAL)w->amount, xi = (REAL)w->xi, weight = (REAL)w->weight;                              \
        const BITS negated = SIGN(w, BITS);                                                                           \
        for (int64_t i = from; i < to;) {                                                                             \
            const int64_t end = i + PIECE < to ? i + PIECE : to;                                                      \
            fetch_ahead(p + i, sizeof(REAL));                                                                         \
            fetch_ahead(g + i, sizeof(REAL));                                                                         \
            if (means) fetch_ahead(mean + i, sizeof(REAL));                                                           \
            for (; i < end; i++)                                                                                      \
                p[i] -= over_phi_##REAL(read_##REAL(g[i], mean, i, weight, means), amount, xi, negated, rest);        \
        }                                                                                                             \
    }
WIDE(float, uint32_t)
WIDE(double, uint64_t)

/* Up or down at random to a multiple of 2^dropped units in the last place; NaN, whose bits would run over, stays. */
static inline uint32_t rounded_bits(float value, uint32_t noise, int dropped) {
    uint32_t mask = (1u << dropped) - 1, bits = as_bits(value);
    return value != value ? bits : (bits + (noise & mask)) & ~mask;
}

static inline float from_float(float value) { return value; }
static inline float from_bfloat16(uint16_t bits) { return as_float((uint32_t)bits << 16); }

#define BFLOAT16_BY(GRADIENT, STORED)                                                                                 \
    static inline void push_bfloat16_by_##GRADIENT(PART) {                                                            \
        uint16_t *restrict p = MEMORY_OF(w->parameters);                                                              \
        float *restrict mean = MEANS_OF(w);                                                                           \
        const STORED *restrict g = MEMORY_OF(w->gradients);                                                           \
        const float amount = (float)w->amount, xi = (float)w->xi, weight = (float)w->weight;                          \
        const uint32_t key = key_of(w, w->numbers[tensor]), negated = SIGN(w, uint32_t);                                          \
        for (int64_t i = from; i < to; i++) {                                                                         \
            float value = from_bfloat16(p[i]), read = read_float(from_##GRADIENT(g[i]), mean, i, weight, means);      \
            value -= over_phi_float(read, amount, xi, negated, rest);                                                 \
            p[i] = rounded_bits(value, mixed(key + (uint32_t)i), 16) >> 16;                                           \
        }                                                                                                             \
    }
BFLOAT16_BY(bfloat16, uint16_t)
BFLOAT16_BY(float, float)

/* Means of 16 bits: phi reads each before it is rounded. */
static inline void push_float_by_bfloat16_means(PART) {
    float *restrict p = MEMORY_OF(w->parameters);
    uint16_t *restrict mean = MEANS_OF(w);
    const float *restrict g = MEMORY_OF(w->gradients);
    const float amount = (float)w->amount, xi = (float)w->xi, weight = (float)w->weight;
    const uint32_t key = key_of(w, -w->numbers[tensor]), negated = SIGN(w, uint32_t);
    for (int64_t i = from; i < to; i++) {
        const float before = from_bfloat16(mean[i]), read = before + weight * (g[i] - before);
        mean[i] = rounded_bits(read, mixed(key + (uint32_t)i), 16) >> 16;
        p[i] -= over_phi_float(read, amount, xi, negated, rest);
    }
}

#ifdef __FLT16_MAX__
#define HAS_FLOAT16 1
enum { BLOCK = 512 };

/* Compilers convert float16 one by one unless told otherwise. */
static inline void widen(const _Float16 *from, float *to, int64_t n) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
    for (; i < n; i++) to[i] = (float)from[i];
}

static inline void narrow(const float *from, _Float16 *to, int64_t n) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < n; i++) to[i] = (_Float16)from[i];
}

static inline void push_float16(PART, int by_float) {
    _Float16 *p = MEMORY_OF(w->parameters);
    float *mean = MEANS_OF(w);
    const float amount = (float)w->amount, xi = (float)w->xi, weight = (float)w->weight;
    const uint32_t key = key_of(w, w->numbers[tensor]), negated = SIGN(w, uint32_t);
    float values[BLOCK], widened[BLOCK];
    for (; from < to; from += BLOCK) {
        const int64_t n = to - from < BLOCK ? to - from : BLOCK;
        const float *gradients = widened;
        float *means_here = means ? mean + from : widened;
        widen(p + from, values, n);
        if (by_float) gradients = (const float *)MEMORY_OF(w->gradients) + from;
        else widen((const _Float16 *)MEMORY_OF(w->gradients) + from, widened, n);
        for (int64_t i = 0; i < n; i++) {
            float read = read_float(gradients[i], means_here, i, weight, means);
            float value = values[i] - over_phi_float(read, amount, xi, negated, rest);
            /* Below 2^-14 the spacing of float16 stays that of 2^-14; lifted there, all values round alike. */
            float lift = __builtin_fabsf(value) < 0x1p-14f ? __builtin_copysignf(0x1p-14f, value) : 0;
            float rounded = as_float(rounded_bits(value + lift, mixed(key + (uint32_t)(from + i)), 13)) - lift;
            values[i] = __builtin_copysignf(rounded, value); /* -0.0 stays */
        }
        narrow(values, p + from, n);
    }
}
#else
#define HAS_FLOAT16 0
static inline void push_float16(PART, int by_float) {}
#endif

static inline void push_float16_by_float16(PART) { push_float16(w, tensor, from, to, rest, means, 0); }
static inline void push_float16_by_float(PART) { push_float16(w, tensor, from, to, rest, means, 1); }

/* The switches are constants in each copy of the loop, so that none is tested within it. */
#define SWITCHED(PUSH)                                                                                                \
    do {                                                                                                              \
        if (w->means && w->rest) PUSH(w, tensor, from, to, 1, 1);                                                     \
        else if (w->means) PUSH(w, tensor, from, to, 0, 1);                                                           \
        else if (w->rest) PUSH(w, tensor, from, to, 1, 0);                                                            \
        else PUSH(w, tensor, from, to, 0, 0);                                                                         \
    } while (0)

static void push_part(const Work *w, int64_t tensor, int64_t from, int64_t to) {
    switch (w->kind) {
    case FLOAT32: SWITCHED(push_float); break;
    case FLOAT64: SWITCHED(push_double); break;
    case BFLOAT16: SWITCHED(push_bfloat16_by_bfloat16); break;
    case BFLOAT16_FLOAT32: SWITCHED(push_bfloat16_by_float); break;
    case FLOAT16: SWITCHED(push_float16_by_float16); break;
    case FLOAT16_FLOAT32: SWITCHED(push_float16_by_float); break;
    case FLOAT32_BFLOAT16_MEANS: SWITCHED(push_float_by_bfloat16_means); break;
    }
}

/* Takes one share after the other, each an equal part of all elements laid end to end, until none is left. */
static void work_on(void *argument) {
    Work *w = argument;
    const int64_t length = ((w->total + w->shares - 1) / w->shares + 63) & ~(int64_t)63;
    int64_t share;
    while ((share = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < w->shares) {
        const int64_t from = share * length, to = from + length;
        int64_t start = 0;
        for (int64_t tensor = 0; tensor < w->count && start < to; start += w->sizes[tensor++]) {
            const int64_t first = from > start ? from - start : 0;
            const int64_t last = to - start < w->sizes[tensor] ? to - start : w->sizes[tensor];
            if (first < last) push_part(w, tensor, first, last);
        }
    }
}

typedef struct {
    uintptr_t from, to;
} Range;

static int by_start(const void *a, const void *b) {
    const uintptr_t x = ((const Range *)a)->from, y = ((const Range *)b)->from;
    return (x > y) - (x < y);
}

/* Whether no two parameters share memory, so that threads may move them side by side. */
static int are_apart(const Work *w) {
    const int64_t width = w->kind == FLOAT64 ? 8 : w->kind == FLOAT32 || w->kind == FLOAT32_BFLOAT16_MEANS ? 4 : 2;
    Range *ranges = malloc((size_t)w->count * sizeof *ranges);
    if (!ranges) return 0;
    for (int64_t tensor = 0; tensor < w->count; tensor++) {
        ranges[tensor].from = (uintptr_t)w->parameters[tensor];
        ranges[tensor].to = ranges[tensor].from + (uintptr_t)(w->sizes[tensor] * width);
    }
    qsort(ranges, (size_t)w->count, sizeof *ranges, by_start);
    int apart = 1;
    uintptr_t end = 0;
    for (int64_t i = 0; i < w->count; i++) {
        if (ranges[i].from == ranges[i].to) continue;
        if (ranges[i].from < end) apart = 0;
        if (ranges[i].to > end) end = ranges[i].to;
    }
    free(ranges);
    return apart;
}

/* torch's functions for C, which read a tensor by a pointer to what it points to; each returns 0 unless it fails. */
typedef struct {
    int32_t (*device_type)(const int64_t *, int32_t *);
    int32_t (*layout)(const int64_t *, int32_t *);
    int32_t (*dtype)(const int64_t *, int32_t *);
    int32_t (*is_contiguous)(const int64_t *, _Bool *);
    int32_t (*dim)(const int64_t *, int64_t *);
    int32_t (*sizes)(const int64_t *, int64_t **);
    int32_t (*strides)(const int64_t *, int64_t **);
    int32_t (*numel)(const int64_t *, int64_t *);
    int32_t (*data_ptr)(const int64_t *, void **);
} Torch;

typedef struct {
    int64_t dimensions, elements;
    int64_t *sizes, *strides;
    void *memory;
    int32_t dtype;
    _Bool contiguous;
} Tensor;

/* A dense tensor on the CPU; 0 where it is another, or cannot be read. */
static int read_tensor(const Torch *torch, const int64_t *tensor, Tensor *read) {
    int32_t device, layout;
    return !torch->device_type(tensor, &device) && device == 0 && !torch->layout(tensor, &layout) && layout == 0 &&
           !torch->dtype(tensor, &read->dtype) && !torch->is_contiguous(tensor, &read->contiguous) &&
           !torch->dim(tensor, &read->dimensions) && !torch->sizes(tensor, &read->sizes) &&
           !torch->strides(tensor, &read->strides) && !torch->numel(tensor, &read->elements) &&
           !torch->data_ptr(tensor, &read->memory);
}

/* Whether the elements fill a piece of memory without gaps and overlaps, in whatever order. */
static int fills_memory(const Tensor *t) {
    int64_t filled = 1;
    while (filled < t->elements) {
        int64_t i = 0;
        while (i < t->dimensions && (t->sizes[i] == 1 || t->strides[i] != filled)) i++;
        if (i == t->dimensions) return 0;
        filled *= t->sizes[i];
    }
    return filled == t->elements;
}

/* Whether two tensors have one shape and lie in one order. */
static int are_alike(const Tensor *a, const Tensor *b) {
    const size_t bytes = (size_t)a->dimensions * sizeof *a->sizes;
    return a->dimensions == b->dimensions && !memcmp(a->sizes, b->sizes, bytes) &&
           ((a->contiguous && b->contiguous) || (!memcmp(a->strides, b->strides, bytes) && fills_memory(a)));
}

/* Ask for what torch knows of a tensor before it is read: of thousands of tensors, little is in the cache. */
static inline void fetch(int64_t tensor) {
    for (int offset = 0; offset < FETCHED; offset += 64) __builtin_prefetch((const char *)(intptr_t)tensor + offset);
}

/* Fill a table for lossaware_push, if all tensors are dense on the CPU, those of a row have one type, and each lies as
 * its parameter does; else return 0. `tensors` has a row for parameters, one for gradients, and one for means where
 * there are any; `first` is the number of the first parameter in the step. */
int lossaware_gather(const Torch *torch, int64_t count, const int64_t *tensors, int rows, int64_t first,
                     int64_t *table) {
    static const int row_of_table[] = {0, 1, 4};
    int32_t dtypes[3];
    for (int64_t i = 0; i < count; i++) {
        Tensor read[3];
        for (int row = 0; row < rows; row++)
            if (i + AHEAD < count) fetch(tensors[row * count + i + AHEAD]);
        for (int row = 0; row < rows; row++) {
            if (!read_tensor(torch, tensors + row * count + i, read + row)) return 0;
            if (i == 0) dtypes[row] = read[row].dtype;
            if (read[row].dtype != dtypes[row] || (row > 0 && !are_alike(read, read + row))) return 0;
            table[row_of_table[row] * count + i] = (int64_t)(intptr_t)read[row].memory;
        }
        table[2 * count + i] = read[0].elements;
        table[3 * count + i] = first + i;
    }
    return 1;
}

int lossaware_has_float16(void) { return HAS_FLOAT16; }

/* `table` has rows of `count` numbers: where the parameters lie, where the gradients, the elements of each, and the
 * number of each in the step; and, if `weight` is above 0, where the means of the gradients lie. `parallel` is
 * GOMP_parallel of the OpenMP runtime that torch runs on, so that its threads are used and no others are made; NULL
 * where there is none. */
void lossaware_push(int kind, int64_t count, const int64_t *table, uint32_t seed, double amount, double xi,
                    double weight, int maximize, int rest, int threads,
                    void (*parallel)(void (*)(void *), void *, unsigned, unsigned)) {
    const int64_t worthwhile = 1 << 15; /* elements below which waking a thread costs more than it saves */
    Work work = {.count = count, .parameters = table, .gradients = table + count, .sizes = table + 2 * count,
                 .numbers = table + 3 * count, .means = weight > 0 ? table + 4 * count : NULL, .shares = 1,
                 .amount = amount, .xi = xi, .weight = weight, .seed = seed, .kind = kind, .maximize = maximize,
                 .rest = rest};
    for (int64_t tensor = 0; tensor < count; tensor++) work.total += work.sizes[tensor];
    if (parallel && threads > 1 && work.total >= 2 * worthwhile && are_apart(&work)) {
        work.shares = 4 * threads < work.total / worthwhile ? 4 * threads : work.total / worthwhile;
        parallel(work_on, &work, (unsigned)threads, 0);
    } else {
        work_on(&work);
    }
}
