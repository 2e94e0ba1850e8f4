namespace LongNet.Core.Native;

/// <summary>Reads the text files in which Linux reports on processes and machines: /proc and /sys.</summary>
internal static class ProcFile
{
    /// <summary>The contents of a file; null where it is missing or may not be read.</summary>
    public static string? Text(string path) => Attempt(() => File.ReadAllText(path));

    /// <summary>The target of a symbolic link; null where it is missing or may not be read.</summary>
    public static string? LinkTarget(string path) => Attempt(() => new FileInfo(path).LinkTarget);

    /// <summary>
    /// The rest of the first line that begins with a name, without the blanks and colons around it; null where there is
    /// none.
    /// </summary>
    public static string? Field(string path, string name) =>
        Text(path)
            ?.Split('\n')
            .FirstOrDefault(line => line.StartsWith(name, StringComparison.Ordinal))
            ?[name.Length..].Trim(' ', '\t', ':', '\r');

    /// <summary>
    /// The contents of a file of this process's control group, then of the groups around it: each of them limits those
    /// inside it.
    /// </summary>
    public static IEnumerable<string> OfControlGroups(string file)
    {
        for (
            string? group = Field("/proc/self/cgroup", "0::") ?? "/";
            group is not null;
            group = Path.GetDirectoryName(group)
        )
        {
            if (Text($"/sys/fs/cgroup{group.TrimEnd('/')}/{file}") is string text)
                yield return text.Trim();
        }
    }

    private static string? Attempt(Func<string?> read)
    {
        try
        {
            return read();
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
