namespace LongNet.Distributed.Collectives;

/// <summary>How a reducing collective combines the ranks' elements.</summary>
public enum ReduceOperation
{
    Sum,
    Max,
    Min,
    Average,
}
