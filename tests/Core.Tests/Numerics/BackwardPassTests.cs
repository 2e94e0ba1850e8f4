using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Numerics;

public class BackwardPassTests
{
    [Fact]
    public void Guard_OnAThreadWithoutDisposeScope_KeepsGradientsUntilTheNextCall()
    {
        Exception? failure = null;
        var thread = new Thread(() =>
        {
            try
            {
                WeakReference<Tensor> first = Hand();
                Collect();
                Assert.True(Alive(first), "libtorch has not taken the gradient yet");
                WeakReference<Tensor> second = Hand();
                Collect();
                Assert.False(Alive(first), "the gradient is still held though libtorch has taken it");
                Assert.True(Alive(second));
            }
            catch (Exception error)
            {
                failure = error;
            }
        });
        thread.Start();
        thread.Join();
        Assert.Null(failure);

        // The only strong references are the guard's own, as none is left on this thread's stack.
        [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
        static WeakReference<Tensor> Hand() => new(BackwardPass.Guard(1, () =>
                {
                    using var scope = NewDisposeScope();
                    return [ones(3).MoveToOuterDisposeScope()];
                })[0]);

        [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
        static bool Alive(WeakReference<Tensor> tensor) => tensor.TryGetTarget(out Tensor? target) && !target.IsInvalid;

        static void Collect()
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
    }
}
