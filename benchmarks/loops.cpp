// The loops of compiled optimizer steps, with LGA and without.
//
// Loops in vectors (`Vectorized`) do what torch's compiler generates, operation by operation; the generated code is shown by
// TORCH_LOGS=output_code. Plain loops are written by hand: the C++ compiler makes vectors of them, with the scalars and masks
// in registers.

#include <torch/csrc/inductor/cpp_prefix.h>

using Vector = at::vec::Vectorized<float>;
using Mask = at::vec::VecMask<float, 1>;
constexpr long WIDTH = Vector::size(), PIECE = 64, FAR = 512;
constexpr float XI = 0.01f, WEIGHT = 0.1f;

struct Data {
    const double *rate; // the negated learning rate; Adam: also the two numbers of its bias correction
    const float *amount;
    const bool *stays; // whether the amount is 0
    const float *gradients;
    float *parameters, *means, *squares;
};

// Eq. 5 as LGA writes it for torch's compiler: xi without comparisons.
static inline Vector positive_part(Vector x) { return at::vec::clamp_min(x, Vector(0.f)); }

static inline Vector push(Vector read, Vector amount) {
    auto far = read * Vector(0x1p127f) * Vector(0x1p127f);
    return amount / (read + (Vector(XI) - positive_part(Vector(2 * XI) - positive_part(far + Vector(2 * XI)))));
}

static inline Vector or_rest(Vector mean, Vector push) {
    auto rests = Mask(mean == Vector(0.f));
    return Vector::blendv(push, Vector(0.f), rests.template cast<float, 1>());
}

// By masks, as it was written before.
static inline Vector masked_push(Vector read, Vector amount) {
    auto positive = Mask(read >= Vector(0.f));
    return amount / (read + Vector::blendv(Vector(-XI), Vector(XI), positive.template cast<float, 1>()));
}

static inline Vector sgd_of(const Data &data, Vector g, long x) {
    return fmadd(g, Vector(c10::convert<float>(data.rate[0])), Vector::loadu(data.parameters + x, WIDTH));
}

// A pointer may point to anything that the loop writes, so the compiler loads what it points to for each vector.
#define GENERATED(NAME, ...)                                                                                           \
    extern "C" void NAME(const Data &given, long n) {                                                                  \
        const Data data = given;                                                                                       \
        for (long x = 0; x < n; x += WIDTH) {                                                                          \
            auto g = Vector::loadu(data.gradients + x, WIDTH);                                                         \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    }

GENERATED(sgd, sgd_of(data, g, x).store(data.parameters + x);)
GENERATED(sgd_lga, (sgd_of(data, g, x) - push(g, Vector(data.amount[0]))).store(data.parameters + x);)
GENERATED(sgd_lga_masked, (sgd_of(data, g, x) - masked_push(g, Vector(data.amount[0]))).store(data.parameters + x);)
GENERATED(sgd_lga_checked, {
    auto moved = sgd_of(data, g, x);
    auto stays = Mask::from(data.stays[0]);
    auto by = masked_push(g, Vector(data.amount[0]));
    (moved - Vector::blendv(by, Vector(0.f), stays.template cast<float, 1>())).store(data.parameters + x);
})

#define MEAN                                                                                                           \
    auto before = Vector::loadu(data.means + x, WIDTH);                                                                \
    auto mean = before + (g - before) * Vector(WEIGHT);                                                                \
    auto moved = sgd_of(data, g, x);
GENERATED(sgd_means, MEAN (moved - or_rest(mean, push(mean, Vector(data.amount[0])))).store(data.parameters + x);
          mean.store(data.means + x);)
GENERATED(sgd_means_masked, MEAN (moved - or_rest(mean, masked_push(mean, Vector(data.amount[0])))).store(data.parameters + x);
          mean.store(data.means + x);)

#define ADAM                                                                                                           \
    auto before = Vector::loadu(data.means + x, WIDTH), squares = Vector::loadu(data.squares + x, WIDTH);              \
    auto mean = before + (g - before) * Vector(0.1f);                                                                  \
    squares = fmadd(g * g, Vector(0.001f), squares * Vector(0.999f));                                                  \
    auto size = squares.sqrt() / Vector(c10::convert<float>(data.rate[1]));                                            \
    auto moved = Vector::loadu(data.parameters + x, WIDTH) + mean / (size + Vector(c10::convert<float>(data.rate[2]))); \
    mean.store(data.means + x);                                                                                        \
    squares.store(data.squares + x);
GENERATED(adam, ADAM moved.store(data.parameters + x);)
GENERATED(adam_lga, ADAM (moved - push(g, Vector(data.amount[0]))).store(data.parameters + x);)
GENERATED(adam_lga_masked, ADAM (moved - masked_push(g, Vector(data.amount[0]))).store(data.parameters + x);)

// By hand. The loops end at `end`, so that a part of the data can be processed.
#define BY_HAND(NAME, ...)                                                                                             \
    static inline void NAME##_part(const Data &data, long from, long end) {                                            \
        const float *__restrict g = data.gradients;                                                                    \
        float *__restrict p = data.parameters, *__restrict m = data.means;                                             \
        const float rate = (float)data.rate[0], amount = data.amount[0];                                               \
        (void)m, (void)rate;                                                                                           \
        _Pragma("omp simd") for (long i = from; i < end; i++) { __VA_ARGS__ }                                          \
    }                                                                                                                  \
    extern "C" void NAME(const Data &data, long n) { NAME##_part(data, 0, n); }

// With memory that is needed soon asked for before each piece.
#define FETCHED(NAME, FETCH_MEANS)                                                                                     \
    extern "C" void NAME##_fetched(const Data &data, long n) {                                                               \
        for (long from = 0; from < n; from += PIECE) {                                                                 \
            for (long i = from + FAR; i < from + FAR + PIECE; i += 16) {                                               \
                __builtin_prefetch(data.gradients + i);                                                                \
                __builtin_prefetch(data.parameters + i);                                                               \
                if (FETCH_MEANS) __builtin_prefetch(data.means + i);                                                   \
            }                                                                                                          \
            NAME##_part(data, from, from + PIECE < n ? from + PIECE : n);                                              \
        }                                                                                                              \
    }

#define PUSHED(READ) (amount / (READ + (READ >= 0 ? XI : -XI)))
BY_HAND(hand_division, p[i] = amount / g[i];)
BY_HAND(hand_lga, p[i] = __builtin_fmaf(g[i], rate, p[i]) - PUSHED(g[i]);)
BY_HAND(hand_multiplied, p[i] = __builtin_fmaf(g[i], rate, p[i]) - amount * (g[i] + (g[i] >= 0 ? XI : -XI));)
BY_HAND(hand_means, {
    const float mean = m[i] + WEIGHT * (g[i] - m[i]);
    const float by = PUSHED(mean);
    m[i] = mean;
    p[i] = __builtin_fmaf(g[i], rate, p[i]) - (mean == 0 ? 0 : by);
})
FETCHED(hand_lga, 0)
FETCHED(hand_means, 1)

extern "C" void repeated(void (*loop)(const Data &, long), const Data &data, long n, long times) {
    for (long i = 0; i < times; i++) loop(data, n);
}
