using System.Text.Json;
using YamlDotNet.RepresentationModel;

namespace LongNet.Trainer.Configuration;

/// <summary>In which keys a configuration differs from another, or from the defaults.</summary>
internal static class ConfigurationChanges
{
    /// <summary>The keys that change what is computed and whose values differ.</summary>
    /// <param name="before">Kept as JSON; of another version of the program, it may have other keys.</param>
    /// <param name="after">What is to go on.</param>
    /// <returns>"key: before → after" each.</returns>
    public static string[] ChangedKeys(JsonElement before, RunConfig after)
    {
        string[] irrelevant =
        [
            "name",
            "output",
            "model.initial_weights",
            "data.path",
            "data.exclude",
            "data.tokenizer",
            "training.steps",
            "training.micro_batch_size",
            "training.time_limit_minutes",
        ];
        string[] irrelevantGroups = ["parallel.", "memory.", "evaluation.", "checkpoint.", "logging.", "runtime."];
        Dictionary<string, string> old = Flat(YamlNodes.Of(before)),
            now = Flat(YamlNodes.Of(ConfigurationText.ToJson(after)));
        // What was written before there were these keys was computed so.
        foreach (var (key, value) in Flat(YamlNodes.Of(new PrecisionConfig()), "precision"))
            old.TryAdd(key, value);
        return
        [
            .. now.Where(entry =>
                    !irrelevant.Contains(entry.Key)
                    && !irrelevantGroups.Any(group => entry.Key.StartsWith(group, StringComparison.Ordinal))
                )
                .Where(entry => !old.TryGetValue(entry.Key, out string? value) || value != entry.Value)
                .Select(entry => $"{entry.Key}: {old.GetValueOrDefault(entry.Key, "none")} → {entry.Value}"),
        ];
    }

    /// <summary>The keys of precision and memory that are not at their defaults, "key value" each.</summary>
    public static string[] PrecisionAndMemory(RunConfig config)
    {
        return
        [
            .. Chosen(config.Precision, new PrecisionConfig(), "precision"),
            .. Chosen(config.Memory, new MemoryConfig(), "memory"),
        ];

        static IEnumerable<string> Chosen(object section, object defaults, string path) =>
            Flat(YamlNodes.Of(section), path)
                .Except(Flat(YamlNodes.Of(defaults), path))
                .Select(entry => $"{entry.Key} {entry.Value}");
    }

    // Dotted paths of all values below a node.
    private static Dictionary<string, string> Flat(YamlNode root, string path = "")
    {
        var values = new Dictionary<string, string>();
        Walk(root, path, values);
        return values;

        static void Walk(YamlNode node, string path, Dictionary<string, string> values)
        {
            if (node is YamlMappingNode mapping)
            {
                foreach (var (key, value) in mapping.Children)
                    Walk(value, path.Length == 0 ? $"{key}" : $"{path}.{key}", values);
            }
            else
            {
                values[path] = node is YamlSequenceNode sequence
                    ? $"[{string.Join(", ", sequence.Children)}]"
                    : $"{node}";
            }
        }
    }
}
