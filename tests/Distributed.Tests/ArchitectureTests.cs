using System.Text.RegularExpressions;
using LongNet.TestKit;

namespace LongNet.Distributed.Tests;

/// <summary>
/// Folders of a project depend on one another in one direction, and a namespace is its folder. Dependencies are read
/// from using lines. A nested folder sees its parent's types without one, so only parents' use of nested folders
/// counts.
/// </summary>
public partial class ArchitectureTests
{
    public static TheoryData<string> Projects { get; } = new("Core", "Distributed", "Trainer");

    [Theory]
    [MemberData(nameof(Projects))]
    public void Folders_OfOneProject_FormNoCircle(string project)
    {
        var dependencies = new SortedDictionary<string, SortedSet<string>>(StringComparer.Ordinal);
        foreach (Dependency dependency in Dependencies(project))
        {
            if (!dependencies.TryGetValue(dependency.From, out SortedSet<string>? targets))
                dependencies.Add(dependency.From, targets = new(StringComparer.Ordinal));
            targets.Add(dependency.To);
        }

        string? circle = dependencies
            .Keys.Select(folder => CircleFrom(folder, [folder], dependencies))
            .FirstOrDefault(each => each is not null);
        Assert.True(circle is null, $"folders of src/{project} depend on one another in a circle: {circle}");
    }

    [Theory]
    [MemberData(nameof(Projects))]
    public void Namespaces_OfOneProject_AreItsFolders(string project)
    {
        Assert.All(Sources(project), source =>
            Assert.Equal(Path.GetDirectoryName(source.Path)!.Replace('/', '.'), source.Folder)
        );
    }

    [Fact]
    public void LowerFolders_OfDistributed_KnowNoUpperOnes()
    {
        var dependencies = Dependencies("Distributed").ToLookup(entry => entry.From, entry => entry.To);
        Assert.Empty(dependencies["Launch"]);
        Assert.Equal(["Launch"], dependencies["Diagnostics"].Distinct());
        Assert.DoesNotContain(dependencies["Collectives"], folder =>
            folder.StartsWith("Backends", StringComparison.Ordinal)
        );
        // Only the start and the end of the program choose among backends.
        Assert.DoesNotContain("Lifetime", dependencies.SelectMany(targets => targets));
    }

    // The first circle back to where the path starts, e.g. "A -> B -> A"; null where there is none.
    private static string? CircleFrom(
        string start,
        List<string> path,
        SortedDictionary<string, SortedSet<string>> dependencies
    )
    {
        if (!dependencies.TryGetValue(path[^1], out SortedSet<string>? targets))
            return null;
        if (targets.Contains(start))
            return string.Join(" -> ", path.Append(start));
        return targets
            .Where(target => !path.Contains(target))
            .Select(target => CircleFrom(start, [.. path, target], dependencies))
            .FirstOrDefault(circle => circle is not null);
    }

    private static Dependency[] Dependencies(string project)
    {
        Source[] sources = [.. Sources(project)];
        var folders = sources.Select(source => source.Folder).Where(folder => folder.Length > 0).ToHashSet();
        return
        [
            .. sources
                .Where(source => source.Folder.Length > 0)
                .SelectMany(source => source.Uses.Select(used => new Dependency(source.Folder, Nearest(used, folders))))
                .Where(dependency => dependency.To.Length > 0 && dependency.To != dependency.From)
                .Distinct(),
        ];
    }

    // The folder of a namespace, or of a type that a static using or an alias names; empty where there is none.
    private static string Nearest(string name, HashSet<string> folders)
    {
        while (name.Length > 0 && !folders.Contains(name))
            name = name.Contains('.', StringComparison.Ordinal) ? name[..name.LastIndexOf('.')] : "";
        return name;
    }

    private static IEnumerable<Source> Sources(string project)
    {
        string root = Repository.PathOf($"src/{project}");
        foreach (string file in Directory.EnumerateFiles(root, "*.cs", SearchOption.AllDirectories).Order())
        {
            string path = Path.GetRelativePath(root, file);
            if (path.StartsWith("obj/", StringComparison.Ordinal) || path.StartsWith("bin/", StringComparison.Ordinal))
                continue;
            string text = File.ReadAllText(file);
            string rootNamespace = $"LongNet.{project}";
            yield return new Source(
                path,
                Inside(rootNamespace, NamespaceLine().Match(text).Groups[1].Value),
                [.. UsingLine().Matches(text).Select(match => Inside(rootNamespace, match.Groups[1].Value))]
            );
        }
    }

    // Without the project's own namespace; empty for that itself and for others'.
    private static string Inside(string rootNamespace, string name) =>
        name.StartsWith(rootNamespace + ".", StringComparison.Ordinal) ? name[(rootNamespace.Length + 1)..] : "";

    [GeneratedRegex(@"^namespace ([\w.]+);", RegexOptions.Multiline)]
    private static partial Regex NamespaceLine();

    [GeneratedRegex(@"^(?:global )?using (?:static )?(?:\w+ = )?([\w.]+);", RegexOptions.Multiline)]
    private static partial Regex UsingLine();

    /// <param name="Path">Within the project.</param>
    /// <param name="Folder">Its namespace without the project's; empty for the project's own.</param>
    /// <param name="Uses">Namespaces and types of the project that it names in using lines, likewise.</param>
    private sealed record Source(string Path, string Folder, string[] Uses);

    private sealed record Dependency(string From, string To);
}
