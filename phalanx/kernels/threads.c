/* What the levels share: the number of threads, and which level this machine can run. */
int phalanx_threads = 1;

void phalanx_set_threads(int threads) { phalanx_threads = threads; }

const char *phalanx_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return "avx512";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return "avx2";
#endif
    return "baseline";
}
