using System.Diagnostics;
using System.Globalization;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Lifetime;

/// <summary>
/// A small process beside every rank that reports when the rank is killed and cannot report itself. Some launchers then
/// end the job without naming the rank.
/// </summary>
/// <remarks>
/// A shell reads commands from a pipe that only the rank can write to. If the pipe ends without the command "done", the
/// rank is dead. On each machine only the first death is reported: the launcher ended the other ranks, or they crashed
/// in MPI because of it. The launcher ends the job when the connection that the rank inherited is closed, so the shell,
/// which inherited it too, reports before it exits.
/// </remarks>
internal sealed class RankSentinel : IDisposable
{
    // $1: the message; $2: the rank's process. The last number of a dead process's stat says which signal ended it. A
    // rank that aborted (6, 7, 11) may have read from the memory of a rank that died before, so where another rank is
    // dead, its sentinel reports first. The marker is a folder: mkdir succeeds for one sentinel only.
    private const string Script = """
        message=$1 marker= reported= others=
        while read -r word rest; do
          case $word in
            done) exit 0 ;;
            marker) marker=$rest ;;
            others) others=$rest ;;
            message) message=$rest ;;
            reported) reported=1; [ -z "$marker" ] || mkdir "$marker" 2>/dev/null ;;
          esac
        done
        [ -z "$reported" ] || exit 0
        signal=6
        if read -r stat 2>/dev/null <"/proc/$2/stat"; then signal=$((${stat##* } & 127)); fi
        case $signal in 6|7|11)
          for process in $others; do
            if [ ! -e "/proc/$process/exe" ]; then sleep 2; break; fi
          done
        esac
        if [ -n "$marker" ]; then mkdir "$marker" 2>/dev/null || exit 0; fi
        printf '%s\n' "$message" >&2
        sleep 0.2
        """;

    private const string MarkerPrefix = "longnet-ended-";

    // Longer than a launcher needs to end a job.
    private static readonly TimeSpan MarkerLife = TimeSpan.FromMinutes(5);

    private readonly Process? process;
    private readonly Lock gate = new();

    private RankSentinel(Process? process) => this.process = process;

    /// <summary>Starts the process. Where that fails, only a rank that is killed is not reported.</summary>
    public static RankSentinel Start(RankEnvironment environment)
    {
        string rank = string.Create(CultureInfo.InvariantCulture, $"{environment.Rank}");
        string message =
            $"longnet: rank {rank} ({Environment.MachineName}, process {Environment.ProcessId}) was killed: "
            + "by kill -9, the out-of-memory killer (dmesg tells) or a crash in native code.";
        // .NET sets up the terminal when it first starts a process. Open MPI makes the console look like a terminal, so
        // an escape sequence would be printed.
        Environment.SetEnvironmentVariable("TERM", "dumb");
        try
        {
            var start = new ProcessStartInfo(
                "setsid",
                [
                    "/bin/sh",
                    "-c",
                    Script,
                    "longnet-sentinel",
                    message,
                    string.Create(CultureInfo.InvariantCulture, $"{Environment.ProcessId}"),
                ]
            )
            {
                RedirectStandardInput = true,
                WorkingDirectory = "/",
            };
            return new RankSentinel(Process.Start(start));
        }
        catch (Exception missing) when (missing is System.ComponentModel.Win32Exception or IOException)
        {
            return new RankSentinel(null);
        }
    }

    /// <summary>
    /// Gives the sentinel what all sentinels of this machine and job share: the name of an empty folder, which the
    /// first that reports makes.
    /// </summary>
    /// <param name="others">Processes of the machine's other ranks.</param>
    public void JoinJob(string jobId, IEnumerable<int> others)
    {
        // TMPDIR may name a folder that exists on another machine only.
        string folder = Directory.Exists(Path.GetTempPath()) ? Path.GetTempPath() : "/tmp";
        try
        {
            foreach (string old in Directory.EnumerateDirectories(folder, MarkerPrefix + "*"))
            {
                if (TimeProvider.System.GetUtcNow() - Directory.GetCreationTimeUtc(old) > MarkerLife)
                    Directory.Delete(old);
            }
        }
        catch (Exception other) when (other is IOException or UnauthorizedAccessException)
        {
            // The folder is another user's, or another rank has removed it. A folder that stays is empty.
        }

        Write($"others {string.Join(' ', others)}");
        Write($"marker {Path.Combine(folder, MarkerPrefix + jobId)}");
    }

    /// <summary>Replaces the message that the sentinel reports.</summary>
    public void SetMessage(string text) => Write($"message {text}");

    /// <summary>A rank has reported why the job ends: the sentinels of this machine report nothing more.</summary>
    public void SetReported() => Write("reported");

    /// <summary>The rank is about to exit in order.</summary>
    public void Dispose()
    {
        Write("done");
        process?.Dispose();
    }

    private void Write(string line)
    {
        try
        {
            lock (gate)
            {
                process?.StandardInput.WriteLine(line);
                process?.StandardInput.Flush();
            }
        }
        catch (Exception gone) when (gone is IOException or InvalidOperationException or ObjectDisposedException)
        {
            // The sentinel was killed with other processes, or has ended.
        }
    }
}
