using LongNet.Core.Attention;
using LongNet.Core.Model;

namespace LongNet.Trainer.Configuration;

/// <summary>What a configuration must satisfy, whatever the ranks.</summary>
internal static class RunConfigRules
{
    public static void Check(RunConfig config, ConfigurationProblems problems)
    {
        Within("model.layers", config.Model.Layers, 1, 10_000);
        Within("model.d_model", config.Model.DModel, 1, 1 << 20);
        Within("model.heads", config.Model.Heads, 1, 1 << 20);
        Within("model.feed_forward", config.Model.FeedForward!.Value, 1, 1 << 24);
        AtLeast("training.steps", config.Training.Steps, 1);
        Within("training.sequence_length", config.Training.SequenceLength, 1, 1L << 40);
        Within("training.batch_size", config.Training.BatchSize, 1, 1 << 20);
        Within("training.micro_batch_size", config.Training.MicroBatchSize ?? 1, 1, 1 << 20);
        problems.Require(
            config.Training.TimeLimitMinutes is null or (> 0 and <= 1e8),
            $"training.time_limit_minutes is {config.Training.TimeLimitMinutes}, but must be above 0 "
                + "and at most 100000000, or auto for no limit."
        );
        AtLeast("evaluation.every_steps", config.Evaluation.EverySteps, 0);
        AtLeast("evaluation.sequences", config.Evaluation.Sequences, 1);
        AtLeast("checkpoint.every_steps", config.Checkpoint.EverySteps, 0);
        problems.Require(
            config.Checkpoint.EveryMinutes is >= 0 and <= 1e6,
            $"checkpoint.every_minutes is {config.Checkpoint.EveryMinutes}, but must be between 0 and "
                + "1000000 (0 turns it off)."
        );
        AtLeast("checkpoint.keep_last", config.Checkpoint.KeepLast, 0);
        AtLeast("checkpoint.keep_every", config.Checkpoint.KeepEvery, 0);
        AtLeast("logging.every_steps", config.Logging.EverySteps, 1);
        Within("parallel.data", config.Parallel.Data ?? 1, 1, 1 << 20);
        Within("parallel.sequence", config.Parallel.Sequence ?? 1, 1, 1 << 20);
        problems.Require(
            config.Parallel.TimeoutSeconds is >= 1 and <= 1e6,
            $"parallel.timeout_seconds is {config.Parallel.TimeoutSeconds}, but must be between 1 and 1000000."
        );
        Within("runtime.threads", config.Runtime.Threads ?? 1, 1, 4096);
        AtLeast("optimizer.warmup_steps", config.Optimizer.WarmupSteps, 0);
        AtLeast("optimizer.decay_steps", config.Optimizer.DecaySteps!.Value, 1);
        // Every tokenizer has a token for each byte; what else it has is known when its file is read.
        problems.Require(
            config.Model.Vocabulary >= 256,
            $"model.vocabulary is {config.Model.Vocabulary}, but the byte tokenizer needs at least 256."
        );
        problems.Require(
            TokenizerName.IsValid(config.Data.Tokenizer),
            $"data.tokenizer is {config.Data.Tokenizer}, but must be {TokenizerName.Choices}."
        );
        Within("model.vocabulary", Math.Max(1, config.Model.Vocabulary), 1, 1 << 24);
        problems.Require(
            config.Model.Dropout is >= 0 and < 1,
            $"model.dropout is {config.Model.Dropout}, but must be at least 0 and below 1."
        );
        problems.Require(
            config.Data.ValidationFraction is >= 0 and < 1,
            $"data.validation_fraction is {config.Data.ValidationFraction}, but must be at least 0 and below 1."
        );
        problems.Require(config.Data.Path.Count > 0, "data.path is empty: name a file, a directory or a glob of text.");
        problems.Require(config.Optimizer.Lr > 0, $"optimizer.lr is {config.Optimizer.Lr}, but must be above 0.");
        problems.Require(
            config.Optimizer.MinLr >= 0,
            $"optimizer.min_lr is {config.Optimizer.MinLr}, but must be at least 0."
        );
        problems.Require(
            config.Optimizer.Lr <= 0 || config.Optimizer.MinLr <= config.Optimizer.Lr,
            $"optimizer.min_lr ({config.Optimizer.MinLr}) is above optimizer.lr "
                + $"({config.Optimizer.Lr}): the rate decays from lr to min_lr."
        );
        problems.Require(
            config.Optimizer.Epsilon > 0,
            $"optimizer.epsilon is {config.Optimizer.Epsilon}, but must be above 0."
        );
        problems.Require(
            config.Optimizer.WeightDecay >= 0,
            $"optimizer.weight_decay is {config.Optimizer.WeightDecay}, but must be at least 0."
        );
        problems.Require(
            config.Optimizer.GradientClipping >= 0,
            $"optimizer.gradient_clipping is {config.Optimizer.GradientClipping}, but must be at least "
                + "0 (0 turns it off)."
        );
        problems.Require(
            config.Optimizer.Betas.Count == 2 && config.Optimizer.Betas.All(beta => beta is >= 0 and < 1),
            $"optimizer.betas is [{string.Join(", ", config.Optimizer.Betas)}], but must be two numbers at "
                + "least 0 and below 1, such as [0.9, 0.95]."
        );
        Attention(config.Model);
        Memory(config.Memory);

        void Attention(ModelConfig model)
        {
            if (model.Heads >= 1 && model.DModel >= 1)
            {
                problems.Require(
                    model.DModel % model.Heads == 0,
                    $"model.heads ({model.Heads}) must divide model.d_model ({model.DModel}): "
                        + $"{NearestDivisor(model.DModel, model.Heads)} heads would."
                );
                problems.Require(
                    model.Positions == PositionEncoding.None
                        || model.DModel % model.Heads != 0
                        || model.DModel / model.Heads % 2 == 0,
                    $"model.positions is {KeyName.OfValue(model.Positions)}, which rotates "
                        + $"pairs of channels, but a head has {model.DModel / model.Heads}: make d_model / heads "
                        + "even, or set positions: none."
                );
            }

            var (lengths, rates) = (model.Attention.SegmentLengths, model.Attention.DilationRates);
            problems.Require(
                lengths.Count == rates.Count && lengths.Count > 0,
                $"model.attention has {lengths.Count} segment_lengths and {rates.Count} dilation_rates: "
                    + "give one of each per branch."
            );
            problems.Require(
                lengths.All(w => w >= 1),
                $"model.attention.segment_lengths is [{string.Join(", ", lengths)}], but every length must "
                    + "be at least 1."
            );
            if (model.Attention.RelativePositionBias)
                RelativePositions(model.Attention);
            problems.Require(
                rates.All(r => r >= 1),
                $"model.attention.dilation_rates is [{string.Join(", ", rates)}], but every rate must be at least 1."
            );
        }

        void RelativePositions(AttentionConfig attention)
        {
            var (buckets, distance, both) = (
                attention.RelativePositionBuckets,
                attention.RelativePositionMaxDistance,
                attention.RelativePositionBidirectional
            );
            Within("model.attention.relative_position_buckets", buckets, both ? 4 : 2, 1 << 20);
            problems.Require(
                !both || buckets % 2 == 0,
                $"model.attention.relative_position_buckets is {buckets}, but must be even where they are "
                    + "bidirectional."
            );
            long exact = buckets / (both ? 4 : 2);
            problems.Require(
                distance > exact,
                $"model.attention.relative_position_max_distance is {distance}, but must be above {exact}, "
                    + $"the distances that {buckets} buckets tell apart one by one: "
                    + "raise it, or take fewer buckets."
            );
        }

        void Memory(MemoryConfig memory)
        {
            Within("memory.tile_rows", memory.TileRows ?? 1, 1, 1L << 40);
            Within("memory.loss_rows", memory.LossRows ?? 1, 1, 1L << 40);
            bool recomputes = memory.Recompute != Recompute.None,
                offloads = memory.Offload != Offload.None;
            problems.Require(
                memory.TileRows is null || recomputes,
                $"memory.tile_rows is {memory.TileRows}, but memory.recompute is none, and only recomputed "
                    + "blocks work in tiles: set memory.recompute to block or full."
            );
            problems.Require(
                recomputes || !offloads,
                "memory.offload is disk, but memory.recompute is none, and only what recomputed blocks "
                    + "keep can be offloaded: set memory.recompute to block or full."
            );
            problems.Require(
                memory.OffloadDirectory is null || offloads,
                $"memory.offload_directory is {memory.OffloadDirectory}, but memory.offload is none, so no "
                    + "file is written there: set memory.offload to disk."
            );
            problems.Require(
                memory.OffloadDirectory is null || !string.IsNullOrWhiteSpace(memory.OffloadDirectory),
                "memory.offload_directory is empty: name a folder, or leave the key out."
            );
        }

        void Within(string key, long value, long least, long most)
        {
            AtLeast(key, value, least);
            problems.Require(value <= most, $"{key} is {value}, but must be at most {most}.");
        }

        void AtLeast(string key, long value, long least) =>
            problems.Require(value >= least, $"{key} is {value}, but must be at least {least}.");
    }

    private static long NearestDivisor(long number, long near) =>
        Enumerable
            .Range(1, (int)Math.Min(number, int.MaxValue - 1))
            .Where(candidate => number % candidate == 0)
            .MinBy(candidate => Math.Abs(candidate - near));
}
