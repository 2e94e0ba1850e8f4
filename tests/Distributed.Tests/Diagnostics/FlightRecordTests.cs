using LongNet.Distributed.Diagnostics;
using LongNet.TestKit;

namespace LongNet.Distributed.Tests.Diagnostics;

/// <summary>The file of a flight record.</summary>
public sealed class FlightRecordTests
{
    [Fact]
    public void Write_FromSeveralThreadsAtOnce_LeavesOneCompleteRecord()
    {
        using var folder = new TemporaryFolder();
        // Of very different lengths, so that a mixture of two shows.
        FlightRecord[] records =
        [
            .. Enumerable.Range(0, 4).Select(writer => Record(new string('x', 1 + 5000 * writer))),
        ];
        for (int round = 0; round < 50; round++)
        {
            Thread[] threads =
            [
                .. records.Select(record => new Thread(() => Assert.True(record.TryWrite(folder.Path)))),
            ];
            foreach (Thread thread in threads)
                thread.Start();
            foreach (Thread thread in threads)
                thread.Join();
            FlightRecord read = Assert.Single(FlightRecord.ReadAll(folder.Path));
            Assert.Contains(records, record => record.Reason == read.Reason);
        }

        Assert.Single(Directory.GetFiles(folder.Path));
    }

    private static FlightRecord Record(string reason) =>
        new()
        {
            Rank = 1,
            Size = 2,
            Host = "node1",
            ProcessId = 4711,
            Written = new DateTime(2026, 11, 27, 0, 0, 0, DateTimeKind.Utc),
            Reason = reason,
            Activity = "a test",
            ActivitySeconds = 0,
            Groups = new Dictionary<string, RecordedGroup>(),
            Collectives = [],
        };
}
