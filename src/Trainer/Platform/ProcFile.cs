using System.ComponentModel;
using System.Diagnostics;

namespace LongNet.Trainer.Platform;

/// <summary>What the system tells in files and by programs; null where it does not.</summary>
internal static class ProcFile
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(5);

    public static string? OfFile(string path)
    {
        try
        {
            return File.ReadAllText(path);
        }
        catch (Exception missing) when (missing is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>
    /// What a file of this process's control group says, and those of the groups around it, each of which limits those
    /// in it.
    /// </summary>
    public static IEnumerable<string> OfControlGroups(string file)
    {
        for (
            string? group = Field("/proc/self/cgroup", "0::") ?? "/";
            group is not null;
            group = Path.GetDirectoryName(group)
        )
        {
            if (OfFile($"/sys/fs/cgroup{group.TrimEnd('/')}/{file}") is string text)
                yield return text.Trim();
        }
    }

    /// <summary>The rest of the first line that begins so, without blanks and colons around it.</summary>
    public static string? Field(string path, string name) =>
        OfFile(path)
            ?.Split('\n')
            .FirstOrDefault(line => line.StartsWith(name, StringComparison.Ordinal))
            ?[name.Length..].Trim(' ', '\t', ':', '\r');

    /// <summary>What a program prints; null where it is missing, fails or hangs.</summary>
    public static string? OfProgram(string program, params string[] arguments)
    {
        try
        {
            using var process = Process.Start(
                new ProcessStartInfo(program, arguments)
                {
                    RedirectStandardOutput = true,
                    RedirectStandardError = true,
                    RedirectStandardInput = true,
                }
            )!;
            process.StandardInput.Close();
            Task<string> output = process.StandardOutput.ReadToEndAsync();
            _ = process.StandardError.ReadToEndAsync();
            if (!process.WaitForExit(Limit))
            {
                process.Kill();
                return null;
            }

            return process.ExitCode == 0 ? output.Result : null;
        }
        catch (Win32Exception)
        {
            return null;
        }
    }

    /// <summary>A program of this name on the PATH; null where there is none.</summary>
    public static string? OnPath(string program) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "")
            .Split(Path.PathSeparator)
            .Where(folder => folder.Length > 0)
            .Select(folder => Path.Combine(folder, program))
            .FirstOrDefault(File.Exists);
}
