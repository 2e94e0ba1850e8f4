using System.Text.RegularExpressions;
using LongNet.TestKit;

namespace LongNet.Core.Tests.Documentation;

/// <summary>The documentation's code is code that the tests run, and its links and paths exist.</summary>
public partial class ReadmeTests
{
    private static readonly string[] CompiledExamples =
    [
        "tests/Core.Tests/Documentation/ReadmeExamples.cs",
        "tests/RankWorker/Scenarios/ReadmeExample.cs",
    ];

    /// <summary>Every page of the documentation, relative to the repository's root.</summary>
    public static TheoryData<string> Pages =>
        [
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            .. Directory
                .EnumerateFiles(Repository.PathOf("docs"), "*.md", SearchOption.AllDirectories)
                .Select(page => Path.GetRelativePath(Repository.Root, page))
                .Order(StringComparer.Ordinal),
        ];

    [Theory]
    [InlineData("README.md", 1)]
    [InlineData("docs/library.md", 3)]
    public void CSharpBlocks_AreTheTextOfCompiledExamples(string page, int count)
    {
        string compiled = WithoutSpace(
            string.Concat(CompiledExamples.Select(file => File.ReadAllText(Repository.PathOf(file))))
        );
        string[] blocks =
        [
            .. CSharpBlock().Matches(File.ReadAllText(Repository.PathOf(page))).Select(match => match.Groups[1].Value),
        ];
        Assert.Equal(count, blocks.Length);
        foreach (string block in blocks)
        {
            // Paragraph by paragraph, because a file has its usings apart and asserts between. Without white space,
            // because the formatter lays out a file's calls, and a page breaks its lines for reading.
            foreach (string paragraph in block.Split("\n\n"))
                Assert.Contains(WithoutSpace(paragraph), compiled, StringComparison.Ordinal);
        }
    }

    [Theory]
    [MemberData(nameof(Pages))]
    public void Links_PointToWhatIsThere(string page)
    {
        string text = File.ReadAllText(Repository.PathOf(page));
        foreach (Match link in RelativeLink().Matches(text))
        {
            string target = Repository.PathOf(Path.Combine(Path.GetDirectoryName(page)!, link.Groups[1].Value));
            Assert.True(Path.Exists(target), $"{page} links to {link.Groups[1].Value}, which is not there");
        }

        foreach (Match path in RepositoryPath().Matches(text))
            Assert.True(
                Path.Exists(Repository.PathOf(path.Value.Trim('`'))),
                $"{page} names {path.Value}, which is not there"
            );
    }

    private static string WithoutSpace(string code) => string.Concat(code.Where(c => !char.IsWhiteSpace(c)));

    [GeneratedRegex("```csharp\n(.*?)```", RegexOptions.Singleline)]
    private static partial Regex CSharpBlock();

    [GeneratedRegex(@"\]\((?!http)([^)#]+)[^)]*\)")]
    private static partial Regex RelativeLink();

    // `src/…`, `tests/…` and the like in running text, without placeholders.
    [GeneratedRegex("`(src|tests|configs|scripts|docs|build)/[A-Za-z0-9_./-]+`")]
    private static partial Regex RepositoryPath();
}
