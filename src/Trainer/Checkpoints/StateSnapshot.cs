using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// A copy in host memory of what a rank writes of a checkpoint, so that training can continue. Its memory is kept from one
/// copy to the next.
/// </summary>
internal sealed class StateSnapshot : IDisposable
{
    private readonly Dictionary<string, Tensor> copies = new(StringComparer.Ordinal);

    /// <summary>Begins to copy.</summary>
    /// <param name="part">Must not change until the task is done.</param>
    /// <returns>
    /// The same part of tensors of its own, to be read once the task is done; they are overwritten by the next copy.
    /// </returns>
    public (CheckpointPart Copy, Task Done) Take(CheckpointPart part)
    {
        var pairs = new List<(Tensor From, Tensor To)>();
        CheckpointPart copy = part with
        {
            Model = [.. part.Model.Select(entry => (entry.Name, CopyOf("model " + entry.Name, entry.Value)))],
            Optimizer =
            [
                .. part.Optimizer.Select(slice =>
                    slice with
                    {
                        Value = CopyOf("optimizer " + slice.Name, slice.Value),
                    }
                ),
            ],
        };
        return (copy, Task.Run(() => Copy(pairs)));

        Tensor CopyOf(string key, Tensor value)
        {
            if (!copies.TryGetValue(key, out Tensor? target))
                copies[key] = target = empty(value.shape, value.dtype, CPU).DetachFromDisposeScope();
            pairs.Add((value, target));
            return target;
        }
    }

    public void Dispose()
    {
        foreach (Tensor copy in copies.Values)
            copy.Dispose();
    }

    // On this thread only: libtorch's copy would take processors from the step that runs meanwhile.
    private static void Copy(List<(Tensor From, Tensor To)> pairs)
    {
        using var noGradient = no_grad();
        foreach (var (from, to) in pairs)
        {
            if (TensorMemory.IsDirect(from))
                TensorMemory.Copy(from, to);
            else
                to.copy_(from);
        }
    }
}
