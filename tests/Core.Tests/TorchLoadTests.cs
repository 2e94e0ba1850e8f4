using TorchSharp;

namespace LongNet.Core.Tests;

public class TorchLoadTests
{
    [Fact]
    public void Torch_Loaded_Adds()
    {
        using var scope = torch.NewDisposeScope();
        Assert.Equal(4f, torch.ones(2, 2).sum().item<float>());
    }
}
