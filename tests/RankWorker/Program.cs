using LongNet.Core.Native;
using LongNet.Distributed.Launch;
using LongNet.Distributed.Lifetime;
using LongNet.RankWorker.Scenarios;
using TorchSharp;

// longnet-rank-worker SCENARIO [ARGUMENT …], started on every rank by mpiexec. A failed assertion ends all ranks with
// its message.
var scenarios = new Dictionary<string, Action<DistributedRuntime, string[]>>
{
    ["process-group"] = ProcessGroupContract.Run,
    ["process-group-cuda"] = ProcessGroupContract.RunOnGpus,
    ["process-group-staged"] = ProcessGroupContract.RunStaged,
    ["emulated-nccl"] = EmulatedNccl.Run,
    ["sequence-attention"] = SequenceAttention.Run,
    ["model-gradients"] = ModelGradients.Run,
    ["sharded-optimizer"] = ShardedOptimizer.Run,
    ["fast-kernels"] = FastKernels.Run,
    ["garbage-collection"] = GarbageCollection.Run,
    ["rank-consensus"] = RankConsensusScenario.Run,
    ["step-consensus"] = StepConsensusScenario.Run,
    ["depart"] = Departures.Run,
    ["device-training"] = DeviceTraining.Run,
    ["first-vector-math"] = FirstVectorMath.Run,
    ["run-lock"] = RunLockRace.Run,
};
LibTorch.Load();
torch.set_num_threads(1);
if (args[0] == "readme")
{
    ReadmeExample.Run();
    return;
}

// Many messages where the group's own limit is small: large tensors take the same way.
int largestMessage = args.Contains("--small-messages") ? 1000 : 1 << 30;
using var runtime = DistributedRuntime.Start(RankEnvironment.FromProcess(), TimeSpan.FromSeconds(30), largestMessage);
scenarios[args[0]](runtime, args[1..]);
