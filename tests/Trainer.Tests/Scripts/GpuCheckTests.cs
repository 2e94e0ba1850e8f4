using System.Runtime.InteropServices;
using System.Text.Json;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Scripts;

/// <summary>
/// The check of a GPU machine, as far as it goes without a GPU. The bundle has links to this build's programs, with
/// their own libtorch, in place of published ones, and this machine's MPI in place of its own.
/// </summary>
[Trait("Category", "machine")]
public class GpuCheckTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(5);

    private static readonly string[] PartsOnCpu = ["facts", "symbols", "smoke", "mpi2", "nogpu"];

    [Fact]
    public void DryRun_InAnEmptyEnvironment_RunsWhatNeedsNoGpuAndSkipsTheRest()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/python3"), "There is no /usr/bin/python3.");
        using var folder = new TemporaryFolder();
        ProgramRun
            .ToEnd(Limit, "bash", [Repository.PathOf("scripts/gpu/pack.sh"), "--built", folder.Path])
            .AssertSuccess();

        string bundle = folder["bundle"];
        string[] environment =
        [
            "PATH=/usr/local/bin:/usr/bin:/bin",
            $"DOTNET_ROOT={Path.GetFullPath(Path.Combine(RuntimeEnvironment.GetRuntimeDirectory(), "../../.."))}",
            "LONGNET_GPU_CHECK_PYTHON=/usr/bin/python3",
            $"OUT={folder["out"]}",
        ];
        ProgramRun
            .ToEnd(Limit, "env", ["-i", .. environment, "bash", $"{bundle}/check.sh", bundle, "--dry-run"], folder.Path)
            .AssertSuccess();

        using var results = JsonDocument.Parse(File.ReadAllText(folder["out/results.json"]));
        Dictionary<string, string> status = results
            .RootElement.GetProperty("parts")
            .EnumerateArray()
            .ToDictionary(
                part => part.GetProperty("part").GetString()!,
                part => part.GetProperty("status").GetString()!
            );
        Assert.Equal(PartsOnCpu, status.Where(part => part.Value == "ok").Select(part => part.Key));
        Assert.All(status.Where(part => part.Value != "ok"), part => Assert.Equal("skipped", part.Value));
        Assert.Contains("mpi2", File.ReadAllText(folder["out/table.txt"]), StringComparison.Ordinal);
        Assert.True(File.Exists(folder["out/logs.tar.gz"]));
    }
}
