using System.Reflection;
using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Numerics;

namespace LongNet.Trainer.Configuration;

/// <summary>What a configuration must satisfy, whatever the ranks.</summary>
internal static class RunConfigRules
{
    /// <param name="config">With what it leaves open filled in.</param>
    /// <param name="problems">Takes what is wrong.</param>
    public static void Check(RunConfig config, ConfigurationProblems problems)
    {
        CheckRanges(config, "", problems);
        CheckHeads(config.Model, problems);
        CheckBranches(config.Model.Attention, problems);
        if (config.Model.Attention.RelativePositionBias)
            CheckRelativePositions(config.Model.Attention, problems);
        CheckTokens(config, problems);
        CheckMemory(config.Memory, problems);
        CheckOptimizer(config.Optimizer, problems);
    }

    // What properties require of their values by themselves, in the order of the keys.
    private static void CheckRanges(object section, string path, ConfigurationProblems problems)
    {
        foreach (PropertyInfo property in YamlBinder.Properties(section.GetType()))
        {
            string key = path + KeyName.OfProperty(property.Name);
            if (property.GetValue(section) is not { } value)
                continue;
            if (YamlBinder.IsSection(property.PropertyType))
                CheckRanges(value, key + ".", problems);
            else if (property.GetCustomAttribute<RangeAttribute>() is { } range)
                CheckRange(key, (IConvertible)value, range, problems);
        }
    }

    private static void CheckRange(string key, IConvertible value, RangeAttribute range, ConfigurationProblems problems)
    {
        if (range.Expectation(value.ToDouble(null)) is { } expectation)
            problems.Add($"{key} is {value}, but must be {expectation}.");
    }

    private static void CheckHeads(ModelConfig model, ConfigurationProblems problems)
    {
        if (model.Heads < 1 || model.DModel < 1)
            return;
        bool divides = model.DModel % model.Heads == 0;
        problems.Require(
            divides,
            $"model.heads ({model.Heads}) must divide model.d_model ({model.DModel}): "
                + $"{Integers.NearestDivisor(model.DModel, model.Heads)} heads would."
        );
        long channels = model.DModel / model.Heads;
        problems.Require(
            model.Positions == PositionEncoding.None || !divides || channels % 2 == 0,
            $"model.positions is {KeyName.OfValue(model.Positions)}, which rotates pairs of channels, but a head has "
                + $"{channels}: make d_model / heads even, or set positions: none."
        );
    }

    private static void CheckBranches(AttentionConfig attention, ConfigurationProblems problems)
    {
        var (lengths, rates) = (attention.SegmentLengths, attention.DilationRates);
        problems.Require(
            lengths.Count == rates.Count && lengths.Count > 0,
            $"model.attention has {lengths.Count} segment_lengths and {rates.Count} dilation_rates: "
                + "give one of each per branch."
        );
        problems.Require(
            lengths.All(length => length >= 1),
            $"model.attention.segment_lengths is [{string.Join(", ", lengths)}], but every length must "
                + "be at least 1."
        );
        problems.Require(
            rates.All(rate => rate >= 1),
            $"model.attention.dilation_rates is [{string.Join(", ", rates)}], but every rate must be at least 1."
        );
    }

    private static void CheckRelativePositions(AttentionConfig attention, ConfigurationProblems problems)
    {
        const string Buckets = "model.attention.relative_position_buckets";
        var (buckets, distance, both) = (
            attention.RelativePositionBuckets,
            attention.RelativePositionMaxDistance,
            attention.RelativePositionBidirectional
        );
        CheckRange(Buckets, buckets, new WithinAttribute(both ? 4 : 2, 1 << 20), problems);
        problems.Require(
            !both || buckets % 2 == 0,
            $"{Buckets} is {buckets}, but must be even where they are bidirectional."
        );
        long exact = buckets / (both ? 4 : 2);
        problems.Require(
            distance > exact,
            $"model.attention.relative_position_max_distance is {distance}, but must be above {exact}, "
                + $"the distances that {buckets} buckets tell apart one by one: "
                + "raise it, or take fewer buckets."
        );
    }

    private static void CheckTokens(RunConfig config, ConfigurationProblems problems)
    {
        problems.Require(config.Data.Path.Count > 0, "data.path is empty: name a file, a directory or a glob of text.");
        problems.Require(
            TokenizerName.IsValid(config.Data.Tokenizer),
            $"data.tokenizer is {config.Data.Tokenizer}, but must be {TokenizerName.Choices}."
        );
        // Every tokenizer has a token for each byte; what else it has is known when its file is read.
        problems.Require(
            config.Model.Vocabulary >= 256,
            $"model.vocabulary is {config.Model.Vocabulary}, but the byte tokenizer needs at least 256."
        );
    }

    private static void CheckMemory(MemoryConfig memory, ConfigurationProblems problems)
    {
        bool recomputes = memory.Recompute != Recompute.None,
            offloads = memory.Offload != Offload.None;
        problems.Require(
            memory.TileRows is null || recomputes,
            $"memory.tile_rows is {memory.TileRows}, but memory.recompute is none, and only recomputed "
                + "blocks work in tiles: set memory.recompute to block or full."
        );
        problems.Require(
            recomputes || !offloads,
            $"memory.offload is {KeyName.OfValue(memory.Offload)}, but memory.recompute is none, and only what "
                + "recomputed blocks keep can be offloaded: set memory.recompute to block or full."
        );
        problems.Require(
            memory.OffloadDirectory is null || memory.Offload == Offload.Disk,
            $"memory.offload_directory is {memory.OffloadDirectory}, but memory.offload is "
                + $"{KeyName.OfValue(memory.Offload)}, so no file is written there: set memory.offload to disk."
        );
        problems.Require(
            memory.OffloadDirectory is null || !string.IsNullOrWhiteSpace(memory.OffloadDirectory),
            "memory.offload_directory is empty: name a folder, or leave the key out."
        );
    }

    private static void CheckOptimizer(OptimizerConfig optimizer, ConfigurationProblems problems)
    {
        problems.Require(
            optimizer.Lr <= 0 || optimizer.MinLr <= optimizer.Lr,
            $"optimizer.min_lr ({optimizer.MinLr}) is above optimizer.lr ({optimizer.Lr}): the rate decays from lr to "
                + "min_lr."
        );
        problems.Require(
            optimizer.Betas.Count == 2 && optimizer.Betas.All(beta => beta is >= 0 and < 1),
            $"optimizer.betas is [{string.Join(", ", optimizer.Betas)}], but must be two numbers at "
                + "least 0 and below 1, such as [0.9, 0.95]."
        );
    }
}
