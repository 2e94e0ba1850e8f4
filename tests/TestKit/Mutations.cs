using System.Buffers.Binary;
using System.Text;
using System.Text.RegularExpressions;

namespace LongNet.TestKit;

/// <summary>Damage and malice done to files of JSON and of safetensors. The same seed does the same.</summary>
/// <param name="seed">Chooses what is done, and where.</param>
public sealed partial class Mutations(int seed)
{
    private const string Itself = "$0";

    private static readonly string[] Numbers =
    [
        "0",
        "-0",
        "-1",
        "1",
        "2",
        "3",
        "1.5",
        "1e1",
        "1e400",
        "-1e400",
        "1e-400",
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "null",
        "true",
        "\"1\"",
        "[]",
        "{}",
        "NaN",
        "Infinity",
        "01",
        "0x10",
    ];

    private static readonly string[] Texts =
    [
        "",
        ".",
        "..",
        "../decoy",
        "../../decoy",
        "/etc/passwd",
        "/dev/zero",
        "C:\\decoy",
        "model.safetensors/../../decoy",
        "decoy\\u0000.safetensors",
        "\\u0000",
        "\\ud800",
        "link",
        "pipe",
        "model.safetensors",
        "optimizer-00000-of-00002.safetensors",
        "F64",
        "F32",
        "I32",
        "BF16",
        "BOOL",
        "F99",
        "__metadata__",
        "shape",
        "state.json",
        "\\u001b[2J\\n",
    ];

    private readonly Random random = new(seed);
    private readonly StringBuilder done = new();

    /// <summary>What has been done, for the message of a test that fails.</summary>
    public override string ToString() => $"seed {seed}: {done}";

    /// <summary>Changes any bytes.</summary>
    public byte[] Bytes(byte[] bytes)
    {
        ArgumentNullException.ThrowIfNull(bytes);
        if (bytes.Length == 0)
            return [(byte)random.Next(256)];
        int from = random.Next(bytes.Length),
            length = random.Next(1, Math.Min(bytes.Length - from, 64) + 1),
            to = random.Next(bytes.Length);
        switch (random.Next(8))
        {
            case 0:
                int bit = random.Next(8);
                byte[] flipped = [.. bytes];
                flipped[from] ^= (byte)(1 << bit);
                return Did($"bit {bit} of byte {from} flipped", flipped);
            case 1:
                return Did($"cut off at {from}", bytes[..from]);
            case 2:
                return Did($"{length} bytes at {from} removed", [.. bytes[..from], .. bytes[(from + length)..]]);
            case 3:
                return Did($"{length} bytes at {from} twice", [.. bytes[..(from + length)], .. bytes[from..]]);
            case 4:
                return Did(
                    $"{length} bytes at {from} put in at {to}",
                    [.. bytes[..to], .. bytes.AsSpan(from, length), .. bytes[to..]]
                );
            case 5:
                byte value = new byte[] { 0, 0xFF, (byte)' ', (byte)'"', (byte)'\\', (byte)'{', (byte)'[' }[
                    random.Next(7)
                ];
                byte[] filled = [.. bytes];
                filled.AsSpan(from, length).Fill(value);
                return Did($"{length} bytes at {from} are {value}", filled);
            case 6:
                // No UTF-8: a byte that begins nothing, a character too long, half of a pair.
                byte[] invalid = new byte[][]
                {
                    [0xFF],
                    [0xC0, 0x80],
                    [0xED, 0xA0, 0x80],
                    [0xF5, 0x80, 0x80, 0x80],
                    [0x80],
                }[random.Next(5)];
                return Did($"invalid UTF-8 at {from}", [.. bytes[..from], .. invalid, .. bytes[from..]]);
            default:
                var more = new byte[random.Next(1, 5000)];
                random.NextBytes(more);
                return Did($"{more.Length} bytes more", [.. bytes, .. more]);
        }
    }

