using LongNet.Core;
using LongNet.Core.Devices;
using LongNet.Core.Model;
using LongNet.Core.Model.Torchscale;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.DataParallel;
using LongNet.Distributed.SequenceParallel;
using LongNet.Trainer.Shape;
using static TorchSharp.torch;

namespace LongNet.Trainer.Loop;

/// <summary>
/// A model and what is needed to use it: weights, which are the same on every rank, the tokenizer, and how far it is
/// trained. No gradients and no optimizer.
/// </summary>
internal sealed class TrainedModel : IDisposable
{
    private readonly DeviceMesh mesh;
    private readonly AllGatherSequenceParallel sharding;

    // Takes ownership of the module and its sharding.
    private TrainedModel(DeviceMesh mesh, AllGatherSequenceParallel sharding, LongNetLanguageModel module)
    {
        this.mesh = mesh;
        this.sharding = sharding;
        Module = module;
        Parameters = [.. module.named_parameters().Select(entry => (entry.name, (Tensor)entry.parameter))];
    }

    /// <summary>The weights, their configuration, and how they compute.</summary>
    public LongNetLanguageModel Module { get; }

    /// <summary>All parameters of the module, in its order.</summary>
    public IReadOnlyList<(string Name, Tensor Value)> Parameters { get; }

    /// <summary>Name of the tokenizer whose tokens the model takes.</summary>
    public required string Tokenizer { get; init; }

    /// <summary>Where it computes.</summary>
    public required ComputeDevice Device { get; init; }

    /// <summary>Optimizer steps that the weights have been through.</summary>
    public long Step { get; set; }

    /// <summary>What this rank has sent and received for keys, values and their gradients.</summary>
    public CommunicationVolume Volume => sharding.Volume;

    /// <summary>Makes a model with its initial weights. Collective over the mesh.</summary>
    /// <param name="shape">The model's shape, seed and memory settings.</param>
    /// <param name="tokenizer">Name of the tokenizer.</param>
    /// <param name="mesh">The ranks. Not owned.</param>
    /// <param name="device">Where it computes.</param>
    /// <exception cref="AgreedUserException">A rank has no folder for what is offloaded.</exception>
    public static TrainedModel Create(RunShape shape, string tokenizer, DeviceMesh mesh, ComputeDevice device)
    {
        var sharding = new AllGatherSequenceParallel(mesh.Sequence);
        LongNetLanguageModel module = RankConsensus.Run(mesh.World, () =>
            // Weights are drawn on the CPU, so that they have the same bits on every device.
            new LongNetLanguageModel(shape.Model, shape.Config.Seed, sharding, shape.Config.ToExecution()).MoveTo(
                device.Device
            ));
        var model = new TrainedModel(mesh, sharding, module) { Tokenizer = tokenizer, Device = device };
        // Machines of different kinds may draw normal numbers that differ in the last bit.
        model.BroadcastParameters();
        return model;
    }

    /// <summary>Loads the parameters of a file, which only rank 0 reads. Collective over the world.</summary>
    /// <param name="path">model.initial_weights; not read on other ranks.</param>
    /// <returns>What to look at although the file fits; empty on other ranks.</returns>
    /// <exception cref="AgreedUserException">It cannot be read or is another model's.</exception>
    public IReadOnlyList<string> LoadInitialWeights(string path)
    {
        IReadOnlyList<string>? notes = RankConsensus.RunOnRoot(mesh.World, () =>
        {
            try
            {
                return TorchscaleWeights.Load(Module, path);
            }
            catch (UserException error)
            {
                throw new UserException($"model.initial_weights: {error.Message}", error);
            }
        });
        BroadcastParameters();
        return notes ?? [];
    }

    /// <summary>Gives every rank the parameters of rank 0. Collective over the world.</summary>
    public void BroadcastParameters() =>
        FlatBroadcast.Run(mesh.World, [.. Parameters.Select(entry => entry.Value)], root: 0);

    public void Dispose()
    {
        Module.Dispose();
        sharding.Dispose();
    }
}
