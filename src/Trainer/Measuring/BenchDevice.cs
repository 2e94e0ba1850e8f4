using LongNet.Core;
using LongNet.Core.Devices;
using LongNet.Core.Native;
using LongNet.Trainer.Platform;
using TorchSharp;

namespace LongNet.Trainer.Measuring;

/// <summary>Where a benchmark computes, and how it is timed there.</summary>
internal sealed class BenchDevice
{
    private BenchDevice(torch.Device device, string name)
    {
        Device = device;
        Name = name;
    }

    /// <summary>The CPU.</summary>
    public static BenchDevice Cpu { get; } = new(torch.CPU, ProcessorFacts.ModelName() ?? "CPU");

    public torch.Device Device { get; }

    /// <summary>The GPU's or the processor's name.</summary>
    public string Name { get; }

    public bool IsCuda => Device.type == DeviceType.CUDA;

    /// <summary>The device of a type.</summary>
    /// <param name="type">"cpu" or "cuda".</param>
    /// <exception cref="UserException">There is no such device here.</exception>
    public static BenchDevice Find(string type)
    {
        if (type == "cpu")
            return Cpu;
        if (!LibTorch.HasCudaDevice)
        {
            throw new UserException(
                "--device is cuda, but libtorch finds no CUDA device here: build with -p:TorchBackend=cuda, "
                    + "or external with "
                    + $"{LibTorch.FolderVariable}, and run on a machine with an NVIDIA GPU and its driver."
            );
        }

        return new BenchDevice(torch.CUDA, CudaDevice.Name(0) ?? "CUDA device");
    }

    /// <summary>The device that a rank computes on.</summary>
    public static BenchDevice Of(ComputeDevice device) =>
        device.IsCpu ? Cpu : new BenchDevice(device.Device, device.Name ?? $"{device.Device}");

    /// <summary>Waits until the device has finished all its work: a GPU computes while the program continues.</summary>
    public void Synchronize()
    {
        if (IsCuda)
            torch.cuda.synchronize();
    }
}
