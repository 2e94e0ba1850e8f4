using Xunit.Sdk;
using Xunit.v3;

// Tests here start several processes each, which need the cores to themselves.
[assembly: Parallelization(Mode = ParallelMode.None)]
