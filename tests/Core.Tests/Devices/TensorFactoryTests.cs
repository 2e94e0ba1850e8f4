using System.Text.RegularExpressions;
using LongNet.TestKit;

namespace LongNet.Core.Tests.Devices;

/// <summary>
/// Every tensor that the source makes names its device. One that does not lies on the CPU by default, which only shows
/// where it meets a tensor of a GPU.
/// </summary>
public sealed partial class TensorFactoryTests
{
    [Fact]
    public void Source_TensorsThatAreMade_NameTheirDevice()
    {
        string[] files =
        [
            .. Directory
                .EnumerateFiles(Repository.PathOf("src"), "*.cs", SearchOption.AllDirectories)
                .Where(file => !file.Contains("/obj/", StringComparison.Ordinal)),
        ];
        Assert.True(files.Length > 100, $"only {files.Length} files of source were found");
        Assert.Empty(files.SelectMany(file => WithoutDevice(file, File.ReadAllText(file))));
    }

    [Theory]
    [InlineData("Tensor a = zeros([2], dtype: type);", 1)]
    [InlineData("Tensor a = zeros(Shape(x, y),\n dtype: type);", 1)]
    [InlineData("Tensor a = tensor(new[] { 1L });", 1)]
    [InlineData("Tensor a = torch.ones(3);", 1)]
    [InlineData("Tensor a = zeros([2], dtype: type, device: q.device);", 0)]
    [InlineData("Tensor a = empty(shape, type, CPU);", 0)]
    [InlineData("Tensor a = zeros_like(b), c = b.zeros(3);", 0)]
    [InlineData("// zeros([2]) is no call", 0)]
    public void Lint_OfACall_FindsThatItNamesNoDevice(string source, int found) =>
        Assert.Equal(found, WithoutDevice("a file", source).Count());

    private static IEnumerable<string> WithoutDevice(string file, string source)
    {
        foreach (Match call in Factory().Matches(source))
        {
            int lineStart = source.LastIndexOf('\n', call.Index) + 1;
            string before = source[lineStart..call.Index];
            string arguments = Arguments(source, call.Index + call.Length);
            // In a comment, or the one tensor of a TorchScript that is never computed with.
            if (before.Contains("//", StringComparison.Ordinal) || arguments == "[1, 1]")
                continue;
            if (!Device().IsMatch(arguments))
                yield return $"{file}:{source[..call.Index].Count(c => c == '\n') + 1}: {call.Value}{arguments})";
        }
    }

    // Up to the parenthesis that closes the call.
    private static string Arguments(string source, int start)
    {
        int end = start;
        for (int depth = 1; depth > 0 && end < source.Length; end++)
        {
            if (source[end] is '(' or '[' or '{')
                depth++;
            else if (source[end] is ')' or ']' or '}')
                depth--;
        }

        return source[start..(end - 1)];
    }

    [GeneratedRegex(
        @"(?<![\w.])(?:torch\.)?(?:zeros|ones|empty|full|tensor|arange|eye|linspace|rand|randn|randint|randperm)\s*\("
    )]
    private static partial Regex Factory();

    [GeneratedRegex(@"device|\bCPU\b")]
    private static partial Regex Device();
}
