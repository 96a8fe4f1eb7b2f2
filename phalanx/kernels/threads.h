/* A pool of threads that never waits for one the system does not run.
 *
 * OpenMP ends every loop with a barrier of all threads. Where another process wants the same core, each barrier then
 * costs a time slice, milliseconds, and a step has hundreds. Here threads claim units of work one after another: a
 * thread that is off its core claims none, and the caller, if need be, does everything itself.
 */
#pragma once
#include <stdint.h>

/* Do units first ... last-1. */
typedef void task(const void *context, int64_t first, int64_t last);

/* Do units 0 ... units-1, spread over the threads, and return when all are done. `work` is the number of floating-point
 * operations, roughly: what is too little for waking anybody is done by the caller. */
void phalanx_parallel(task *run, const void *context, int64_t units, double work);

void phalanx_set_threads(int threads);
