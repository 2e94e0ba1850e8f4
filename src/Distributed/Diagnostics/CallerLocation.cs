namespace LongNet.Distributed.Diagnostics;

/// <summary>Where the program called a collective, as the compiler passes it.</summary>
/// <param name="File">Path of the source file.</param>
/// <param name="Line">Line in it; 0: not known.</param>
internal readonly record struct CallerLocation(string File, int Line)
{
    /// <summary>E.g. "TrainingStep.cs:88".</summary>
    public override string ToString() => Line == 0 ? Path.GetFileName(File) : $"{Path.GetFileName(File)}:{Line}";
}
