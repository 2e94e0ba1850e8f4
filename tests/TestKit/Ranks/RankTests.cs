using Xunit;

namespace LongNet.TestKit.Ranks;

/// <summary>What tests on real ranks share.</summary>
public static class RankTests
{
    /// <summary>
    /// Runs a scenario of the rank worker, which asserts on every rank; fails with what the ranks printed.
    /// </summary>
    public static ProgramResult RunScenario(MpiKind kind, int ranks, string scenario, params string[] arguments) =>
        Launcher(kind).Run(ranks, Repository.RankWorker, [scenario, .. arguments]).AssertSuccess();

    /// <summary>The launcher; skips the test where the machine lacks it.</summary>
    public static MpiLauncher Launcher(MpiKind kind)
    {
        MpiLauncher? launcher = MpiLauncher.Find(kind);
        Assert.SkipWhen(launcher is null, MpiLauncher.WhyMissing(kind));
        return launcher!;
    }

    /// <summary>Hosts joined by a network; skips the test where the machine makes none.</summary>
    public static NamespaceHosts Hosts(int count)
    {
        Assert.SkipWhen(NamespaceHosts.WhyRefused is not null, NamespaceHosts.WhyRefused ?? "");
        return new NamespaceHosts(count);
    }
}
