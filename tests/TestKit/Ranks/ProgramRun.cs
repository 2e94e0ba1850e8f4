using System.Diagnostics;
using System.Globalization;
using System.Text;

namespace LongNet.TestKit.Ranks;

/// <summary>What a program left behind.</summary>
/// <param name="ExitCode">Its exit code.</param>
/// <param name="Output">Standard output.</param>
/// <param name="Error">Standard error.</param>
/// <param name="Elapsed">From start to end.</param>
public sealed record ProgramResult(int ExitCode, string Output, string Error, TimeSpan Elapsed)
{
    /// <summary>Fails, with all that was printed, unless the program succeeded.</summary>
    public ProgramResult AssertSuccess() =>
        ExitCode == 0 ? this : throw new InvalidOperationException($"The program ended with code {ExitCode}.\n{this}");

    public override string ToString() =>
        $"exit code {ExitCode} after {Elapsed.TotalSeconds:F1} s\n--- output\n{Output}\n--- error\n{Error}";
}

/// <summary>A real process with everything it starts, that a test waits for or kills.</summary>
public sealed class ProgramRun : IDisposable
{
    private readonly Process process;
    private readonly StringBuilder output = new(),
        error = new();
    private readonly Stopwatch clock = Stopwatch.StartNew();

    /// <param name="file">The program.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="folder">Working directory; the checkout's root where null.</param>
    /// <param name="environment">Variables set, or removed where the value is null.</param>
    public ProgramRun(
        string file,
        IEnumerable<string> arguments,
        string? folder = null,
        IReadOnlyDictionary<string, string?>? environment = null
    )
    {
        ArgumentNullException.ThrowIfNull(arguments);
        var start = new ProcessStartInfo(file, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = folder ?? Repository.Root,
        };
        // A test may itself have been started by a launcher; the program must not take that one's variables for its
        // own.
        foreach (string inherited in start.Environment.Keys.Where(IsOfLauncher).ToArray())
            start.Environment.Remove(inherited);
        foreach (var (name, value) in environment ?? new Dictionary<string, string?>())
        {
            if (value is null)
                start.Environment.Remove(name);
            else
                start.Environment[name] = value;
        }

        process = new Process { StartInfo = start };
        process.OutputDataReceived += (_, line) => Append(output, line.Data);
        process.ErrorDataReceived += (_, line) => Append(error, line.Data);
        process.Start();
        process.StandardInput.Close();
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
    }

    public bool HasExited => process.HasExited;

    /// <summary>The program's process; where a shell started it by exec, the program's own.</summary>
    public int Id => process.Id;

    /// <summary>What it has printed so far.</summary>
    public string Printed
    {
        get
        {
            lock (output)
                return output.ToString();
        }
    }

    /// <summary>Sends a signal to a process.</summary>
    /// <param name="signal">E.g. SIGTERM.</param>
    /// <param name="times">How often, without a pause.</param>
    public static void Signal(int process, string signal, int times = 1)
    {
        string command = $"kill -{signal["SIG".Length..]} {process}";
        ToEnd(TimeSpan.FromSeconds(30), "sh", ["-c", string.Join("; ", Enumerable.Repeat(command, times))])
            .AssertSuccess();
    }

    /// <summary>Whether a process runs; one that has ended and is not yet waited for does not.</summary>
    public static bool Runs(int process) => Words($"{process}", "cmdline") is not [""];

    /// <summary>The process of a rank, among all of this machine.</summary>
    /// <param name="word">What its command line has and no other job's.</param>
    /// <exception cref="InvalidOperationException">There is none, or more than one.</exception>
    public static int FindRank(string program, string word, int rank)
    {
        IEnumerable<string> processes = Directory
            .EnumerateDirectories("/proc")
            .Select(folder => Path.GetFileName(folder))
            .Where(name => name.All(char.IsAsciiDigit));
        return int.Parse(processes.Single(IsIt), CultureInfo.InvariantCulture);

        bool IsIt(string process) =>
            Words(process, "cmdline") is var command
            && command[0] == program
            && command.Contains(word)
            && Words(process, "environ")
                .Any(variable => variable == $"OMPI_COMM_WORLD_RANK={rank}" || variable == $"PMI_RANK={rank}");
    }

    /// <summary>Runs a program to its end.</summary>
    public static ProgramResult ToEnd(
        TimeSpan limit,
        string file,
        IEnumerable<string> arguments,
        string? folder = null,
        IReadOnlyDictionary<string, string?>? environment = null
    )
    {
        using var run = new ProgramRun(file, arguments, folder, environment);
        return run.Wait(limit);
    }

    /// <summary>Waits for the end.</summary>
    /// <exception cref="TimeoutException">It did not come in time; everything is killed, and what was printed is
    /// told.</exception>
    public ProgramResult Wait(TimeSpan limit)
    {
        if (!process.WaitForExit(limit))
        {
            Kill();
            throw new TimeoutException($"The program did not end within {limit.TotalSeconds} s.\n{Result(-1)}");
        }

        // The overload without a limit also waits for the last lines.
        process.WaitForExit();
        return Result(process.ExitCode);
    }

    /// <summary>Ends the program and every process it started at once, as a lost machine would.</summary>
    public void Kill()
    {
        process.Kill(entireProcessTree: true);
        process.WaitForExit();
    }

    public void Dispose()
    {
        if (!process.HasExited)
            Kill();
        process.Dispose();
    }

    // An empty one where the process has ended.
    private static string[] Words(string process, string file)
    {
        try
        {
            return File.ReadAllText($"/proc/{process}/{file}").Split('\0');
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            return [""];
        }
    }

    private static bool IsOfLauncher(string variable) =>
        variable.StartsWith("OMPI_COMM_", StringComparison.Ordinal)
        || variable.StartsWith("PMI", StringComparison.Ordinal)
        || variable.StartsWith("MPI_LOCAL", StringComparison.Ordinal);

    private static void Append(StringBuilder text, string? line)
    {
        if (line is not null)
        {
            lock (text)
                text.AppendLine(line);
        }
    }

    private ProgramResult Result(int exitCode)
    {
        lock (output)
        {
            lock (error)
                return new ProgramResult(exitCode, output.ToString(), error.ToString(), clock.Elapsed);
        }
    }
}
