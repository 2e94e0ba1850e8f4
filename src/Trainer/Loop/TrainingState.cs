using LongNet.Core;
using LongNet.Core.Devices;
using LongNet.Core.Model;
using LongNet.Core.Optimization;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.DataParallel;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Configuration;
using static TorchSharp.torch;

namespace LongNet.Trainer.Loop;

/// <summary>
/// What training changes: the model, the optimizer state and the counters of steps, sequences and tokens. All of it is
/// the same on every rank, except for the optimizer state where that is sharded; a checkpoint fits any mesh, sharded or
/// not.
/// </summary>
internal sealed class TrainingState : IDisposable
{
    private readonly RunPlan plan;
    private readonly DeviceMesh mesh;
    private readonly IReadOnlyList<(string Name, Tensor Value)> parameters;
    private readonly ParameterShard? shard;

    // Takes ownership of the model.
    private TrainingState(RunPlan plan, DeviceMesh mesh, TrainedModel trained)
    {
        this.plan = plan;
        this.mesh = mesh;
        TrainedModel = trained;
        parameters = trained.Parameters;
        RunConfig config = plan.Config;
        LossScaler = config.Precision.Compute == ComputePrecision.Float16 ? new LossScaler() : null;
        var named = Model.named_parameters().Select(entry => (entry.name, entry.parameter)).ToArray();
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
    }

    /// <summary>Makes the initial state. Collective over the mesh.</summary>
    /// <param name="plan">The run.</param>
    /// <param name="mesh">The ranks. Not owned.</param>
    /// <param name="device">Where the rank computes.</param>
    /// <exception cref="AgreedUserException">A rank has no disk for what is offloaded, or too little space on
    /// it.</exception>
    /// <exception cref="UserException">The device has no memory for it.</exception>
    public static TrainingState Create(RunPlan plan, DeviceMesh mesh, ComputeDevice device) =>
        DeviceMemoryError.Explain(plan, device, () => Make(plan, mesh, device));

    private static TrainingState Make(RunPlan plan, DeviceMesh mesh, ComputeDevice device)
    {
        var trained = TrainedModel.Create(plan.Shape, plan.Corpus.Tokenizer, mesh, device);
        long offloaded = trained.Module.OffloadedBytes(plan.Batch.MicroBatchSize, plan.TokensPerRank);
        RankConsensus.Run(mesh.World, () => trained.Module.ReserveOffload(offloaded));
        return new TrainingState(plan, mesh, trained);
    }

    /// <summary>The model, apart from what only training needs. Owned.</summary>
    public TrainedModel TrainedModel { get; }

    public LongNetLanguageModel Model => TrainedModel.Module;

    /// <summary>Where the rank computes.</summary>
    public ComputeDevice Device => TrainedModel.Device;

    public GradientBuffer Gradients { get; }

    public FusedAdamW Optimizer { get; }

    /// <summary>
    /// Chooses what the loss is multiplied by for backward; null where the compute type has the range that gradients
    /// need.
    /// </summary>
    public LossScaler? LossScaler { get; }

    /// <summary>Optimizer steps done, skipped ones included.</summary>
    public long Step => TrainedModel.Step;

    /// <summary>The global sample cursor: sequences that the whole job has trained on.</summary>
    public long SequencesConsumed { get; private set; }

    /// <summary>Target tokens that the whole job has trained on.</summary>
    public long TokensConsumed { get; private set; }

    /// <summary>Payload bytes that this rank has sent.</summary>
    public long BytesSent =>
        (mesh.World.Volume + mesh.Data.Volume + mesh.Sequence.Volume + TrainedModel.Volume).BytesSent;

    public long ParameterCount => parameters.Sum(entry => entry.Value.NumberOfElements);

    /// <summary>
    /// Takes an optimizer step with the present gradients; where the optimizer is sharded, that overwrites them and is
    /// collective.
    /// </summary>
    /// <param name="rate">The step's learning rate.</param>
    public void Update(double rate)
    {
        Optimizer.Step(rate);
        shard?.GatherParameters();
    }

    /// <summary>Counts a step that has been done.</summary>
    public void Advance(long sequences, long tokens)
    {
        TrainedModel.Step++;
        SequencesConsumed += sequences;
        TokensConsumed += tokens;
    }

    /// <summary>
    /// What this rank writes of a checkpoint of the present state: rank 0 the model, and every rank its shard of the
    /// optimizer state.
    /// </summary>
    /// <param name="validationLoss">The loss of an evaluation of this state; null for none.</param>
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
        return new CheckpointPart(
            manifest,
            isRoot ? [.. parameters] : [],
            [.. slices],
            shard is null ? 0 : mesh.World.Rank
        );
    }

    /// <summary>Loads a checkpoint, which only rank 0 reads. Collective over the world.</summary>
    /// <param name="start">The checkpoint; null on other ranks.</param>
    /// <exception cref="AgreedUserException">It cannot be read or is another model's.</exception>
    public void Load(StartingPoint? start)
    {
        using OptimizerReader? reader = RankConsensus.RunSlowOnRoot(mesh.World, () =>
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
            new long[] { manifest?.Step ?? 0, manifest?.SequencesConsumed ?? 0, manifest?.TokensConsumed ?? 0 },
            ScalarType.Int64,
            CPU
        );
        mesh.World.Broadcast(counters, 0);
        long[] values = counters.data<long>().ToArray();
        (TrainedModel.Step, SequencesConsumed, TokensConsumed) = (values[0], values[1], values[2]);
        LoadLossScaler(manifest?.LossScaler);
        TrainedModel.BroadcastParameters();
        LoadOptimizerState(reader);
    }

    /// <inheritdoc cref="TrainedModel.LoadInitialWeights"/>
    public IReadOnlyList<string> LoadInitialWeights(string path) => TrainedModel.LoadInitialWeights(path);

    public void Dispose()
    {
        Optimizer.Dispose();
        shard?.Dispose();
        Gradients.Dispose();
        TrainedModel.Dispose();
    }

    // The names of a parameter's optimizer state.
    private string[] Moments(int parameter) =>
        [FusedAdamW.MeanPrefix + parameters[parameter].Name, FusedAdamW.SquarePrefix + parameters[parameter].Name];

    // A run that did not scale its losses has saved no scale; this one then starts with the initial one.
    private void LoadLossScaler(CheckpointLossScaler? saved)
    {
        if (LossScaler is null)
            return;
        CheckpointLossScaler state = saved ?? LossScaler.State;
        Tensor values = tensor(
            new[] { BitConverter.DoubleToInt64Bits(state.Scale), state.GoodSteps, state.SkippedSteps },
            ScalarType.Int64,
            CPU
        );
        mesh.World.Broadcast(values, 0);
        long[] agreed = values.data<long>().ToArray();
        LossScaler.Load(new CheckpointLossScaler(BitConverter.Int64BitsToDouble(agreed[0]), agreed[1], agreed[2]));
    }

    // Tensor by tensor, so that no rank has more than its own state and one tensor in memory.
    private void LoadOptimizerState(OptimizerReader? reader)
    {
        using var noGradient = no_grad();
        Dictionary<string, Tensor> state = Optimizer.State.ToDictionary(entry => entry.Name, entry => entry.Value);
        Share(FusedAdamW.StepName);
        for (int p = 0; p < parameters.Count; p++)
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
            Tensor? complete = reader is null ? null : empty_like(parameters[parameter].Value);
            if (complete is not null)
                reader!.ReadInto(name, complete);
            shard!.ScatterFromRoot(parameter, complete, state.GetValueOrDefault(name));
        }
    }
}
