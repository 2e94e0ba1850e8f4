using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using TorchSharp;

namespace LongNet.Core.Native;

/// <summary>
/// Runs work on the threads that libtorch computes with. They wait for their next work in a loop for some milliseconds
/// before they sleep, so threads of our own would share the cores with them.
/// </summary>
internal static unsafe class TensorThreads
{
    // void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags), of GNU's and LLVM's
    // OpenMP. Null where libtorch was built with another one: then .NET's own threads do the work.
    private static readonly delegate* unmanaged<delegate* unmanaged<nint, void>, nint, uint, uint, void> Parallel =
        Find();

    /// <summary>
    /// Calls the work once for every number below the count, on as many threads as tensors use, whichever is free.
    /// </summary>
    /// <param name="count">How many calls.</param>
    /// <param name="work">Is given its number. Calls run at the same time and in any order.</param>
    /// <exception cref="Exception">What one of the calls threw; the others were made or left out.</exception>
    public static void ForEach(long count, Action<long> work)
    {
        int threads = (int)Math.Min(count, torch.get_num_threads());
        if (threads <= 1)
        {
            for (long number = 0; number < count; number++)
                work(number);
            return;
        }

        var team = new Team(count, work);
        if (Parallel is null)
        {
            System.Threading.Tasks.Parallel.For(0, threads, _ => team.Work());
        }
        else
        {
            var handle = GCHandle.Alloc(team);
            try
            {
                Parallel(&Enter, GCHandle.ToIntPtr(handle), (uint)threads, 0);
            }
            finally
            {
                handle.Free();
            }
        }

        team.ThrowIfFailed();
    }

    private static delegate* unmanaged<delegate* unmanaged<nint, void>, nint, uint, uint, void> Find() =>
        LibTorch.TryGetExport("GOMP_parallel", out nint address)
            ? (delegate* unmanaged<delegate* unmanaged<nint, void>, nint, uint, uint, void>)address
            : null;

    [UnmanagedCallersOnly]
    private static void Enter(nint team) => Unsafe.As<Team>(GCHandle.FromIntPtr(team).Target!).Work();

    private sealed class Team(long count, Action<long> work)
    {
        private long next = -1;
        private Exception? failure;

        // An exception must not reach native frames.
        public void Work()
        {
            try
            {
                for (
                    long number = Interlocked.Increment(ref next);
                    number < count && failure is null;
                    number = Interlocked.Increment(ref next)
                )
                    work(number);
            }
            catch (Exception error)
            {
                Interlocked.CompareExchange(ref failure, error, null);
            }
        }

        public void ThrowIfFailed()
        {
            if (failure is not null)
                ExceptionDispatchInfo.Throw(failure);
        }
    }
}
