/* What the compiler may use anywhere: SSE2 on x86-64, NEON on aarch64. */
#define LEVEL baseline
#include "kernels.h"
