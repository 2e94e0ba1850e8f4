using LongNet.Core.Cuda;

namespace LongNet.Core.Tests.Cuda;

public class NvrtcTests
{
    [Theory]
    [InlineData("compute_80")]
    [InlineData("compute_90")]
    [InlineData("sm_80")]
    [InlineData("sm_90")]
    public void Compile_AllKernels_Succeeds(string architecture)
    {
        Assert.SkipUnless(Nvrtc.IsPresent, Nvrtc.Missing);
        byte[] image = Nvrtc.Compile(KernelSource.Read(), architecture);
        Assert.NotEmpty(image);
        // PTX is text that ends with a zero, as the driver needs it; a CUBIN is an ELF file.
        if (architecture.StartsWith("compute", StringComparison.Ordinal))
            Assert.Equal(0, image[^1]);
        else
            Assert.Equal("\u007fELF"u8, image.AsSpan(0, 4));
    }

    [Fact]
    public void Compile_AnError_SaysWhatAndWhere()
    {
        Assert.SkipUnless(Nvrtc.IsPresent, Nvrtc.Missing);
        var error = Assert.Throws<InvalidOperationException>(() => Nvrtc.Compile("int x = y;", "compute_80"));
        Assert.Contains("identifier \"y\" is undefined", error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
    }
}
