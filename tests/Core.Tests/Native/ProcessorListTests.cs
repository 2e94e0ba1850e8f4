using LongNet.Core.Native;

namespace LongNet.Core.Tests.Native;

public class ProcessorListTests
{
    [Theory]
    [InlineData("0-3,8,10-11\n", new[] { 0, 1, 2, 3, 8, 10, 11 })]
    [InlineData("5", new[] { 5 })]
    public void Parse_KernelsList_ReadsItsNumbers(string list, int[] expected) =>
        Assert.Equal(expected, ProcessorList.Parse(list));

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("3-1")]
    [InlineData("1-2-3")]
    [InlineData("all")]
    public void Parse_TextThatIsNoList_IsNull(string? text) => Assert.Null(ProcessorList.Parse(text));
}
