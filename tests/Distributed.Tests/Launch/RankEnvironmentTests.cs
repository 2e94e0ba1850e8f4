using LongNet.Core;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Tests.Launch;

public class RankEnvironmentTests
{
    [Fact]
    public void From_NoLauncher_IsOneRank() => Assert.Equal(new RankEnvironment(RankLauncher.None, 0, 1, 0, 1), From());

    [Fact]
    public void From_OpenMpi_TakesItsVariables() =>
        Assert.Equal(
            new RankEnvironment(RankLauncher.OpenMpi, 5, 8, 1, 4, "libother.so"),
            From(
                ("OMPI_COMM_WORLD_SIZE", "8"),
                ("OMPI_COMM_WORLD_RANK", "5"),
                ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
                ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
                ("LONGNET_MPI_LIBRARY", "libother.so"),
                ("PMI_SIZE", "99")
            )
        );

    [Fact]
    public void From_Mpich_TakesPmiVariables() =>
        Assert.Equal(new RankEnvironment(RankLauncher.Mpich, 2, 3, 2, 3), From(("PMI_SIZE", "3"), ("PMI_RANK", "2")));

    // As Slurm 22.05 gives them to the third of three ranks on two nodes.
    private static readonly (string, string)[] SlurmStep =
    [
        ("SLURM_JOB_ID", "5"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "2"),
        ("SLURM_STEP_NUM_TASKS", "3"),
        ("SLURM_NTASKS", "3"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_NODEID", "1"),
        ("SLURM_STEP_TASKS_PER_NODE", "2,1"),
        ("SLURM_TASKS_PER_NODE", "2,1"),
    ];

    [Fact]
    public void From_SrunWithPmix_TakesSlurmsNumbers() =>
        Assert.Equal(new RankEnvironment(RankLauncher.SlurmPmix, 2, 3, 0, 1), From([("PMIX_RANK", "2"), .. SlurmStep]));

    [Fact]
    public void From_SrunWithPmi2_TakesSlurmsNumbers() =>
        Assert.Equal(
            new RankEnvironment(RankLauncher.SlurmPmi2, 2, 3, 0, 1),
            From([("PMI_RANK", "2"), ("PMI_SIZE", "3"), .. SlurmStep])
        );

    [Theory]
    [InlineData("4(x2),3", 0, 4)]
    [InlineData("4(x2),3", 1, 4)]
    [InlineData("4(x2),3", 2, 3)]
    [InlineData("11", 0, 11)]
    [InlineData("1(x11)", 10, 1)]
    public void From_SrunOnNodesOfSeveralSizes_CountsTheRanksOfItsOwn(string perNode, int node, int expected) =>
        Assert.Equal(
            new RankEnvironment(RankLauncher.SlurmPmix, 10, 11, 0, expected),
            From(
                ("PMIX_RANK", "10"),
                ("SLURM_PROCID", "10"),
                ("SLURM_STEP_NUM_TASKS", "11"),
                ("SLURM_LOCALID", "0"),
                ("SLURM_NODEID", $"{node}"),
                ("SLURM_STEP_TASKS_PER_NODE", perNode)
            )
        );

    // In a job's script, and on other machines in the step that is mpiexec's own, Slurm's variables speak of something
    // else.
    [Fact]
    public void From_MpiexecWithinAJob_TakesMpiexecsNumbers()
    {
        Assert.Equal(
            new RankEnvironment(RankLauncher.OpenMpi, 5, 8, 1, 4),
            From([
                ("OMPI_COMM_WORLD_SIZE", "8"),
                ("OMPI_COMM_WORLD_RANK", "5"),
                ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
                ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
                ("PMIX_RANK", "5"),
                .. SlurmStep,
            ])
        );
        Assert.Equal(
            new RankEnvironment(RankLauncher.Mpich, 2, 3, 1, 2),
            From([
                ("PMI_SIZE", "3"),
                ("PMI_RANK", "2"),
                ("MPI_LOCALRANKID", "1"),
                ("MPI_LOCALNRANKS", "2"),
                .. SlurmStep,
            ])
        );
        Assert.Equal(
            new RankEnvironment(RankLauncher.Mpich, 5, 8, 5, 8),
            From([("PMI_SIZE", "8"), ("PMI_RANK", "5"), .. SlurmStep])
        );
    }

    [Fact]
    public void From_PlainProcessWithinAJob_IsOneRank() =>
        Assert.Equal(new RankEnvironment(RankLauncher.None, 0, 1, 0, 1), From(SlurmStep));

    [Theory]
    [InlineData("2,2", "'2,2'")]
    [InlineData("2,one", "'2,one'")]
    [InlineData("3(x0)", "'3(x0)'")]
    [InlineData("0(x2147483647),3", "'0(x2147483647),3'")]
    [InlineData("1(x2147483647)", "'1(x2147483647)'")]
    [InlineData("99999999999", "'99999999999'")]
    [InlineData("", "''")]
    [InlineData(null, "not set")]
    public void From_NonsenseOfSlurm_SaysWhatToDo(string? perNode, string shown)
    {
        var error = Assert.Throws<UserException>(() =>
            RankEnvironment.From(name =>
                name switch
                {
                    "PMIX_RANK" or "SLURM_PROCID" => "1",
                    "SLURM_STEP_NUM_TASKS" => "3",
                    "SLURM_LOCALID" or "SLURM_NODEID" => "0",
                    "SLURM_STEP_TASKS_PER_NODE" => perNode,
                    _ => null,
                }
            )
        );
        Assert.Equal(
            $"The environment variable SLURM_STEP_TASKS_PER_NODE is {shown}, where srun puts the ranks of "
                + "every node, such as '4(x2),3', in all 3: "
                + "start the ranks with srun, or unset the variables it left behind.",
            error.Message
        );
    }

    [Fact]
    public void From_LauncherThatGivesNoSize_IsRefusedRatherThanRunAsManySingles()
    {
        const string Expected =
            "A launcher started this process as one of several ranks (PMIX_RANK is set) without saying how "
            + "many there are: start the ranks with mpiexec or with srun.";
        Assert.Equal(Expected, Assert.Throws<UserException>(() => From(("PMIX_RANK", "0"))).Message);
        // Of another launcher within a step of srun's.
        Assert.Equal(Expected, Assert.Throws<UserException>(() => From([("PMIX_RANK", "0"), .. SlurmStep])).Message);
    }

    [Theory]
    [InlineData("eight", "'eight'")]
    [InlineData("0", "'0'")]
    [InlineData("-1", "'-1'")]
    public void From_NonsenseOfALauncher_SaysWhatToDo(string size, string shown)
    {
        var error = Assert.Throws<UserException>(() => From(("OMPI_COMM_WORLD_SIZE", size)));
        Assert.Equal(
            $"The environment variable OMPI_COMM_WORLD_SIZE is {shown}, where a launcher puts a number from 1 "
                + "to 2147483647: "
                + "start the ranks with mpiexec, or unset the variables a launcher left behind.",
            error.Message
        );
    }

    [Fact]
    public void From_RankOutsideTheWorld_IsRefused()
    {
        var error = Assert.Throws<UserException>(() => From(("PMI_SIZE", "2"), ("PMI_RANK", "2")));
        Assert.StartsWith(
            "The environment variable PMI_RANK is '2', where a launcher puts a number from 0 to 1:",
            error.Message,
            StringComparison.Ordinal
        );
    }

    private static RankEnvironment From(params (string Name, string Value)[] variables) =>
        RankEnvironment.From(name =>
            variables.Where(variable => variable.Name == name).Select(variable => variable.Value).FirstOrDefault()
        );
}
