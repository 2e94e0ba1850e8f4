using System.Text.Json;
using LongNet.Distributed.Backends.Mpi;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Doctor;
using LongNet.Trainer.Measuring;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Tests.Doctor;

/// <summary>What the doctor says of machines that are not here.</summary>
public class DoctorChecksTests
{
    private static readonly ProcessorFacts EightCores = new()
    {
        Model = "Some CPU",
        IsAmd = false,
        Features = ["avx2", "avx512_bf16"],
        Allowed = [.. Enumerable.Range(0, 8)],
        Machine = 8,
        Threads = 4,
    };

    private static readonly MemoryFacts Roomy = new()
    {
        Total = 64L << 30,
        Available = 60L << 30,
        SharedTotal = 32L << 30,
        SharedFree = 32L << 30,
        DiskFree = 500L << 30,
    };

    private static readonly ProcessSettings FourThreads = new()
    {
        Threads = 4,
        MklOnAmd = false,
        Avx512Attention = false,
        TunedAllocator = false,
    };

    private static readonly GpuFacts NoGpus = new([], false, [], null);

    [Fact]
    public void Facts_AsText_ComeBackWhole()
    {
        RankFacts facts = Rank(1) with { Mpi = new MpiLibrary("libmpi.so.40", "Open MPI", "Open MPI v4.1.4") };
        string text = JsonSerializer.Serialize(facts);
        Assert.Equal(text, JsonSerializer.Serialize(JsonSerializer.Deserialize<RankFacts>(text)));
        Assert.Contains("Open MPI v4.1.4", text, StringComparison.Ordinal);
    }

    [Fact]
    public void Report_NothingToFix_EndsWithReady() =>
        Assert.Equal(
            "ok    cores          here\nnote  gpus           none\nready\n",
            DoctorReport.Text([new Finding("cores", "here"), Finding.Note("gpus", "none")])
        );

    [Fact]
    public void Report_ThingsToFix_NumbersThemAndRepeatsNone() =>
        Assert.Equal(
            "FIX   a              x\nFIX   a              y\nFIX   b              z\n2 things to fix:\n1. "
                + "One.\n2. Two.\n",
            DoctorReport.Text([
                Finding.ToFix("a", "x", "One."),
                new Finding("a", "y", Mark.Fix),
                Finding.ToFix("b", "z", "Two."),
            ])
        );

    [Fact]
    public void Software_AnotherVersionOnOneRank_IsToBeFixed()
    {
        RankFacts[] ranks = [Rank(0), Rank(1), Rank(2) with { Program = "longnet 0.0.9" }];
        Finding[] findings = [.. SoftwareChecks.Of(ranks).Where(finding => finding.Subject == "program")];
        Assert.Equal(["ranks 0-1: longnet 0.1.0", "rank 2: longnet 0.0.9"], findings.Select(finding => finding.Value));
        Assert.All(findings, finding => Assert.Equal(Mark.Fix, finding.Mark));
        Assert.Equal(
            "Ranks differ (ranks 0-1: longnet 0.1.0; rank 2: longnet 0.0.9). Install the same build of "
                + "longnet and the same .NET on every machine, or start all ranks from one shared folder.",
            Assert.Single(findings, finding => finding.Remedy is not null).Remedy
        );
    }

    [Fact]
    public void Processors_SharedEvenlyOrUnbound_AreFine()
    {
        Assert.All(ProcessorChecks.Of([Rank(0), Rank(1)]), finding => Assert.Equal(Mark.Ok, finding.Mark));
        Assert.All(ProcessorChecks.Of([Bound(0, 0, 1, 2, 3), Bound(1, 4, 5, 6, 7)]), finding =>
            Assert.Equal(Mark.Ok, finding.Mark)
        );
    }

