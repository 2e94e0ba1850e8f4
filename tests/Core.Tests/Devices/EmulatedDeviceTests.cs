using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Devices;

/// <summary>What the other tests rely on in the emulated device.</summary>
public sealed class EmulatedDeviceTests
{
    [Fact]
    public void Tensors_OfTheDevice_HaveRealNumbersAndAnotherType()
    {
        using var scope = NewDisposeScope();
        Device device = EmulatedDevice.Start();
        Tensor value = tensor(new[] { 1f, 2f, 3f }).to(device);

        Assert.NotEqual(DeviceType.CPU, value.device_type);
        Assert.NotEqual(DeviceType.CUDA, value.device_type);
        Assert.Equal([2f, 4f, 6f], value.mul(tensor(2f)).cpu().data<float>().ToArray());
    }

    [Fact]
    public void Tensors_OfTheDeviceAndOfTheCpu_DoNotMix()
    {
        using var scope = NewDisposeScope();
        Device device = EmulatedDevice.Start();
        Tensor there = ones([3], device: device),
            here = ones([3], device: CPU);

        Assert.ThrowsAny<Exception>(() => there.mul(here).cpu());
    }
}
