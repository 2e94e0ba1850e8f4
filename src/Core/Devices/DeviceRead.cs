using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Devices;

/// <summary>
/// The one way in which values of a device reach the program. A read waits until the device has computed them, so a
/// training step makes one of them, and <see cref="Count"/> shows that it does.
/// </summary>
internal static class DeviceRead
{
    private static long count;

    /// <summary>Reads so far, of this process, that had to wait for a device; those of the CPU's tensors do
    /// not.</summary>
    public static long Count => Interlocked.Read(ref count);

    /// <summary>The elements of a tensor.</summary>
    /// <param name="tensor">Of float64, any shape. Not disposed.</param>
    public static double[] Doubles(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        return ToCpu(tensor).contiguous().data<double>().ToArray();
    }

    /// <summary>Whether the only element of a tensor is true.</summary>
    /// <param name="tensor">Of type bool. Not disposed.</param>
    public static bool Bool(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        return ToCpu(tensor).item<bool>();
    }

    /// <summary>Copies a tensor's values into memory of the host, and waits for them.</summary>
    /// <param name="destination">On the CPU, of the same shape and type; pinned, if the copy is to be fast.</param>
    /// <param name="source">Not disposed.</param>
    public static void Into(Tensor destination, Tensor source)
    {
        ArgumentNullException.ThrowIfNull(destination);
        ArgumentNullException.ThrowIfNull(source);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        if (source.device_type != DeviceType.CPU)
            Interlocked.Increment(ref count);
        // libtorch's lazy backend, on which tests compute, has no copy into existing memory.
        destination.copy_(source.device_type == DeviceType.CUDA ? source : source.cpu());
    }

    /// <summary>The tensor's values on the CPU: itself where it lies there.</summary>
    /// <param name="tensor">Not disposed.</param>
    /// <returns>In the scope of the caller.</returns>
    public static Tensor ToCpu(Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        if (tensor.device_type == DeviceType.CPU)
            return tensor;
        Interlocked.Increment(ref count);
        return tensor.cpu();
    }
}
