using LongNet.Core.Native;

[assembly: AssemblyFixture(typeof(LongNet.Core.Tests.LibTorchFixture))]

namespace LongNet.Core.Tests;

/// <summary>
/// Loads libtorch as the program does, so that the tests also run on the one that LONGNET_LIBTORCH names.
/// </summary>
public sealed class LibTorchFixture
{
    public LibTorchFixture() => LibTorch.Load();
}
