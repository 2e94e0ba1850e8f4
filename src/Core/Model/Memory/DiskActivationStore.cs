using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using LongNet.Core.Devices;
using LongNet.Core.Native;
using Microsoft.Win32.SafeHandles;
using static TorchSharp.torch;

namespace LongNet.Core.Model.Memory;

/// <summary>
/// In a file without a name, which is gone when the process is, however it ends. Tensors are written while the next
/// block computes, one at a time, and read back one ahead of the one that backward works on.
/// </summary>
internal sealed partial class DiskActivationStore : IActivationStore
{
    private const string Prefix = "longnet-activations";

    // errno of Linux: no space, no more of a quota; and the file's size stays as it is.
    private const int NoSpace = 28,
        OverQuota = 122,
        KeepSize = 1;

    // What fallocate answers when a signal came, and where there is no such thing.
    private const int Interrupted = 4,
        NotSupported = 95,
        NotImplemented = 38,
        Invalid = 22;

    private readonly string folder;
    private readonly SafeFileHandle file;
    private readonly Stack<Stored> waiting = [];
    private long end,
        reserved;
    private Task writing = Task.CompletedTask;

    /// <param name="folder">On a disk with space for what all blocks keep.</param>
    /// <exception cref="UserException">No file can be made there.</exception>
    public DiskActivationStore(string folder)
    {
        this.folder = folder;
        try
        {
            Directory.CreateDirectory(folder);
            RemoveLeftovers(folder);
            string path = Path.Combine(
                folder,
                $"{Prefix}-{Environment.MachineName}-{Environment.ProcessId}-{Guid.NewGuid():N}"
            );
            file = File.OpenHandle(
                path,
                FileMode.CreateNew,
                FileAccess.ReadWrite,
                FileShare.Read | FileShare.Delete,
                FileOptions.DeleteOnClose
            );
            // Else it stays where the process is killed; other systems remove no open file.
            if (OperatingSystem.IsLinux())
                File.Delete(path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw Failed(error);
        }
    }

    public void Reserve(long bytes)
    {
        reserved = bytes;
        if (bytes == 0)
            return;
        int error;
        do error =
            !OperatingSystem.IsLinux() ? NotSupported
            : Allocate(file, KeepSize, 0, bytes) == 0 ? 0
            : Marshal.GetLastPInvokeError();
        while (error == Interrupted);
        // A file system that reserves nothing is asked what it has.
        if (error == 0 || (error is NotSupported or NotImplemented or Invalid && Free() >= bytes))
            return;
        // Some systems keep what they had allocated when they ran out.
        RandomAccess.SetLength(file, 0);
        throw new UserException(NoRoom(bytes, Free()));
    }

    public IStoredActivation Store(Tensor tensor)
    {
        Await(writing);
        Tensor held;
        using (no_grad())
            held = DeviceRead.ToCpu(tensor.detach()).contiguous().DetachFromDisposeScope();
        var stored = new Stored(this, held.shape, held.dtype, tensor.device.type, tensor.device.index, end);
        long position = end;
        end += TensorMemory.ByteLength(held);
        writing = Task.Run(() =>
        {
            using (held)
                TensorMemory.Read(held, (bytes, start) => RandomAccess.Write(file, bytes, position + start));
        });
        stored.Written = writing;
        waiting.Push(stored);
        return stored;
    }

    public void Dispose()
    {
        // What fails is of no more use.
        writing.ContinueWith(_ => { }, TaskScheduler.Default).Wait();
        file.Dispose();
    }

    private void Await(Task task)
    {
        try
        {
            task.GetAwaiter().GetResult();
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw Failed(error);
        }
    }

    private UserException Failed(Exception error) =>
        new(
            error is IOException { HResult: NoSpace or OverQuota }
                ? NoRoom(Math.Max(reserved, end), Free())
                : Told(error.Message.TrimEnd('.')),
            error
        );

    private string NoRoom(long needed, long free) =>
        Told(
            string.Create(
                CultureInfo.InvariantCulture,
                $"those of this rank need {needed / 1e6:F1} MB, and the disk has {free / 1e6:F1} MB free"
            )
        );

    private string Told(string problem) =>
        $"Activations cannot be kept in {folder}: {problem}. Choose a folder on a disk with more space "
        + "(memory.offload_directory), or keep them in memory (memory.offload: none).";

    private long Free() => new DriveInfo(Path.GetFullPath(folder)).AvailableFreeSpace;

    // A process that is killed before its file has lost its name leaves an empty one.
    private static void RemoveLeftovers(string folder)
    {
        string ofHost = $"{Prefix}-{Environment.MachineName}-";
        foreach (string path in Directory.EnumerateFiles(folder, ofHost + "*"))
        {
            // Another host's name may begin with this one's.
            if (
                Path.GetFileName(path)[ofHost.Length..].Split('-') is not [var number, _]
                || !int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int process)
                || Runs(process)
            )
                continue;
            try
            {
                File.Delete(path);
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                // Another user's, which takes no space.
            }
        }
    }

    private static bool Runs(int process)
    {
        try
        {
            using var found = Process.GetProcessById(process);
            return true;
        }
        catch (ArgumentException)
        {
            return false;
        }
    }

    [LibraryImport("libc", EntryPoint = "fallocate", SetLastError = true)]
    private static partial int Allocate(SafeFileHandle file, int mode, long offset, long length);

    // The one below is read while backward works on this.
    private void ReadAhead()
    {
        while (waiting.TryPeek(out Stored? gone) && gone.IsGone)
            waiting.Pop();
        if (waiting.TryPeek(out Stored? next))
            next.Read();
        end = waiting.Count > 0 ? end : 0;
    }

    private sealed class Stored(
        DiskActivationStore store,
        long[] shape,
        ScalarType type,
        TorchSharp.DeviceType device,
        int deviceIndex,
        long position
    ) : IStoredActivation
    {
        private Task<Tensor>? reading;

        public Task Written { get; set; } = Task.CompletedTask;

        public bool IsGone { get; private set; }

        public void Read() =>
            reading ??= Written.ContinueWith(
                written =>
                {
                    written.GetAwaiter().GetResult();
                    Tensor tensor = empty(shape, dtype: type, device: CPU).DetachFromDisposeScope();
                    TensorMemory.Write(tensor, (bytes, start) => ReadExactly(bytes, position + start));
                    return tensor;
                },
                CancellationToken.None,
                TaskContinuationOptions.None,
                TaskScheduler.Default
            );

        public Tensor Take()
        {
            Read();
            store.Await(reading!);
            Tensor tensor = reading!.Result;
            IsGone = true;
            store.ReadAhead();
            if (device == TorchSharp.DeviceType.CPU)
                return tensor;
            using (tensor)
                return tensor.to(new Device(device, deviceIndex));
        }

        public void Dispose()
        {
            IsGone = true;
            store.ReadAhead();
        }

        private void ReadExactly(Span<byte> bytes, long at)
        {
            while (bytes.Length > 0)
            {
                int read = RandomAccess.Read(store.file, bytes, at);
                if (read == 0)
                    throw new IOException("the file is shorter than what was written");
                bytes = bytes[read..];
                at += read;
            }
        }
    }
}
