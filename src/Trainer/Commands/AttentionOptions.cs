using System.CommandLine;
using LongNet.Core.Attention;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Commands;

/// <summary>The options that describe the attention of a benchmark: branches and heads.</summary>
internal sealed class AttentionOptions
{
    public Option<long[]> SegmentLengths { get; } =
        ListOption.Numbers("--segment-lengths", "Segment length of every branch", [2048, 4096, 8192, 16384]);

    public Option<long[]> DilationRates { get; } =
        ListOption.Numbers("--dilation-rates", "Dilation rate of every branch", [1, 2, 4, 8]);

    public Option<long> Heads { get; } = new("--heads") { Description = "Heads", DefaultValueFactory = _ => 8 };

    public Option<long> HeadDim { get; } =
        new("--head-dim") { Description = "Channels per head", DefaultValueFactory = _ => 64 };

    public SegmentSchedule Schedule(ParseResult parsed) =>
        AttentionConfig.Schedule(parsed.GetValue(SegmentLengths)!, parsed.GetValue(DilationRates)!);
}
