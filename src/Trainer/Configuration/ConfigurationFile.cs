using System.Buffers;
using System.Collections;
using System.Globalization;
using System.Reflection;
using System.Text.Json;
using LongNet.Core;
using LongNet.Core.Model;
using LongNet.Trainer.Storage;
using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace LongNet.Trainer.Configuration;

/// <summary>Finds, reads and writes configuration files.</summary>
internal static class ConfigurationFile
{
    /// <summary>
    /// A path from here, or else a name in the nearest configs folder up the tree, with or without its ".yaml".
    /// </summary>
    /// <exception cref="UserException">Neither exists; says where it was looked for and what is there.</exception>
    public static string Find(string nameOrPath, string? from = null)
    {
        string here = from ?? Directory.GetCurrentDirectory();
        string direct = Path.Combine(here, nameOrPath);
        if (File.Exists(direct))
            return direct;
        for (DirectoryInfo? folder = new(here); folder is not null; folder = folder.Parent)
        {
            string configs = Path.Combine(folder.FullName, "configs");
            if (!Directory.Exists(configs))
                continue;
            foreach (string candidate in new[] { nameOrPath, nameOrPath + ".yaml" })
            {
                if (File.Exists(Path.Combine(configs, candidate)))
                    return Path.Combine(configs, candidate);
            }

            string names = string.Join(
                ", ",
                Directory.GetFiles(configs, "*.yaml").Select(Path.GetFileName).Order(StringComparer.Ordinal)
            );
            throw new UserException(
                $"There is no configuration {nameOrPath} here or in {configs}, which has "
                    + $"{(names.Length == 0 ? "none" : names)}."
            );
        }

        throw new UserException(
            $"There is no configuration {nameOrPath} in {here}, and no configs folder there or above."
        );
    }

    /// <summary>
    /// Reads a configuration, applies overrides and checks everything that does not depend on the ranks.
    /// </summary>
    /// <param name="path">The YAML file.</param>
    /// <param name="overrides">key.path=value each, over the file.</param>
    /// <exception cref="UserException">All problems, one line each.</exception>
    public static RunConfig Load(string path, IReadOnlyList<string> overrides)
    {
        var problems = new ConfigurationProblems();
        var origins = new Dictionary<YamlNode, string>(ReferenceEqualityComparer.Instance);
        YamlMappingNode root = Parse(path);
        foreach (string assignment in overrides)
            Override(root, assignment, origins, problems);

        string shown = Path.GetRelativePath(Directory.GetCurrentDirectory(), path);
        var binder = new YamlBinder(problems, shown, node =>
            origins.TryGetValue(node, out string? origin) ? origin : $"{shown}, line {node.Start.Line}"
        );
        var config = (RunConfig?)binder.Section(typeof(RunConfig), root, "");
        if (config is not null)
        {
            config = Complete(config, path, overrides);
            RunConfigRules.Check(config, problems);
        }

        problems.ThrowIfAny();
        return config!;
    }

    /// <summary>The whole configuration as YAML, every default written out; reading it gives an equal one.</summary>
    public static string ToYaml(RunConfig config)
    {
        return Text(Node(config));
    }

    /// <summary>
    /// The same as a JSON object, which is YAML too. Numbers and truth values are JSON's, "auto" and all else is text.
    /// </summary>
    public static JsonElement ToJson(RunConfig config)
    {
        var text = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(text))
            Write(json, Node(config));
        return JsonElement.Parse(text.WrittenSpan);

        static void Write(Utf8JsonWriter json, YamlNode node)
        {
            switch (node)
            {
                case YamlMappingNode mapping:
                    json.WriteStartObject();
                    foreach (var (key, value) in mapping.Children)
                    {
                        json.WritePropertyName($"{key}");
                        Write(json, value);
                    }

                    json.WriteEndObject();
                    break;
                case YamlSequenceNode sequence:
                    json.WriteStartArray();
                    foreach (YamlNode item in sequence)
                        Write(json, item);
                    json.WriteEndArray();
                    break;
                case YamlScalarNode { Style: ScalarStyle.DoubleQuoted } text:
                    json.WriteStringValue(text.Value);
                    break;
                case YamlScalarNode { Value: "null" }:
                    json.WriteNullValue();
                    break;
                case YamlScalarNode { Value: "true" or "false" } flag:
                    json.WriteBooleanValue(flag.Value == "true");
                    break;
                case YamlScalarNode scalar when IsJsonNumber(scalar.Value!):
                    json.WriteRawValue(scalar.Value!);
                    break;
                default:
                    json.WriteStringValue($"{node}");
                    break;
            }
        }

