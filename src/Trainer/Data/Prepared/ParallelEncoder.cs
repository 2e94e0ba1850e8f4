using System.Runtime.ExceptionServices;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>Encodes the parts of a plan in parallel. A thread that has finished one takes the next.</summary>
/// <param name="plan">What to encode.</param>
/// <param name="pathOf">The file of a part.</param>
/// <param name="progress">Counts the finished parts.</param>
internal sealed class ParallelEncoder(PreparationPlan plan, Func<int, string> pathOf, PreparationProgress progress)
{
    private readonly EncodedPart[] encoded = new EncodedPart[plan.Parts.Count];
    private int lastTaken = -1;
    private Exception? failure;

    /// <summary>Encodes and saves the parts that are not there yet. To be called once.</summary>
    /// <returns>All parts, without their tokens.</returns>
    /// <exception cref="Core.UserException">A file cannot be encoded.</exception>
    public EncodedPart[] Run(int threads)
    {
        var workers = new Task[Math.Min(threads, encoded.Length)];
        for (int worker = 0; worker < workers.Length; worker++)
            workers[worker] = Task.Factory.StartNew(
                Work,
                CancellationToken.None,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default
            );
        Task.WaitAll(workers);
        if (failure is not null)
            ExceptionDispatchInfo.Throw(failure);
        return encoded;
    }

    // The first failure stops all workers after their current parts.
    private void Work()
    {
        var encoder = new PartEncoder(plan);
        try
        {
            int part;
            while ((part = Interlocked.Increment(ref lastTaken)) < encoded.Length && Volatile.Read(ref failure) is null)
                EncodePart(part, encoder);
        }
        catch (Exception error)
        {
            Interlocked.CompareExchange(ref failure, error, null);
        }
    }

    private void EncodePart(int part, PartEncoder encoder)
    {
        EncodedPart? finishedBefore = EncodedPart.Find(pathOf(part), plan.TokenBytes);
        encoded[part] = finishedBefore ?? encoder.Encode(plan.Parts[part]);
        if (finishedBefore is null)
            encoded[part].Save(pathOf(part));
        progress.Add(plan.BytesOf(plan.Parts[part]), wasThere: finishedBefore is not null);
    }
}
