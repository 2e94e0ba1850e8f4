using LongNet.Core.Devices;
using LongNet.Core.Native;
using TorchSharp;

namespace LongNet.TestKit;

/// <summary>
/// An accelerator without hardware: libtorch's lazy backend. Its tensors lie on a device of their own and have real
/// numbers, which operators of the CPU compute. A tensor of the CPU is refused where it meets one of the device, so
/// that code which forgets to name a device fails as it would on a GPU.
/// </summary>
/// <remarks>
/// It lets two errors pass: a tensor without dimensions, as a GPU does too, and operators that fall back to the CPU as
/// a unit, such as the normalization of a layer. A few functions of TorchSharp end the process instead of throwing.
/// </remarks>
public static class EmulatedDevice
{
    // c10::DeviceType::Lazy; TorchSharp has no name for it.
    private const int Lazy = 17;

    private static readonly Lazy<torch.Device> Started = new(Initialize);

    /// <summary>The device, whose backend starts at the first call.</summary>
    public static torch.Device Start() => Started.Value;

    /// <summary>The device, for a trainer to compute on.</summary>
    public static ComputeDevice Compute { get; } = new Emulated();

    private static unsafe torch.Device Initialize()
    {
        LibTorch.Load();
        if (!LibTorch.TryGetExport("_ZN5torch4lazy22InitTorchScriptBackendEv", out nint start))
            throw new NotSupportedException("This libtorch has no lazy backend.");
        ((delegate* unmanaged<void>)start)();
        return new torch.Device((DeviceType)Lazy, 0);
    }

    private sealed class Emulated : ComputeDevice
    {
        public override torch.Device Device => Start();

        public override string Name => "emulated device";

        public override long? AllocatedBytes() => null;

        public override long? PeakBytes() => null;

        public override void Synchronize() { }

        public override void TrimMemory() { }
    }
}