        static bool IsJsonNumber(string text) =>
            text is [(>= '0' and <= '9') or '-', ..]
            && double.TryParse(text, CultureInfo.InvariantCulture, out double value)
            && double.IsFinite(value);
    }

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
        Dictionary<string, string> old = Flat(Node(before)),
            now = Flat(Node(ToJson(after)));
        // What was written before there were these keys was computed so.
        foreach (var (key, value) in Flat(Node(new PrecisionConfig()), "precision"))
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
            Flat(Node(section), path).Except(Flat(Node(defaults), path)).Select(entry => $"{entry.Key} {entry.Value}");
    }

    /// <summary>
    /// A configuration that was kept as JSON, as YAML: key by key as it is, so that one of another version of the
    /// program can be read too.
    /// </summary>
    public static string YamlOf(JsonElement config) => Text(Node(config));

    /// <summary>
    /// The model of a configuration that was kept as JSON; null where it is not one of this version of the program.
    /// </summary>
    public static LongNetConfig? ModelOf(JsonElement config)
    {
        if (config.ValueKind != JsonValueKind.Object || !config.TryGetProperty("model", out JsonElement model))
            return null;
        try
        {
            var problems = new ConfigurationProblems();
            var bound = (ModelConfig?)
                new YamlBinder(problems, "", _ => "").Section(typeof(ModelConfig), Node(model), "model.");
            problems.ThrowIfAny();
            return bound?.ToModel();
        }
        catch (Exception error) when (error is UserException or ArgumentException)
        {
            return null;
        }
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

    private static string Text(YamlNode node)
    {
        using var text = new StringWriter(CultureInfo.InvariantCulture);
        new YamlStream(new YamlDocument(node)).Save(text, assignAnchors: false);
        return text.ToString().Replace("...\n", "", StringComparison.Ordinal);
    }

    // Fills in what depends on other keys or on where the file lies.
    private static RunConfig Complete(RunConfig config, string path, IReadOnlyList<string> overrides)
    {
        string name = config.Name ?? Path.GetFileNameWithoutExtension(path);
        return config with
        {
            Name = name,
            Output = config.Output ?? Path.Combine("runs", name),
            Model = config.Model with
            {
                FeedForward = config.Model.FeedForward ?? 4 * config.Model.DModel,
                InitialWeights = config.Model.InitialWeights is { } file
                    ? Path.GetFullPath(file, FolderOf("model.initial_weights"))
                    : null,
            },
            Data = config.Data with
            {
                Path = [.. config.Data.Path.Select(item => Path.GetFullPath(item, FolderOf("data.path")))],
                Tokenizer =
                    config.Data.Tokenizer == TokenizerName.Byte
                        ? TokenizerName.Byte
                        : Path.GetFullPath(config.Data.Tokenizer, FolderOf("data.tokenizer")),
            },
            Optimizer = config.Optimizer with
            {
                MinLr = config.Optimizer.MinLr ?? config.Optimizer.Lr / 10,
                DecaySteps = config.Optimizer.DecaySteps ?? config.Training.Steps,
            },
        };

        // What is typed with --set is meant from where it is typed.
        string FolderOf(string key) =>
            overrides.Any(text => text.StartsWith(key + "=", StringComparison.Ordinal))
                ? Directory.GetCurrentDirectory()
                : Path.GetDirectoryName(Path.GetFullPath(path))!;
    }

    private static YamlMappingNode Parse(string path)
    {
        try
        {
            using var reader = new StreamReader(path);
            var stream = new YamlStream();
            stream.Load(reader);
            return stream.Documents.Count > 0 && stream.Documents[0].RootNode is YamlMappingNode root
                ? root
                : throw new UserException(
                    $"{path} holds no configuration: it must be a YAML mapping with keys such as model, "
                        + "data and training."
                );
        }
        catch (YamlException error)
        {
            throw new UserException(
                $"{path}, line {error.Start.Line}: this is not valid YAML: "
                    + $"{error.InnerException?.Message ?? error.Message}"
            );
        }
        catch (Exception error) when (IsParserFault(error))
        {
            throw new UserException($"{path} is not valid YAML.");
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw new UserException($"The configuration {path} cannot be read: {error.Message}");
        }
    }

    // YamlDotNet's scanner fails in these ways on some text that is not YAML.
    private static bool IsParserFault(Exception error) =>
        error
            is InvalidOperationException
                or ArgumentException
                or IndexOutOfRangeException
                or NullReferenceException
                or FormatException;

    private static void Override(
        YamlMappingNode root,
        string assignment,
        Dictionary<YamlNode, string> origins,
        ConfigurationProblems problems
    )
    {
        string origin = $"--set {assignment}";
        int equals = assignment.IndexOf('=', StringComparison.Ordinal);
        if (equals <= 0)
        {
            problems.Add($"{origin}: write --set key.path=value, such as --set optimizer.lr=3e-4.");
            return;
        }

        var stream = new YamlStream();
        try
        {
            stream.Load(new StringReader(assignment[(equals + 1)..]));
            // Fails where an alias stands within its own anchor.
            _ = stream.Documents.Select(document => document.AllNodes.Count()).Sum();
        }
        catch (Exception error) when (error is YamlException || IsParserFault(error))
        {
            problems.Add($"{origin}: the value is not valid YAML.");
            return;
        }

        YamlNode value = stream.Documents.Count > 0 ? stream.Documents[0].RootNode : new YamlScalarNode("");
        string[] keys = assignment[..equals].Split('.');
        YamlMappingNode group = root;
        for (int k = 0; k < keys.Length; k++)
        {
            var existing = group.Children.FirstOrDefault(pair =>
                pair.Key is YamlScalarNode scalar && scalar.Value == keys[k]
            );
            var key = new YamlScalarNode(keys[k]);
            origins[key] = origin;
            if (existing.Key is not null)
                group.Children.Remove(existing.Key);
            YamlNode child = k == keys.Length - 1 ? value : existing.Value as YamlMappingNode ?? new YamlMappingNode();
            if (k == keys.Length - 1 || existing.Value is not YamlMappingNode)
                Mark(child);
            // An untouched key keeps its own line in messages.
            group.Children.Add(k < keys.Length - 1 && existing.Key is not null ? existing.Key : key, child);
            if (child is YamlMappingNode next)
                group = next;
        }

        void Mark(YamlNode node)
        {
            foreach (YamlNode part in node.AllNodes)
                origins[part] = origin;
        }
    }

    private static YamlNode Node(object? value)
    {
        switch (value)
        {
            case null:
                return new YamlScalarNode("auto");
            case string text:
                return new YamlScalarNode(text) { Style = ScalarStyle.DoubleQuoted };
            case bool flag:
                return new YamlScalarNode(flag ? "true" : "false");
            case double number:
                return new YamlScalarNode(number.ToString("R"));
            case Enum choice:
                return new YamlScalarNode(KeyName.OfValue(choice));
            case IFormattable number:
                return new YamlScalarNode(number.ToString(null, CultureInfo.InvariantCulture));
            case IEnumerable list:
                return new YamlSequenceNode(list.Cast<object>().Select(Node))
                {
                    Style = YamlDotNet.Core.Events.SequenceStyle.Flow,
                };
        }

        var mapping = new YamlMappingNode();
        foreach (PropertyInfo property in YamlBinder.Properties(value.GetType()))
        {
            // "auto" would be a text like any other.
            bool isAbsentText = property.PropertyType == typeof(string) && property.GetValue(value) is null;
            mapping.Add(
                KeyName.OfProperty(property.Name),
                isAbsentText ? new YamlScalarNode("null") : Node(property.GetValue(value))
            );
        }

        return mapping;
    }

    private static YamlNode Node(JsonElement value)
    {
        switch (value.ValueKind)
        {
            case JsonValueKind.Object:
                var mapping = new YamlMappingNode();
                foreach (JsonProperty property in value.EnumerateObject())
                    mapping.Children[new YamlScalarNode(property.Name)] = Node(property.Value);
                return mapping;
            case JsonValueKind.Array:
                return new YamlSequenceNode(value.EnumerateArray().Select(Node))
                {
                    Style = YamlDotNet.Core.Events.SequenceStyle.Flow,
                };
            case JsonValueKind.String:
                return new YamlScalarNode(value.GetString())
                {
                    Style = IsWord(value.GetString()!) ? ScalarStyle.Plain : ScalarStyle.DoubleQuoted,
                };
            default:
                return new YamlScalarNode(value.GetRawText());
        }

        // Such as the name of a choice. Other text keeps its quotes, as YAML might take it for something else.
        static bool IsWord(string text) =>
            text.Length > 0
            && text.All(char.IsAsciiLetterLower)
            && text is not ("null" or "true" or "false" or "yes" or "no" or "on" or "off" or "y" or "n");
    }
}
