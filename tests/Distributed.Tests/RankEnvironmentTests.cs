using LongNet.Core;

namespace LongNet.Distributed.Tests;

public class RankEnvironmentTests
{
    [Fact]
    public void From_NoLauncher_IsOneRank() => Assert.Equal(new RankEnvironment(RankLauncher.None, 0, 1, 0, 1), From());

    [Fact]
    public void From_OpenMpi_TakesItsVariables() => Assert.Equal(
        new RankEnvironment(RankLauncher.OpenMpi, 5, 8, 1, 4, "libother.so"),
        From(
            ("OMPI_COMM_WORLD_SIZE", "8"), ("OMPI_COMM_WORLD_RANK", "5"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"), ("LONGNET_MPI_LIBRARY", "libother.so"), ("PMI_SIZE", "99")));

    [Fact]
    public void From_Mpich_TakesPmiVariables() => Assert.Equal(
        new RankEnvironment(RankLauncher.Mpich, 2, 3, 2, 3), From(("PMI_SIZE", "3"), ("PMI_RANK", "2")));

    [Fact]
    public void From_LauncherThatGivesNoSize_IsRefusedRatherThanRunAsManySingles() => Assert.Equal(
        "A launcher started this process as one of several ranks (PMIX_RANK is set) without saying how many there are: start the ranks with mpiexec, " +
        "or with srun --mpi=pmi2.",
        Assert.Throws<UserException>(() => From(("PMIX_RANK", "0"))).Message);

    [Theory]
    [InlineData("eight", "'eight'")]
    [InlineData("0", "'0'")]
    [InlineData("-1", "'-1'")]
    public void From_NonsenseOfALauncher_SaysWhatToDo(string size, string shown)
    {
        var error = Assert.Throws<UserException>(() => From(("OMPI_COMM_WORLD_SIZE", size)));
        Assert.Equal(
            $"The environment variable OMPI_COMM_WORLD_SIZE is {shown}, where a launcher puts a number from 1 to 2147483647: " +
            "start the ranks with mpiexec, or unset the variables a launcher left behind.",
            error.Message);
    }

    [Fact]
    public void From_RankOutsideTheWorld_IsRefused()
    {
        var error = Assert.Throws<UserException>(() => From(("PMI_SIZE", "2"), ("PMI_RANK", "2")));
        Assert.StartsWith("The environment variable PMI_RANK is '2', where a launcher puts a number from 0 to 1:", error.Message, StringComparison.Ordinal);
    }

    private static RankEnvironment From(params (string Name, string Value)[] variables) =>
        RankEnvironment.From(name => variables.Where(variable => variable.Name == name).Select(variable => variable.Value).FirstOrDefault());
}
