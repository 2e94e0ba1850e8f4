using System.Text.Json;
using LongNet.Core;
using LongNet.Core.Model;
using YamlDotNet.RepresentationModel;

namespace LongNet.Trainer.Configuration;

/// <summary>Finds and reads configuration files.</summary>
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
        var replaced = new ConfigurationOverrides(problems);
        YamlMappingNode root = YamlText.ParseFile(path);
        foreach (string assignment in overrides)
            replaced.Apply(root, assignment);

        string shown = Path.GetRelativePath(Directory.GetCurrentDirectory(), path);
        var binder = new YamlBinder(problems, shown, node =>
            replaced.OriginOf(node) ?? $"{shown}, line {node.Start.Line}"
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
                new YamlBinder(problems, "", _ => "").Section(typeof(ModelConfig), YamlNodes.Of(model), "model.");
            problems.ThrowIfAny();
            return bound?.ToModel();
        }
        catch (Exception error) when (error is UserException or ArgumentException)
        {
            return null;
        }
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
}
