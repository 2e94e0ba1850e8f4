/*
 * What MPI's own collectives take, in plain C: the reference that scripts/bench-collectives.sh compares longnet bench collectives with.
 *
 *   mpicc -O3 -march=native collectives.c -o collectives
 *   mpiexec -n 2 ./collectives ROUNDS BYTES [BYTES ...]
 *
 * Prints one line per operation and size, from rank 0: operation, bytes, best and median seconds per call, separated by tabs.
 * Bytes are those of the larger buffer, as nccl-tests count them: what an all-gather leaves on each rank, what a reduce-scatter takes
 * from each. The rule of measuring is that of src/Trainer/Measuring/CollectiveBenchmark.cs: a round is a barrier and then calls back to
 * back, and its time is that of the slowest rank, per call; rounds before the first that counts warm everything up.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_CALLS = 64 };
static const long BYTES_PER_ROUND = 16L << 20;
static const double WARMUP_SECONDS = 0.3;

static int ranks, rank;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *name, long bytes, int rounds, void (*call)(float *, float *, int))
{
    int part = (int)(bytes / (long)sizeof(float) / ranks);
    float *large = malloc((size_t)part * ranks * sizeof(float)), *small = malloc((size_t)part * sizeof(float));
    double *times = malloc(rounds * sizeof(double));
    if (!large || !small || !times) {
        fprintf(stderr, "collectives: no memory for %ld bytes\n", bytes);
        MPI_Abort(MPI_COMM_WORLD, 2);
        return;
    }
    /* Written once, so that no page is missing when it counts. */
    for (long i = 0; i < (long)part * ranks; i++)
        large[i] = (float)(i % 1000) * 1e-3f;
    for (int i = 0; i < part; i++)
        small[i] = (float)rank;

    long calls = BYTES_PER_ROUND / bytes;
    calls = calls < 1 ? 1 : calls > MOST_CALLS ? MOST_CALLS : calls;
    double warm = 0;
    for (int round = 0; round < rounds;) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        for (long i = 0; i < calls; i++)
            call(large, small, part);
        double own = MPI_Wtime() - start, slowest;
        MPI_Allreduce(&own, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        /* Ranks agree about the time, so they warm up for as many rounds. */
        if (warm < WARMUP_SECONDS)
            warm += slowest;
        else
            times[round++] = slowest / calls;
    }
    qsort(times, rounds, sizeof(double), ascending);
    if (rank == 0)
        printf("%s\t%ld\t%.9f\t%.9f\n", name, bytes, times[0], (times[(rounds - 1) / 2] + times[rounds / 2]) / 2);
    free(large);
    free(small);
    free(times);
}

static void all_gather(float *large, float *small, int part)
{
    MPI_Allgather(small, part, MPI_FLOAT, large, part, MPI_FLOAT, MPI_COMM_WORLD);
}

static void reduce_scatter(float *large, float *small, int part)
{
    MPI_Reduce_scatter_block(large, small, part, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

int main(int count, char **arguments)
{
    MPI_Init(&count, &arguments);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    int rounds = count > 2 ? atoi(arguments[1]) : 0;
    if (rounds < 1) {
        if (rank == 0)
            fprintf(stderr, "usage: mpiexec -n RANKS collectives ROUNDS BYTES [BYTES ...]\n");
        MPI_Finalize();
        return 2;
    }
    for (int i = 2; i < count; i++) {
        long bytes = atol(arguments[i]);
        if (bytes < ranks * (long)sizeof(float) || bytes > 1L << 30) {
            if (rank == 0)
                fprintf(stderr, "collectives: %s is no number of bytes from %zu to %ld\n", arguments[i], ranks * sizeof(float), 1L << 30);
            MPI_Abort(MPI_COMM_WORLD, 2);
        }
        measure("all_gather", bytes, rounds, all_gather);
        measure("reduce_scatter", bytes, rounds, reduce_scatter);
    }
    MPI_Finalize();
    return 0;
}
