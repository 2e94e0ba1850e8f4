using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Core.Serialization;

/// <summary>
/// Writes tensors of any size to a safetensors file, as Python's <c>safetensors</c> package reads it.
/// </summary>
public static class SafetensorsWriter
{
    /// <summary>
    /// Writes the file beside its final name, syncs it to the disk and renames it: it appears complete or not at all,
    /// and a file that was there is replaced only then.
    /// </summary>
    /// <param name="path">File to write; its folder must exist.</param>
    /// <param name="tensors">
    /// Names, in the order the header lists them, and tensors of any shape, strides and device, of dtype F64, F32, F16,
    /// BF16, I64, I32, I16, I8, U8 or BOOL. Not disposed. Those that are strided or not on the CPU are copied, one at a
    /// time.
    /// </param>
    /// <param name="metadata">Text to keep with the tensors.</param>
    /// <param name="chunkBytes">Most bytes handed to the system at once.</param>
    /// <exception cref="SafetensorsException">The file cannot be written: no such folder, no permission, a full
    /// disk.</exception>
    /// <exception cref="ArgumentException">A name occurs twice or is reserved, or a dtype has no name in the
    /// format.</exception>
    public static void Write(
        string path,
        IReadOnlyList<KeyValuePair<string, Tensor>> tensors,
        IReadOnlyDictionary<string, string>? metadata = null,
        int chunkBytes = TensorMemory.DefaultChunkBytes
    ) => Write(path, SafetensorsLayout.Of(tensors, metadata), chunkBytes);

    /// <summary>Likewise, of tensors that are made when it is their turn.</summary>
    /// <param name="path">File to write; its folder must exist.</param>
    /// <param name="layout">The tensors.</param>
    /// <param name="chunkBytes">Most bytes handed to the system at once.</param>
    /// <exception cref="SafetensorsException">The file cannot be written: no such folder, no permission, a full
    /// disk.</exception>
    public static void Write(string path, SafetensorsLayout layout, int chunkBytes = TensorMemory.DefaultChunkBytes)
    {
        ArgumentNullException.ThrowIfNull(layout);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(chunkBytes);
        var partial = path + ".partial";
        try
        {
            using (
                var file = new FileStream(
                    partial,
                    new FileStreamOptions
                    {
                        Mode = FileMode.Create,
                        Access = FileAccess.Write,
                        Share = FileShare.None,
                        BufferSize = 0,
                        PreallocationSize = layout.FileLength,
                    }
                )
            )
            {
                layout.Write(file, chunkBytes);
                file.Flush(flushToDisk: true);
            }

            File.Move(partial, path, overwrite: true);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            DeleteQuietly(partial);
            throw new SafetensorsException(
                path,
                null,
                $"Cannot write {path}: {exception.Message} Check the folder, its permissions and the free space.",
                exception
            );
        }
        catch
        {
            DeleteQuietly(partial);
            throw;
        }
    }

    private static void DeleteQuietly(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // The failure that led here is the one to report.
        }
    }
}
