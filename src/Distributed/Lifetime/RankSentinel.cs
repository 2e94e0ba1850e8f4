using System.Diagnostics;
using System.Globalization;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Lifetime;

/// <summary>
/// A small process beside every rank that speaks for it when it is killed and cannot. Some launchers end the job then
/// without a word of which rank it was.
/// </summary>
/// <remarks>
/// A shell reads words from a pipe that only the rank holds. At its end without "done" the rank is dead. Of a machine's
/// ranks only the first that dies is told of: the others are what the launcher ended, or what its death made crash in
/// MPI. The shell keeps the launcher's connection open until it has spoken, because the launcher takes the job down
/// once it is closed.
/// </remarks>
internal sealed class RankSentinel : IDisposable
{
    // $1: the message; $2: the rank's process. The last number of a dead process's stat says which signal ended it: one
    // that aborted (6, 7, 11) may have done so because another died under its reads, so that other has the word.
    private const string Script = """
        message=$1 marker= told= others=
        while read -r word rest; do
          case $word in
            done) exit 0 ;;
            marker) marker=$rest ;;
            others) others=$rest ;;
            message) message=$rest ;;
            told) told=1; [ -z "$marker" ] || mkdir "$marker" 2>/dev/null ;;
          esac
        done
        [ -z "$told" ] || exit 0
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

    // Longer than a launcher takes to end a job.
    private static readonly TimeSpan MarkerLife = TimeSpan.FromMinutes(5);

    private readonly Process? process;
    private readonly Lock gate = new();

    private RankSentinel(Process? process) => this.process = process;

    /// <summary>Starts it; one that cannot be started is missed only where the rank is killed.</summary>
    public static RankSentinel Start(RankEnvironment environment)
    {
        string rank = string.Create(CultureInfo.InvariantCulture, $"{environment.Rank}");
        string message =
            $"longnet: rank {rank} ({Environment.MachineName}, process {Environment.ProcessId}) was killed: "
            + "by kill -9, the out-of-memory killer (dmesg tells) or a crash in native code.";
        // .NET sets up the terminal when it first starts a process. Under a launcher there is none, but Open MPI makes
        // the console look like one, and an escape sequence would be printed.
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
    /// Names the job, by which the machine's sentinels know that one of them has spoken: it leaves an empty folder.
    /// </summary>
    /// <param name="others">Processes of the machine's other ranks: where one is dead already, its sentinel has the
    /// word.</param>
    public void Mark(string jobId, IEnumerable<int> others)
    {
        // TMPDIR may name what is on another machine only.
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
            // Another user's, or removed by another rank: they are empty and stay.
        }

        Say($"others {string.Join(' ', others)}");
        Say($"marker {Path.Combine(folder, MarkerPrefix + jobId)}");
    }

    /// <summary>What it shall say instead.</summary>
    public void Message(string text) => Say($"message {text}");

    /// <summary>The rank has told what happened: nothing more is to be said on this machine.</summary>
    public void Told() => Say("told");

    /// <summary>The rank ends as it should.</summary>
    public void Dispose()
    {
        Say("done");
        process?.Dispose();
    }

    private void Say(string line)
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
            // Killed along with others, or ended.
        }
    }
}
