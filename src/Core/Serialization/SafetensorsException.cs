namespace LongNet.Core.Serialization;

/// <summary>
/// A safetensors file that cannot be written, read or used as asked. The message names the file, the tensor where there
/// is one, the problem, and what to do.
/// </summary>
public sealed class SafetensorsException : UserException
{
    public SafetensorsException(string path, string? tensorName, string message, Exception? innerException = null)
        : base(message, innerException!)
    {
        Path = path;
        TensorName = tensorName;
        Problem = message;
    }

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>The tensor at fault, or null where the fault is not that of one tensor.</summary>
    public string? TensorName { get; }

    /// <summary>What is wrong: of a file that is not valid, without its name and without what to do.</summary>
    public string Problem { get; private init; }

    internal static SafetensorsException Invalid(string path, string problem, Exception? innerException = null) =>
        new(
            path,
            null,
            $"{path} is not a valid safetensors file: {problem}. Copy it again from its source, or give another file.",
            innerException
        )
        {
            Problem = problem,
        };

    internal static SafetensorsException InvalidTensor(string path, string name, string problem) =>
        new(
            path,
            name,
            $"{path} is not a valid safetensors file: tensor {Quote(name)} {problem}. Copy it again from "
                + "its source, or give another file."
        )
        {
            Problem = $"tensor {Quote(name)} {problem}",
        };

    /// <summary>A name as messages show it: no longer than a line, without control characters.</summary>
    internal static string Quote(string name)
    {
        const int Longest = 80;
        var shown = name.Length > Longest ? string.Concat(name.AsSpan(0, Longest), "…") : name;
        return "'" + string.Concat(shown.Select(character => char.IsControl(character) ? '?' : character)) + "'";
    }
}
