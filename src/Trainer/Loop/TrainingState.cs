using LongNet.Core;
using LongNet.Core.Model;
using LongNet.Core.Model.Torchscale;
using LongNet.Core.Optimization;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.DataParallel;
using LongNet.Distributed.SequenceParallel;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Configuration;
using static TorchSharp.torch;

namespace LongNet.Trainer.Loop;

/// <summary>
/// What training changes: parameters, optimizer state and the counters of steps, sequences and tokens. All of it is
/// alike on every rank, but for the optimizer state where that is sharded; a checkpoint fits any mesh, sharded or not.
/// </summary>
internal sealed class TrainingState : IDisposable
{
    private readonly RunPlan plan;
    private readonly DeviceMesh mesh;
    private readonly (string Name, Tensor Value)[] parameters;
    private readonly ParameterShard? shard;

    /// <summary>Makes the initial state. Collective over the mesh.</summary>
    /// <param name="plan">The run. </param>
    /// <param name="mesh">The ranks. Not owned.</param>
    /// <exception cref="AgreedUserException">A rank has no disk, or too little of it, for what is
    /// offloaded.</exception>
    public TrainingState(RunPlan plan, DeviceMesh mesh)
    {
        this.plan = plan;
        this.mesh = mesh;
        RunConfig config = plan.Config;
        Exchange = new AllGatherSequenceParallel(mesh.Sequence);
        Model = RankConsensus.Run(mesh.World, () =>
            new LongNetLanguageModel(config.Model.ToModel(), config.Seed, Exchange, config.ToExecution())
        );
        long offloaded = Model.OffloadedBytes(plan.Batch.MicroBatchSize, plan.RowsPerRank);
        RankConsensus.Run(mesh.World, () => Model.ReserveOffload(offloaded));
        LossScaler = config.Precision.Compute == ComputePrecision.Float16 ? new LossScaler() : null;
        var named = Model.named_parameters().Select(entry => (entry.name, entry.parameter)).ToArray();
        parameters = [.. named.Select(entry => (entry.name, (Tensor)entry.parameter))];
        Gradients = new GradientBuffer(named, mesh.World, config.Parallel.ShardOptimizer);
        var options = new AdamWOptions(
            config.Optimizer.Betas[0],
            config.Optimizer.Betas[1],
            config.Optimizer.Epsilon,
            config.Optimizer.WeightDecay
        );
        if (config.Parallel.ShardOptimizer)
        {
            shard = new ParameterShard(named, Gradients);
            Optimizer = new FusedAdamW(shard.Optimized, options);
        }
        else
        {
            Optimizer = new FusedAdamW(named, Gradients.Views, options);
        }

        // Machines of different kinds may draw normal numbers that differ in the last bit.
        BroadcastParameters();
    }

    /// <summary>Where keys and values of other ranks come from. Owned.</summary>
    public AllGatherSequenceParallel Exchange { get; }

    public LongNetLanguageModel Model { get; }

    public GradientBuffer Gradients { get; }

    public FusedAdamW Optimizer { get; }

    /// <summary>
    /// What the loss is multiplied by for backward; null where the compute type has the range that gradients need.
    /// </summary>
    public LossScaler? LossScaler { get; }

    /// <summary>Optimizer steps done, skipped ones included.</summary>
    public long Step { get; private set; }

    /// <summary>The global sample cursor: sequences that the whole job has trained on.</summary>
    public long SequencesConsumed { get; private set; }

    /// <summary>Target tokens that the whole job has trained on.</summary>
    public long TokensConsumed { get; private set; }

    /// <summary>Payload bytes that this rank has sent.</summary>
    public long BytesSent => (mesh.World.Volume + mesh.Data.Volume + mesh.Sequence.Volume + Exchange.Volume).BytesSent;

    public long ParameterCount => parameters.Sum(entry => entry.Value.NumberOfElements);

    /// <summary>Called before parameters and optimizer state change: returns when they may.</summary>
    public Action? Changing { get; set; }

    /// <summary>
    /// Lets the optimizer take a step with the gradients as they are; sharded, they are lost by that. Collective if
    /// sharded.
    /// </summary>
    /// <param name="rate">The step's learning rate.</param>
    public void Update(double rate)
    {
        Changing?.Invoke();
        Optimizer.Step(rate);
        shard?.GatherParameters();
    }

    /// <summary>Counts a step that has been done.</summary>
    public void Advance(long sequences, long tokens)
    {
        Step++;
        SequencesConsumed += sequences;
        TokensConsumed += tokens;
    }