    /// <summary>Changes JSON so that it mostly stays JSON.</summary>
    public string Json(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        switch (random.Next(6))
        {
            case 0 or 1:
                return Replace("number", text, Number(), Numbers[random.Next(Numbers.Length)]);
            case 2 or 3:
                return Replace("text", text, Text(), $"\"{Texts[random.Next(Texts.Length)]}\"");
            case 4:
                return Replace(
                    "member",
                    text,
                    Member(),
                    random.Next(3) switch
                    {
                        0 => "",
                        1 => $"{Itself},{Itself}",
                        _ => $"\"new\":1,{Itself}",
                    }
                );
            default:
                int depth = random.Next(1, 5000);
                bool closed = random.Next(2) == 0;
                string open = random.Next(2) == 0 ? "[" : "{\"a\":";
                string nest =
                    string.Concat(Enumerable.Repeat(open, depth))
                    + "1"
                    + (closed ? new string(open == "[" ? ']' : '}', depth) : "");
                Match[] values = [.. Number().Matches(text).Concat(Text().Matches(text))];
                return values.Length == 0
                    ? nest
                    : Splice($"nested {depth} deep", text, values[random.Next(values.Length)], nest);
        }
    }

    /// <summary>Changes a safetensors file: its bytes, its header's text or the length that it tells of it.</summary>
    public byte[] Safetensors(byte[] file)
    {
        ArgumentNullException.ThrowIfNull(file);
        int end = 8 + (int)BinaryPrimitives.ReadInt64LittleEndian(file);
        switch (random.Next(5))
        {
            case 0:
                return Bytes(file);
            case 1:
                long[] lengths =
                [
                    0,
                    1,
                    -1,
                    8,
                    end - 9,
                    end - 7,
                    file.Length - 8,
                    file.Length - 7,
                    file.Length,
                    100_000_000,
                    100_000_001,
                    int.MaxValue,
                    1L << 32,
                    long.MaxValue,
                    long.MinValue,
                ];
                long length = lengths[random.Next(lengths.Length)];
                byte[] lying = [.. file];
                BinaryPrimitives.WriteInt64LittleEndian(lying, length);
                return Did($"header length {length}", lying);
            case 2:
                return WithHeader(Bytes(file[8..end]), file[end..]);
            default:
                return WithHeader(Encoding.UTF8.GetBytes(Json(Encoding.UTF8.GetString(file, 8, end - 8))), file[end..]);
        }
    }

    /// <summary>Whether one of two, or one of more.</summary>
    public bool OneOf(int count) => random.Next(count) == 0;

    private static byte[] WithHeader(byte[] header, byte[] data)
    {
        var length = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
        return [.. length, .. header, .. data];
    }

    private string Replace(string what, string text, Regex pattern, string by)
    {
        MatchCollection matches = pattern.Matches(text);
        if (matches.Count == 0)
            return text;
        Match match = matches[random.Next(matches.Count)];
        return Splice(
            $"{what} {match.Value} at {match.Index} replaced by {by}",
            text,
            match,
            by.Replace(Itself, match.Value, StringComparison.Ordinal)
        );
    }

    private string Splice(string what, string text, Match match, string by) =>
        Did(what, text[..match.Index] + by + text[(match.Index + match.Length)..]);

    private string Did(string what, string result)
    {
        done.Append(done.Length > 0 ? ", then " : "").Append(what);
        return result;
    }

    private byte[] Did(string what, byte[] result)
    {
        Did(what, "");
        return result;
    }

    [GeneratedRegex(@"(?<=[:\[,]\s*)-?[0-9][0-9.eE+-]*")]
    private static partial Regex Number();

    [GeneratedRegex("\"[^\"\\\\]*\"")]
    private static partial Regex Text();

    [GeneratedRegex("\"[^\"\\\\]*\"\\s*:\\s*(\"[^\"]*\"|\\[[^\\[\\]]*\\]|\\{[^{}]*\\}|[^,{}\\[\\]\\s]+)")]
    private static partial Regex Member();
}
