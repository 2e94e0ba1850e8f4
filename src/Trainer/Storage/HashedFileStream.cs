using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace LongNet.Trainer.Storage;

/// <summary>
/// Writes a file from first byte to last and makes its digest. Filling a buffer, hashing one and writing one go on at
/// once, so that a file takes as long as the slowest of the three.
/// </summary>
/// <param name="file">The file. Owned.</param>
internal sealed class HashedFileStream(FileOutput file) : Stream
{
    private const int BufferBytes = 4 << 20,
        Buffers = 4;

    private readonly IncrementalHash digest = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
    private readonly nint[] buffers = new nint[Buffers];
    private readonly Task[] busy = [.. Enumerable.Repeat(Task.CompletedTask, Buffers)];
    private Task hashed = Task.CompletedTask,
        written = Task.CompletedTask;
    private int current,
        filled;
    private long handedOver;

    public override bool CanRead => false;

    public override bool CanSeek => false;

    public override bool CanWrite => true;

    public override long Length => handedOver + filled;

    public override long Position
    {
        get => Length;
        set => throw new NotSupportedException();
    }

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        while (buffer.Length > 0)
        {
            int count = Math.Min(buffer.Length, BufferBytes - filled);
            buffer[..count].CopyTo(Bytes(current)[filled..]);
            buffer = buffer[count..];
            filled += count;
            if (filled == BufferBytes)
                HandOver();
        }
    }

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    /// <summary>Writes what is left and returns when all of it is on the disk.</summary>
    /// <returns>SHA-256 of the file, lower-case hexadecimal.</returns>
    public string Complete()
    {
        long length = Length;
        if (filled > 0)
            HandOver();
        Task.WhenAll(hashed, written).GetAwaiter().GetResult();
        // The last write was padded to a block.
        file.SetLength(length);
        file.Sync();
        return Convert.ToHexStringLower(digest.GetHashAndReset());
    }

    public override void Flush()
    {
        // A part of a block cannot be written; Complete writes the last.
    }

    public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    protected override void Dispose(bool disposing)
    {
        // Buffers may still be read after a failure of the other of the two.
        _ = Task.WhenAll(busy).ContinueWith(_ => { }, TaskScheduler.Default).Wait(Timeout.Infinite);
        for (int b = 0; b < Buffers; b++)
        {
            Free(buffers[b]);
            buffers[b] = 0;
        }

        file.Dispose();
        digest.Dispose();
        base.Dispose(disposing);
    }

    private void HandOver()
    {
        int length = filled,
            padded = (length + FileOutput.Alignment - 1) / FileOutput.Alignment * FileOutput.Alignment;
        int buffer = current;
        Bytes(buffer)[length..padded].Clear();
        long position = handedOver;
        hashed = After(hashed, () => digest.AppendData(Bytes(buffer)[..length]));
        written = After(written, () => file.Write(Bytes(buffer)[..padded], position));
        busy[current] = Task.WhenAll(hashed, written);
        handedOver += length;
        filled = 0;
        current = (current + 1) % Buffers;
        busy[current].GetAwaiter().GetResult();
    }

    private unsafe Span<byte> Bytes(int buffer)
    {
        if (buffers[buffer] == 0)
            buffers[buffer] = (nint)NativeMemory.AlignedAlloc(BufferBytes, FileOutput.Alignment);
        return new Span<byte>((void*)buffers[buffer], BufferBytes);
    }

    private static unsafe void Free(nint buffer) => NativeMemory.AlignedFree((void*)buffer);

    private static async Task After(Task before, Action action)
    {
        await before.ConfigureAwait(false);
        await Task.Run(action).ConfigureAwait(false);
    }
}
