using LongNet.Core.Attention;
using LongNet.Core.Model;

namespace LongNet.Core.Tests.Model;

/// <summary>The shape of a model that a test computes in milliseconds.</summary>
internal static class TinyModel
{
    public static LongNetConfig Config { get; } =
        new()
        {
            Layers = 2,
            DModel = 32,
            Heads = 4,
            FeedForward = 64,
            Vocabulary = 256,
            Schedule = new SegmentSchedule(new Branch(8, 1), new Branch(32, 2)),
        };
}
