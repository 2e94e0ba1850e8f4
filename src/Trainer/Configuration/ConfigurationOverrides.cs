using YamlDotNet.RepresentationModel;

namespace LongNet.Trainer.Configuration;

/// <summary>What is typed as --set key.path=value, and replaces what a file says.</summary>
/// <param name="problems">Takes what is wrong.</param>
internal sealed class ConfigurationOverrides(ConfigurationProblems problems)
{
    private readonly Dictionary<YamlNode, string> origins = new(ReferenceEqualityComparer.Instance);

    /// <summary>The option that a node comes from; null where it is the file's.</summary>
    public string? OriginOf(YamlNode node) => origins.GetValueOrDefault(node);

    /// <summary>Puts a value in the place of the file's, or beside it where the file has none.</summary>
    /// <param name="root">The file's content.</param>
    /// <param name="assignment">key.path=value.</param>
    public void Apply(YamlMappingNode root, string assignment)
    {
        string origin = $"--set {assignment}";
        int equals = assignment.IndexOf('=', StringComparison.Ordinal);
        if (equals <= 0)
        {
            problems.Add($"{origin}: write --set key.path=value, such as --set optimizer.lr=3e-4.");
            return;
        }

        if (YamlText.TryParse(assignment[(equals + 1)..]) is not { } value)
        {
            problems.Add($"{origin}: the value is not valid YAML.");
            return;
        }

        string[] keys = assignment[..equals].Split('.');
        YamlMappingNode group = root;
        foreach (string name in keys[..^1])
            group = Enter(group, name, origin);
        Remove(group, keys[^1]);
        group.Children.Add(Marked(new YamlScalarNode(keys[^1]), origin), Marked(value, origin));
    }

    private static (YamlNode? Key, YamlNode? Value) Remove(YamlMappingNode group, string name)
    {
        var (key, value) = group.Children.FirstOrDefault(pair =>
            pair.Key is YamlScalarNode scalar && scalar.Value == name
        );
        if (key is not null)
            group.Children.Remove(key);
        return (key, value);
    }

    // The group of that name, which replaces anything else of the name.
    private YamlMappingNode Enter(YamlMappingNode parent, string name, string origin)
    {
        var (key, value) = Remove(parent, name);
        YamlMappingNode group = value as YamlMappingNode ?? Marked(new YamlMappingNode(), origin);
        // The file's own key keeps its line in messages.
        parent.Children.Add(key ?? Marked(new YamlScalarNode(name), origin), group);
        return group;
    }

    private T Marked<T>(T node, string origin)
        where T : YamlNode
    {
        foreach (YamlNode part in node.AllNodes)
            origins[part] = origin;
        return node;
    }
}
