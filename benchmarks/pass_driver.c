/* Runs the pass of the C library on a million parameters: `driver KIND PASSES`. */
#include "native.c"

int main(int count, char **words) {
    if (count != 3) return 2;
    const int64_t n = 1 << 20;
    float *p = malloc(4 * n), *g = malloc(4 * n), *means = calloc(n, 4);
    for (int64_t i = 0; i < n; i++) p[i] = 1, g[i] = (float)(i % 7) - 2.5f;
    const int64_t table[5] = {(int64_t)p, (int64_t)g, n, 1, (int64_t)means};
    const int kind = words[1][0] == 'b' ? FLOAT32_BFLOAT16_MEANS : FLOAT32, has_means = words[1][0] != 'f';
    for (int pass = 0; pass < atoi(words[2]); pass++)
        lossaware_push(kind, 1, table, 3, 1e-3, has_means ? 1.0 : 0.01, has_means ? 0.1 : 0.0, 0, has_means, 1, NULL);
    return p[0] == 1; /* it did not move */
}
