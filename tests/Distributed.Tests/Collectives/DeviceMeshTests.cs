using LongNet.Core;
using LongNet.Distributed.Collectives;

namespace LongNet.Distributed.Tests.Collectives;

public class DeviceMeshTests
{
    [Theory]
    [InlineData(null, null, 4, 1, 4)]
    [InlineData(2, null, 4, 2, 2)]
    [InlineData(null, 1, 4, 4, 1)]
    [InlineData(2, 2, 4, 2, 2)]
    [InlineData(null, null, 1, 1, 1)]
    public void Resolve_AxesThatMakeUpTheWorld(
        int? data,
        int? sequence,
        int ranks,
        int expectedData,
        int expectedSequence
    ) => Assert.Equal((expectedData, expectedSequence), DeviceMesh.Resolve(data, sequence, ranks));

    [Theory]
    [InlineData(
        2,
        3,
        4,
        "parallel: data (2) × sequence (3) = 6, but 4 ranks were started. Start 6 ranks, or set sequence: 2."
    )]
    [InlineData(
        3,
        2,
        4,
        "parallel: data (3) × sequence (2) = 6, but 4 ranks were started. Start 6 ranks, or set data: 2."
    )]
    [InlineData(
        3,
        3,
        4,
        "parallel: data (3) × sequence (3) = 9, but 4 ranks were started. Start 9 ranks, or set both to auto."
    )]
    [InlineData(
        1,
        2,
        1,
        "parallel: data (1) × sequence (2) = 2, but 1 rank was started. Start 2 ranks, or set sequence: 1."
    )]
    [InlineData(
        null,
        3,
        4,
        "parallel: sequence (3) does not divide the 4 ranks that were started. Start 3 ranks, or set sequence: 2."
    )]
    [InlineData(
        8,
        null,
        1,
        "parallel: data (8) does not divide the 1 rank that was started. Start 8 ranks, or set data: 1."
    )]
    [InlineData(0, null, 4, "parallel: data (0) must be a number of ranks, 1 or more, or auto.")]
    public void Resolve_AxesThatDoNot_SaysWhatWould(int? data, int? sequence, int ranks, string message) =>
        Assert.Equal(message, Assert.Throws<UserException>(() => DeviceMesh.Resolve(data, sequence, ranks)).Message);
}
