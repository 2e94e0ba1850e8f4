using LongNet.Core.Native;
using TorchSharp;

namespace LongNet.TestKit;

/// <summary>Throw-away copy until the lead's arrives.</summary>
public static unsafe class EmulatedDevice
{
    public static torch.Device Start()
    {
        if (LibTorch.TryGetExport("_ZN5torch4lazy22InitTorchScriptBackendEv", out nint start))
            ((delegate* unmanaged<void>)start)();
        return new torch.Device((DeviceType)17, 0);
    }
}