    /// <summary>
    /// What this rank writes of a checkpoint of the state as it is: rank 0 the model, and every rank its shard of the
    /// optimizer state.
    /// </summary>
    /// <param name="validationLoss">What an evaluation of this state gave; null for none.</param>
    public CheckpointPart Part(double? validationLoss)
    {
        RunConfig config = plan.Config;
        bool isRoot = mesh.World.Rank == 0;
        var schedule = LearningRateSchedule.From(config.Optimizer);
        var manifest = new CheckpointManifest
        {
            Versions = CheckpointVersions.Current,
            Step = Step,
            SequencesConsumed = SequencesConsumed,
            TokensConsumed = TokensConsumed,
            Seed = config.Seed,
            LearningRateSchedule = new CheckpointSchedule(
                schedule.Peak,
                schedule.Minimum,
                schedule.WarmupSteps,
                schedule.DecaySteps
            ),
            LossScaler = LossScaler?.State,
            ValidationLoss = validationLoss,
            Mesh = new CheckpointMesh(plan.DataRanks, plan.SequenceRanks),
            ThreadsPerRank = get_num_threads(),
            MicroBatchSize = plan.Batch.MicroBatchSize,
            OptimizerSharded = shard is not null,
            OptimizerShards = shard is null ? 1 : mesh.World.Size,
            Corpus = plan.Corpus.Fingerprint,
            Config = ConfigurationText.ToJson(config),
            Files = [],
        };
        Dictionary<string, Tensor> state = Optimizer.State.ToDictionary(entry => entry.Name, entry => entry.Value);
        IEnumerable<StateSlice> slices = shard is null
            ? isRoot
                ? parameters.SelectMany((_, p) => Moments(p).Select(name => new StateSlice(name, null, state[name])))
                : []
            : shard.Slices.SelectMany(slice =>
                Moments(slice.Parameter).Select(name => new StateSlice(name, slice.Start, state[name]))
            );
        if (isRoot)
            slices = slices.Prepend(new StateSlice(FusedAdamW.StepName, null, state[FusedAdamW.StepName]));
        return new CheckpointPart(manifest, isRoot ? parameters : [], [.. slices], shard is null ? 0 : mesh.World.Rank);
    }

    /// <summary>Takes over a checkpoint, which rank 0 alone reads. Collective over the world.</summary>
    /// <param name="start">The checkpoint; null on other ranks.</param>
    /// <exception cref="AgreedUserException">It cannot be read or is another model's.</exception>
    public void Load(StartingPoint? start)
    {
        using OptimizerReader? reader = RankConsensus.RunLongOnRoot(mesh.World, () =>
        {
            CheckpointStore.ReadInto(Path.Combine(start!.Checkpoint, CheckpointStore.ModelFile), parameters);
            return OptimizerReader.Open(
                start.Checkpoint,
                start.Manifest,
                [
                    (FusedAdamW.StepName, []),
                    .. parameters.SelectMany((entry, p) => Moments(p).Select(name => (name, entry.Value.shape))),
                ]
            );
        });
        using var scope = NewDisposeScope();
        CheckpointManifest? manifest = start?.Manifest;
        Tensor counters = tensor(
            new long[] { manifest?.Step ?? 0, manifest?.SequencesConsumed ?? 0, manifest?.TokensConsumed ?? 0 }
        );
        mesh.World.Broadcast(counters, 0);
        long[] values = counters.data<long>().ToArray();
        (Step, SequencesConsumed, TokensConsumed) = (values[0], values[1], values[2]);
        LoadLossScaler(manifest?.LossScaler);
        BroadcastParameters();
        TakeOptimizerState(reader);
    }

    /// <summary>Takes over the parameters of a file, which rank 0 alone reads. Collective over the world.</summary>
    /// <param name="path">model.initial_weights; not read on other ranks.</param>
    /// <returns>What to look at although the file fits; empty on other ranks.</returns>
    /// <exception cref="AgreedUserException">It cannot be read or is another model's.</exception>
    public IReadOnlyList<string> LoadInitialWeights(string path)
    {
        IReadOnlyList<string>? notes = RankConsensus.RunOnRoot(mesh.World, () =>
        {
            try
            {
                return TorchscaleWeights.Load(Model, path);
            }
            catch (UserException mistake)
            {
                throw new UserException($"model.initial_weights: {mistake.Message}", mistake);
            }
        });
        BroadcastParameters();
        return notes ?? [];
    }

    public void Dispose()
    {
        Optimizer.Dispose();
        shard?.Dispose();
        Gradients.Dispose();
        Model.Dispose();
        Exchange.Dispose();
    }

    // The names of a parameter's optimizer state.
    private string[] Moments(int parameter) =>
        [FusedAdamW.MeanPrefix + parameters[parameter].Name, FusedAdamW.SquarePrefix + parameters[parameter].Name];

    // Of a run that scaled no losses there is nothing to go on from.
    private void LoadLossScaler(CheckpointLossScaler? kept)
    {
        if (LossScaler is null)
            return;
        CheckpointLossScaler state = kept ?? LossScaler.State;
        Tensor values = tensor(
            new[] { BitConverter.DoubleToInt64Bits(state.Scale), state.GoodSteps, state.SkippedSteps }
        );
        mesh.World.Broadcast(values, 0);
        long[] agreed = values.data<long>().ToArray();
        LossScaler.Load(new CheckpointLossScaler(BitConverter.Int64BitsToDouble(agreed[0]), agreed[1], agreed[2]));
    }

    private void BroadcastParameters()
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (_, value) in parameters)
            mesh.World.Broadcast(value, 0);
    }

    // Tensor by tensor, so that no rank ever holds more than its own state and one tensor.
    private void TakeOptimizerState(OptimizerReader? reader)
    {
        using var noGradient = no_grad();
        Dictionary<string, Tensor> state = Optimizer.State.ToDictionary(entry => entry.Name, entry => entry.Value);
        Share(FusedAdamW.StepName);
        for (int p = 0; p < parameters.Length; p++)
        {
            foreach (string name in Moments(p))
            {
                if (shard is null)
                    Share(name);
                else
                    Scatter(p, name);
            }
        }

        void Share(string name)
        {
            reader?.ReadInto(name, state[name]);
            mesh.World.Broadcast(state[name], 0);
        }

        void Scatter(int parameter, string name)
        {
            using var scope = NewDisposeScope();
            Tensor? whole = reader is null ? null : empty_like(parameters[parameter].Value);
            if (whole is not null)
                reader!.ReadInto(name, whole);
            shard!.ScatterFromRoot(parameter, whole, state.GetValueOrDefault(name));
        }
    }
}