    [Fact]
    public void Processors_EachRankBoundToOneCoreOfMany_IsToBeFixed()
    {
        Finding[] affinity =
        [
            .. ProcessorChecks.Of([Bound(0, 0), Bound(1, 1)]).Where(finding => finding.Subject == "affinity"),
        ];
        Assert.Equal(
            ["rank 0: processor 0, 4 threads", "rank 1: processor 1, 4 threads"],
            affinity.Select(finding => finding.Value)
        );
        Assert.StartsWith(
            "On node1 ranks are bound to 1 processor, where an even share is 4. Open MPI binds ranks",
            Remedy(affinity),
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void Processors_TwoHosts_AreJudgedApart()
    {
        RankFacts[] ranks =
        [
            Rank(0),
            Rank(1),
            Bound(2, 0) with
            {
                Host = "node2",
            },
            Bound(3, 0) with
            {
                Host = "node2",
            },
        ];
        Finding[] affinity = [.. ProcessorChecks.Of(ranks).Where(finding => finding.Subject == "affinity")];
        Assert.Equal([Mark.Ok, Mark.Fix], affinity.Select(finding => finding.Mark));
        Assert.StartsWith(
            "On node2 ranks 2-3 may run on 1 processor of 8 only (0),",
            Remedy(affinity),
            StringComparison.Ordinal
        );
    }

    [Theory]
    [InlineData(true, true, "ok", "4 CPU threads per rank, MKL's fast kernels on AMD")]
    [InlineData(
        true,
        false,
        "note",
        "4 CPU threads per rank; MKL's fast kernels cannot be had here, so matrix products take twice as "
            + "long as need be"
    )]
    [InlineData(false, false, "ok", "4 CPU threads per rank")]
    public void Settings_OfAnAmdProcessorWithoutMklsFastKernels_AreNoted(
        bool isAmd,
        bool mklOnAmd,
        string mark,
        string value
    )
    {
        RankFacts rank = Rank(0) with
        {
            Processor = EightCores with { IsAmd = isAmd },
            Settings = FourThreads with { MklOnAmd = mklOnAmd },
        };
        Finding finding = Assert.Single(ProcessorChecks.Of([rank]), finding => finding.Subject == "settings");
        Assert.Equal((mark, value), (finding.Mark.ToString().ToLowerInvariant(), finding.Value));
    }

    [Theory]
    [InlineData(
        "group",
        "1.5GB on node1 are too little for 2 ranks, each of which takes 1GB before it computes: raise the "
            + "limit (--memory of the container, --mem of the job), or start fewer ranks there."
    )]
    [InlineData(
        "space",
        "The address space on node1 is limited to 8GB (ulimit -v), of which .NET and MPI reserve far more "
            + "than they use: start with ulimit -v unlimited, and limit memory by control groups."
    )]
    [InlineData(
        "locked",
        "Locked memory on node1 is limited to 8MB (ulimit -l), but its network adapter moves only what is locked:"
    )]
    [InlineData(
        "shared",
        "/dev/shm on node1 has 16MB free, too little for the messages of 2 ranks: start the container with "
            + "--shm-size=1g (or --ipc=host), or mount -o remount,size=1G /dev/shm."
    )]
    public void Memory_LimitThatIsTooLow_IsToBeFixed(string which, string remedy)
    {
        MemoryFacts memory = which switch
        {
            "group" => Roomy with { ControlGroup = 3L << 29 },
            "space" => Roomy with { AddressSpace = 8L << 30 },
            "locked" => Roomy with { Locked = 8 << 20, HasRdma = true },
            _ => Roomy with { SharedTotal = 64 << 20, SharedFree = 16 << 20 },
        };
        Assert.StartsWith(
            remedy,
            Remedy(MemoryChecks.Of([Rank(0) with { Memory = memory }, Rank(1) with { Memory = memory }])),
            StringComparison.Ordinal
        );
        Assert.All(MemoryChecks.Of([Rank(0), Rank(1)]), finding => Assert.Equal(Mark.Ok, finding.Mark));
    }

    [Theory]
    [InlineData(0, true, 0, "2.22.3", "libtorch on node1 is one for CUDA, but there is no NVIDIA driver with a GPU:")]
    [InlineData(2, true, 0, "2.22.3", "libtorch on node1 is one for CUDA, but cannot use 2 x H100:")]
    [InlineData(
        2,
        true,
        2,
        null,
        "libnccl.so.2 cannot be loaded on node1, and ranks exchange what lies on GPUs through it:"
    )]
    [InlineData(
        1,
        true,
        1,
        "2.22.3",
        "node1 has 1 usable GPU for 2 ranks, each of which needs its own: start at most 1 there."
    )]
    public void Gpus_ThatCannotBeUsed_AreToBeFixed(int present, bool forCuda, int usable, string? nccl, string remedy)
    {
        var gpus = new GpuFacts(
            [.. Enumerable.Repeat("H100", present)],
            forCuda,
            [.. Enumerable.Repeat("H100", usable)],
            nccl
        );
        Assert.StartsWith(
            remedy,
            Remedy(GpuChecks.Of([Rank(0) with { Gpus = gpus }, Rank(1) with { Gpus = gpus }])),
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void Gpus_ThatALibtorchForCpusLeavesIdle_AreNoted()
    {
        Finding[] findings = [.. GpuChecks.Of([Rank(0) with { Gpus = new GpuFacts(["H100"], false, [], null) }])];
        Assert.Equal([Mark.Note, Mark.Ok], findings.Select(finding => finding.Mark));
        Assert.Equal(
            "node1: 1 x H100, not used by this libtorch for CPUs; build with -p:TorchBackend=cuda, or "
                + "external with LONGNET_LIBTORCH",
            findings[0].Value
        );
    }

    [Fact]
    public void Clocks_MoreThanASecondApart_AreToBeFixed()
    {
        Assert.Equal(Mark.Ok, CommunicationChecks.Clocks(2, TimeSpan.FromMilliseconds(0.3)).Mark);
        Finding apart = CommunicationChecks.Clocks(4, TimeSpan.FromSeconds(12));
        Assert.Equal("those of 4 ranks differ by 12000.0 ms", apart.Value);
        Assert.Contains("run a time service", apart.Remedy, StringComparison.Ordinal);
    }

    [Fact]
    public void Bandwidth_OfASlowNetwork_IsNoted()
    {
        // 16 MB among two ranks: half of it crosses the link.
        Finding finding = CommunicationChecks.Bandwidth(
            "all-gather",
            [new CollectiveTimes("all-gather", 16 << 20, 0.1, 0.1, 0.5)],
            hosts: 2
        );
        Assert.Equal(Mark.Note, finding.Mark);
        Assert.StartsWith(
            "16MB in 100.00 ms (0.08 GB/s), slow: MPI may take a slow network;",
            finding.Value,
            StringComparison.Ordinal
        );
    }

    [Theory]
    [InlineData(new[] { 8, 0, 1, 2, 3 }, "0-3,8")]
    [InlineData(new[] { 5 }, "5")]
    public void Ranges_OfNumbers_AreWrittenAsTheKernelDoes(int[] numbers, string expected) =>
        Assert.Equal(expected, RankGroups.Ranges(numbers));

    private static RankFacts Rank(int rank) =>
        new()
        {
            Rank = rank,
            LocalRanks = 1,
            Host = "node1",
            Launcher = RankLauncher.OpenMpi,
            Program = "longnet 0.1.0",
            LibTorch = "libtorch 2.10.0 for CPUs",
            Mpi = new MpiLibrary("libmpi.so.40", "Open MPI", "Open MPI v4.1.4"),
            Settings = FourThreads,
            Processor = EightCores,
            Memory = Roomy,
            Gpus = NoGpus,
        };

    private static RankFacts Bound(int rank, params int[] processors) =>
        Rank(rank) with
        {
            Processor = EightCores with { Allowed = processors },
        };

    private static string Remedy(IEnumerable<Finding> findings) =>
        Assert.Single(findings, finding => finding.Remedy is not null).Remedy!;
}
