namespace LongNet.TestKit;

/// <summary>Where things lie in this checkout, for tests that run the real programs on real files.</summary>
public static class Repository
{
    /// <summary>The folder of LongNet.Training.sln.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>The command that users run, built in the same configuration as the tests.</summary>
    public static string LongNet => BuiltProgram("src/Trainer", "longnet");

    /// <summary>The program of the tests' own scenarios; see <c>tests/RankWorker</c>.</summary>
    public static string RankWorker => BuiltProgram("tests/RankWorker", "longnet-rank-worker");

    /// <summary>A path within the checkout.</summary>
    public static string PathOf(string relative) => Path.GetFullPath(Path.Combine(Root, relative));

    private static string BuiltProgram(string project, string name)
    {
        // tests/X/bin/Release/net10.0/
        var framework = new DirectoryInfo(AppContext.BaseDirectory.TrimEnd(Path.DirectorySeparatorChar));
        string program = PathOf(Path.Combine(project, "bin", framework.Parent!.Name, framework.Name, name));
        return File.Exists(program)
            ? program
            : throw new FileNotFoundException($"{program} is not built: build the solution first.");
    }

    private static string FindRoot()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "LongNet.Training.sln")))
                return folder.FullName;
        }

        throw new DirectoryNotFoundException($"No LongNet.Training.sln above {AppContext.BaseDirectory}.");
    }
}
