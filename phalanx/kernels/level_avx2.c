#if defined(__x86_64__)
#pragma GCC target("avx2,fma,bmi2")
#define LEVEL avx2
#include "kernels.h"
#endif
