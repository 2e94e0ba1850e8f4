using System.Buffers;
using System.Text.Json;
using LongNet.Core;

namespace LongNet.Trainer.Reporting;

/// <summary>
/// metrics.jsonl: one JSON object per line and step, with numbers that are read back with the same bits. A line is
/// complete as soon as a reader sees it; while the disk refuses lines they wait in memory, and training continues.
/// </summary>
internal sealed class MetricsWriter : IDisposable
{
    private readonly FileStream file;
    private readonly Lock gate = new();
    private readonly ArrayBufferWriter<byte> waiting = new();
    private long end;

    /// <summary>Opens the file, keeping what earlier parts of the same run wrote.</summary>
    /// <param name="path">The file; its folder must exist.</param>
    /// <param name="step">
    /// Steps already done; null for a new run, which keeps no line. Lines of later steps, which this run will do again,
    /// and a last line that was cut off are removed.
    /// </param>
    /// <exception cref="UserException">The file cannot be written.</exception>
    public MetricsWriter(string path, long? step)
    {
        Path = path;
        try
        {
            file = new FileStream(
                path,
                FileMode.OpenOrCreate,
                FileAccess.ReadWrite,
                FileShare.ReadWrite,
                bufferSize: 0
            );
            end = step is long done ? KeptBytes(path, done) : 0;
            file.SetLength(end);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            file?.Dispose();
            throw new UserException($"{path} cannot be written: {error.Message}");
        }
    }

    /// <summary>The file, as it was given.</summary>
    public string Path { get; }

    /// <summary>Why lines wait in memory; null where none do.</summary>
    public string? Problem { get; private set; }

    public void Write(StepMetrics metrics)
    {
        WriteLine(json =>
        {
            json.WriteNumber("step", metrics.Step);
            WriteMeasured(json, "loss", metrics.Loss);
            WriteMeasured(json, "grad_norm", metrics.GradientNorm);
            json.WriteNumber("lr", metrics.LearningRate);
            json.WriteNumber("tokens", metrics.Tokens);
            json.WriteNumber("tokens_per_second", metrics.TokensPerSecond);
            json.WriteNumber("step_seconds", metrics.StepSeconds);
            json.WriteNumber("bytes_sent", metrics.BytesSent);
            json.WriteNumber("communication_seconds", metrics.ExposedCommunicationSeconds);
            json.WriteNumber("communication_total_seconds", metrics.InFlightCommunicationSeconds);
            json.WriteNumber("checkpoint_stall_seconds", metrics.CheckpointStallSeconds);
            if (metrics.PeakMemoryBytes is { } peak)
                json.WriteNumber("peak_memory_bytes", peak);
            if (metrics.LossScale is { } scale)
                json.WriteNumber("loss_scale", scale);
            if (metrics.SkippedSteps is { } skipped)
                json.WriteNumber("skipped_steps", skipped);
        });
    }

    public void Write(EvaluationMetrics metrics)
    {
        WriteLine(json =>
        {
            json.WriteNumber("step", metrics.Step);
            WriteMeasured(json, "eval_loss", metrics.Loss);
            WriteMeasured(json, "eval_bits_per_byte", metrics.BitsPerByte);
        });
    }

    /// <summary>
    /// Brings all lines to the disk, so that a checkpoint is never ahead of them. May be called from any thread.
    /// </summary>
    /// <exception cref="UserException">The disk refuses.</exception>
    public void Sync()
    {
        lock (gate)
        {
            WriteWaiting();
            if (Problem is not null)
                throw new UserException($"{file.Name} cannot be written: {Problem}");
        }

        try
        {
            // Outside the lock, as the disk may be slow: the training loop writes lines meanwhile.
            RandomAccess.FlushToDisk(file.SafeFileHandle);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new UserException($"{file.Name} cannot be written: {error.Message}");
        }
    }

    public void Dispose()
    {
        lock (gate)
            WriteWaiting();
        file.Dispose();
    }

    // JSON has no literals for infinities and NaN.
    private static void WriteMeasured(Utf8JsonWriter json, string key, double value)
    {
        if (double.IsFinite(value))
            json.WriteNumber(key, value);
        else
            json.WriteNull(key);
    }

    private void WriteLine(Action<Utf8JsonWriter> members)
    {
        lock (gate)
        {
            using (var json = new Utf8JsonWriter(waiting))
            {
                json.WriteStartObject();
                members(json);
                json.WriteEndObject();
            }

            waiting.Write("\n"u8);
            WriteWaiting();
        }
    }

    // At the end of the last complete line, over what a failed write may have left of the next.
    private void WriteWaiting()
    {
        try
        {
            RandomAccess.Write(file.SafeFileHandle, waiting.WrittenSpan, end);
            end += waiting.WrittenCount;
            waiting.ResetWrittenCount();
            Problem = null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            Problem = error.Message;
        }
    }

    // Where the first line begins that is cut off or of a later step.
    private static long KeptBytes(string path, long step)
    {
        using var content = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using var reader = new StreamReader(content);
        long kept = 0;
        bool terminated = content.Length > 0 && EndsWithNewline(content);
        content.Seek(0, SeekOrigin.Begin);
        while (reader.ReadLine() is { } line)
        {
            bool isComplete = terminated || reader.Peek() >= 0;
            if (!isComplete || !IsUpTo(line, step))
                break;
            kept += System.Text.Encoding.UTF8.GetByteCount(line) + 1;
        }

        return kept;
    }

    private static bool EndsWithNewline(FileStream content)
    {
        content.Seek(-1, SeekOrigin.End);
        return content.ReadByte() == '\n';
    }

    private static bool IsUpTo(string line, long step)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(line);
            return document.RootElement.ValueKind == JsonValueKind.Object
                && document.RootElement.TryGetProperty("step", out JsonElement value)
                && value.TryGetInt64(out long number)
                && number <= step;
        }
        catch (JsonException)
        {
            return false;
        }
    }
}
