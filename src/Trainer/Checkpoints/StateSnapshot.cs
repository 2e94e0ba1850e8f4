using LongNet.Core.Devices;
using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// A copy in host memory of a rank's part of a checkpoint, so that training can continue. Its memory is kept from one
/// copy to the next.
/// </summary>
internal sealed class StateSnapshot : IDisposable
{
    private readonly Dictionary<string, Tensor> copies = new(StringComparer.Ordinal);

    /// <summary>Begins to copy.</summary>
    /// <param name="part">Must not change until the task is done.</param>
    /// <returns>
    /// The same part with other tensors, to be read once the task is done; the next copy overwrites them.
    /// </returns>
    public (CheckpointPart Copy, Task Done) Take(CheckpointPart part)
    {
        var pairs = new List<(Tensor From, Tensor To)>();
        CheckpointPart snapshot = part with
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
        return (snapshot, Task.Run(() => Copy(pairs)));

        Tensor CopyOf(string key, Tensor value)
        {
            if (!copies.TryGetValue(key, out Tensor? copy))
                copies[key] = copy = empty(value.shape, value.dtype, CPU).DetachFromDisposeScope();
            pairs.Add((value, copy));
            return copy;
        }
    }

    public void Dispose()
    {
        foreach (Tensor copy in copies.Values)
            copy.Dispose();
    }

    // On one thread: libtorch's parallel copy would take processors from the step that is computed meanwhile.
    private static void Copy(List<(Tensor From, Tensor To)> pairs)
    {
        using var noGradient = no_grad();
        foreach (var (from, to) in pairs)
        {
            if (TensorMemory.IsDirect(from))
                TensorMemory.Copy(from, to);
            else
                DeviceRead.Into(to, from);
        }
    }
}
