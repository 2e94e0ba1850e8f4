using System.Text.Json;
using LongNet.Core;
using LongNet.TestKit;
using LongNet.Trainer.Planning.Machines;

namespace LongNet.Trainer.Tests.Planning;

public class MachineFileTests
{
    [Fact]
    public void Machine_WrittenAndRead_IsTheSame()
    {
        using var folder = new TemporaryFolder();
        Machine desk = MachinePresets.Find("desk");
        Assert.Equal(
            desk,
            MachineFile.Find(folder.Write("machine.json", JsonSerializer.Serialize(desk, MachineFile.Json)))
        );
        Assert.Equal(
            desk,
            MachineFile.Find(
                folder.Write(
                    "doctor.json",
                    JsonSerializer.Serialize(new { Ready = true, Machine = desk }, MachineFile.Json)
                )
            )
        );
    }

    [Fact]
    public void Machine_ThatIsNone_SaysWhatThereIs()
    {
        Assert.Equal(
            "--machine laptop is neither a file nor a machine that is known: give one of a100-80gb, "
                + "h100-80gb, desk, or a file written by longnet doctor --json.",
            Assert.Throws<UserException>(() => MachineFile.Find("laptop")).Message
        );
        using var folder = new TemporaryFolder();
        string broken = folder.Write("broken.json", "{}");
        string message = Assert.Throws<UserException>(() => MachineFile.Find(broken)).Message;
        Assert.StartsWith($"--machine {broken} is no description of a machine: ", message, StringComparison.Ordinal);
        Assert.EndsWith(". Write one with longnet doctor --json > broken.json.", message, StringComparison.Ordinal);
        string idle = folder.Write(
            "idle.json",
            JsonSerializer.Serialize(MachinePresets.Find("desk") with { MatrixFloat32 = 0 }, MachineFile.Json)
        );
        Assert.Equal(
            $"--machine {idle} has matrix_float32 0, but it must be above 0: write the file anew with "
                + "longnet doctor --json.",
            Assert.Throws<UserException>(() => MachineFile.Find(idle)).Message
        );
    }
}
