using System.Collections.Concurrent;
using System.Runtime.ExceptionServices;
using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>
/// Runs backward so that an error inside a custom function surfaces as an exception. libtorch ends the process when an
/// exception leaves a backward callback, so the functions of this library keep theirs here and the pass throws it
/// afterwards.
/// </summary>
public static class BackwardPass
{
    private static Exception? keptError;

    // The gradients that the last function on this thread returned. Backward on a GPU runs on libtorch's own threads,
    // where no dispose scope is open: no scope owns a gradient there, and the collector could free it before libtorch
    // has taken it, or long after.
    [ThreadStatic]
    private static List<Tensor>? handedOver;

    // Likewise of each thread that works for a GPU: such a thread belongs to libtorch and to no pass, so the pass that
    // ends releases what it holds. Otherwise the last gradients would stay in the GPU's memory until the next pass.
    private static readonly ConcurrentDictionary<int, List<Tensor>> HandedOverOnGpu = new();

    /// <summary>Computes the gradients of a scalar loss, accumulating into the leaves.</summary>
    /// <param name="loss">A tensor of one element. Not disposed.</param>
    /// <exception cref="Exception">The error of a custom function's backward, with its stack trace.</exception>
    public static void Run(Tensor loss)
    {
        ArgumentNullException.ThrowIfNull(loss);
        ThrowIfFailed();
        loss.backward();
        HandOver(null);
        if (loss.device_type == TorchSharp.DeviceType.CUDA)
            ReleaseOnGpu();
        ThrowIfFailed();
    }

    /// <summary>
    /// Throws the error that the last backward pass kept, for callers of <c>Tensor.backward()</c>.
    /// </summary>
    public static void ThrowIfFailed()
    {
        if (Interlocked.Exchange(ref keptError, null) is { } error)
            ExceptionDispatchInfo.Throw(error);
    }

    /// <summary>
    /// Calls a custom function's backward; on an error keeps it for the pass and returns no gradients.
    /// </summary>
    /// <param name="inputs">Number of gradients that the function must return, one per input of forward.</param>
    /// <param name="backward">Returns that many gradients, null where there is none. They are disposed once libtorch
    /// has taken them.</param>
    internal static List<Tensor> Guard(int inputs, Func<List<Tensor>> backward)
    {
        try
        {
            List<Tensor> gradients = backward();
            HandOver(gradients);
            return gradients;
        }
        catch (Exception error)
        {
            Keep(error);
            return [.. Enumerable.Repeat<Tensor>(null!, inputs)];
        }
    }

    /// <summary>
    /// Keeps an error for the pass to throw when it is over. The first is the cause; later ones follow from it.
    /// </summary>
    internal static void Keep(Exception error) => Interlocked.CompareExchange(ref keptError, error, null);

    // libtorch takes a function's gradients before it calls the next function on the same thread, so the previous ones
    // can be disposed.
    private static void HandOver(List<Tensor>? gradients)
    {
        if (gradients?.FirstOrDefault(gradient => gradient is not null)?.device_type == TorchSharp.DeviceType.CUDA)
        {
            int thread = Environment.CurrentManagedThreadId;
            if (HandedOverOnGpu.TryGetValue(thread, out List<Tensor>? previous))
                Dispose(previous);
            HandedOverOnGpu[thread] = gradients;
            return;
        }

        Dispose(handedOver);
        handedOver = gradients;
    }

    // Backward is over, so libtorch has taken everything.
    private static void ReleaseOnGpu()
    {
        foreach (int thread in HandedOverOnGpu.Keys)
        {
            if (HandedOverOnGpu.TryRemove(thread, out List<Tensor>? last))
                Dispose(last);
        }
    }

    private static void Dispose(List<Tensor>? gradients)
    {
        foreach (Tensor? taken in gradients ?? [])
            taken?.Dispose();
    }
}
