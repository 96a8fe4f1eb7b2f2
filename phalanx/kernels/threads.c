#define _GNU_SOURCE
#include "threads.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WORTH_SHARING 100e3
/* How long an idle thread watches for the next loop before it sleeps: longer than the gap between two kernels. */
#define SPIN_NANOSECONDS 100000

static _Atomic int wanted = 1; /* threads, the caller among them; the futex that those beyond it sleep on */
static int started = 1;

/* One loop at a time. A claim is one addition to `ticket`, which holds the loop's groups and, in its lower half, the
 * next one: a thread that comes late to a loop which is over sees so in the value it gets, and touches nothing. A group
 * that was claimed keeps its loop open, so the other fields stay as they are. */
static struct {
    _Atomic uint64_t ticket;
    _Atomic uint32_t loop; /* number of the loop, and the futex that idle threads sleep on */
    _Atomic int sleeping;
    _Atomic int64_t done;
    atomic_flag busy;
    task *run;
    const void *context;
    int64_t units, groups;
} pool = {.busy = ATOMIC_FLAG_INIT};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static void claim_groups(void) {
    for (;;) {
        const uint64_t ticket = atomic_fetch_add(&pool.ticket, 1);
        const int64_t group = ticket & UINT32_MAX, groups = ticket >> 32;
        if (group >= groups) return;
        pool.run(pool.context, pool.units * group / groups, pool.units * (group + 1) / groups);
        atomic_fetch_add(&pool.done, 1);
    }
}

static void *worker(void *number) {
    uint32_t seen = 0;
    for (;;) {
        /* One that is not wanted any more may not even watch for loops: its CPU is another process's by now. */
        for (int now; (intptr_t)number >= (now = atomic_load(&wanted));)
            syscall(SYS_futex, &wanted, FUTEX_WAIT_PRIVATE, now, 0, 0, 0);
        int64_t until = 0;
        for (int i = 1; atomic_load(&pool.loop) == seen; i++) {
            relax();
            if (i % 64) continue;
            const int64_t now = nanoseconds();
            if (!until) until = now + SPIN_NANOSECONDS;
            if (now < until) continue;
            atomic_fetch_add(&pool.sleeping, 1);
            syscall(SYS_futex, &pool.loop, FUTEX_WAIT_PRIVATE, seen, 0, 0, 0);
            atomic_fetch_sub(&pool.sleeping, 1);
            until = 0;
        }
        seen = atomic_load(&pool.loop);
        if ((intptr_t)number < wanted) claim_groups();
    }
    return 0;
}

void phalanx_parallel(task *run, const void *context, int64_t units, double work) {
    /* Also when called from a second thread at once: it does its own work, beside the pool. */
    if (wanted == 1 || units < 2 || work < WORTH_SHARING || atomic_flag_test_and_set(&pool.busy)) {
        if (units) run(context, 0, units);
        return;
    }
    /* Few claims where units abound, yet enough of them that a slow thread's last one is not waited for long. */
    const int64_t most = 16 * (int64_t)wanted;
    pool.groups = units < most ? units : most;
    pool.run = run, pool.context = context, pool.units = units;
    atomic_store(&pool.done, 0);
    atomic_store(&pool.ticket, (uint64_t)pool.groups << 32);
    atomic_fetch_add(&pool.loop, 1);
    if (atomic_load(&pool.sleeping)) syscall(SYS_futex, &pool.loop, FUTEX_WAKE_PRIVATE, 1 << 30, 0, 0, 0);
    claim_groups();
    for (int i = 1; atomic_load(&pool.done) < pool.groups; i++) {
        relax();
        if (i % 1024 == 0) sched_yield(); /* whoever holds the last group may need this core */
    }
    atomic_flag_clear(&pool.busy);
}

/* Threads are started as they are first wanted, and stay. */
void phalanx_set_threads(int threads) {
    for (; started < threads; started++) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&thread, &attributes, worker, (void *)(intptr_t)started);
        pthread_attr_destroy(&attributes);
        if (failed) break;
    }
    wanted = threads < started ? threads : started;
    syscall(SYS_futex, &wanted, FUTEX_WAKE_PRIVATE, 1 << 30, 0, 0, 0);
}

const char *phalanx_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return "avx512";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return "avx2";
#endif
    return "baseline";
}

/* Digest of the C sources this was compiled from. */
const char *phalanx_sources(void) { return SOURCES; }
