using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Tests.Ranks;

namespace LongNet.Trainer.Tests.Commands;

/// <summary>
/// "mpiexec -n N dotnet run -- train" on a checkout that was never built and on one that was. The slow ones build again
/// and again.
/// </summary>
[Trait("Category", "machine")]
public class LiteralCommandTests
{
    [Fact]
    public void DotnetRun_TwoRanks_CleanAndBuilt_Trains() => CleanAndBuilt(MpiKind.OpenMpi, 2, "src/Trainer");

    [Theory]
    [Trait("Category", "slow")]
    [InlineData(MpiKind.OpenMpi, 1, "src/Trainer")]
    [InlineData(MpiKind.OpenMpi, 4, "src/Trainer")]
    [InlineData(MpiKind.OpenMpi, 4, ".")]
    [InlineData(MpiKind.Mpich, 2, "src/Trainer")]
    [InlineData(MpiKind.None, 1, "src/Trainer")]
    [InlineData(MpiKind.None, 1, ".")]
    public void DotnetRun_CleanAndBuilt_TrainsOnEveryRankWithoutBuildsColliding(MpiKind kind, int ranks, string from) =>
        CleanAndBuilt(kind, ranks, from);

    private static void CleanAndBuilt(MpiKind kind, int ranks, string from)
    {
        using var folder = new TemporaryFolder();
        string checkout = folder["checkout"];
        CopySources(new DirectoryInfo(Repository.Root), checkout);
        foreach (string name in new[] { "clean", "built" })
        {
            ProgramResult result = RankTests
                .Launcher(kind)
                .Run(
                    ranks,
                    "dotnet",
                    ["run", "--", .. TrainingJob.Arguments("ranks-agree.yaml", folder[name], "--steps", "2")],
                    Path.Combine(checkout, from)
                )
                .AssertSuccess();
            Assert.Contains($"mesh 1 data x {ranks} sequence", result.Output, StringComparison.Ordinal);
            Assert.DoesNotContain("warning", result.Output, StringComparison.Ordinal);
            Assert.Equal(2, TrainingJob.Values(folder[name], "loss").Length);
        }

        Assert.Equal(TrainingJob.Values(folder["clean"], "loss"), TrainingJob.Values(folder["built"], "loss"));
    }

    private static void CopySources(DirectoryInfo source, string destination)
    {
        Directory.CreateDirectory(destination);
        foreach (FileInfo file in source.GetFiles())
            file.CopyTo(Path.Combine(destination, file.Name));
        foreach (
            DirectoryInfo folder in source
                .GetDirectories()
                .Where(folder => folder.Name is not ("bin" or "obj" or "runs" or ".git"))
        )
            CopySources(folder, Path.Combine(destination, folder.Name));
    }
}
