using LongNet.TestKit.Ranks;
using Xunit;

namespace LongNet.TestKit;

/// <summary>A file system of a few megabytes in memory, which a test can fill.</summary>
public sealed class SmallDisk : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    private readonly TemporaryFolder folder = new();

    private SmallDisk() { }

    public string Path => folder.Path;

    private string Ballast => folder[".ballast"];

    /// <summary>Mounts one; skips the test where this machine mounts none.</summary>
    public static SmallDisk Mount(int megabytes)
    {
        Assert.SkipUnless(
            OperatingSystem.IsLinux() && Environment.IsPrivilegedProcess,
            "A small disk is a tmpfs of Linux, which only root mounts."
        );
        var disk = new SmallDisk();
        ProgramResult mounted = ProgramRun.ToEnd(
            Limit,
            "mount",
            ["-t", "tmpfs", "-o", $"size={megabytes}m", "longnet-test", disk.Path]
        );
        if (mounted.ExitCode != 0)
        {
            disk.folder.Dispose();
            Assert.Skip($"A tmpfs is refused here: {mounted.Error.Trim()}");
        }

        return disk;
    }

    /// <summary>Takes all space but some.</summary>
    public void Fill(long but = 0)
    {
        using var file = new FileStream(Ballast, FileMode.Create, FileAccess.Write, FileShare.None, bufferSize: 0);
        var page = new byte[4096];
        try
        {
            while (true)
                file.Write(page);
        }
        catch (IOException)
        {
            file.SetLength(Math.Max(0, file.Length / page.Length * page.Length - but));
        }
    }

    /// <summary>Gives back the space that was taken.</summary>
    public void Free() => File.Delete(Ballast);

    public void Dispose()
    {
        ProgramRun.ToEnd(Limit, "umount", [Path]).AssertSuccess();
        folder.Dispose();
    }
}
