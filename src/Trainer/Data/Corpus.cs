using System.Security.Cryptography;
using System.Text;
using LongNet.Core;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data.Tokenization;
using LongNet.Trainer.Storage;
using Microsoft.Extensions.FileSystemGlobbing;

namespace LongNet.Trainer.Data;

/// <summary>One document of a corpus.</summary>
/// <param name="Path">Full path.</param>
/// <param name="Name">Path relative to the root of its entry of data.path, with forward slashes; decides the
/// order.</param>
/// <param name="Bytes">Size.</param>
/// <param name="StartDigest">Digest of the first bytes, which distinguishes most texts of equal size.</param>
internal sealed record CorpusFile(string Path, string Name, long Bytes, string StartDigest);

/// <summary>
/// Text in files, in an order that is the same on every machine. As a run's corpus, every byte of it is a token.
/// </summary>
internal sealed class Corpus : ITokenCorpus
{
    private const int ProbeBytes = 8192;

    private Corpus(IReadOnlyList<CorpusFile> files) => Files = files;

    /// <summary>The files in order; none is empty.</summary>
    public IReadOnlyList<CorpusFile> Files { get; }

    /// <summary>
    /// Distinguishes corpora: file count, size, and a digest over names, sizes and the files' first bytes.
    /// </summary>
    public string Fingerprint
    {
        get
        {
            string names = string.Join('\n', Files.Select(file => $"{file.Name}\t{file.Bytes}\t{file.StartDigest}"));
            string digest = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(names)))[..16];
            return $"{Files.Count} files, {Files.Sum(file => file.Bytes)} bytes, {digest}";
        }
    }

    public string Summary => $"{Files.Count} files";

    public string TokenUnit => "bytes";

    public string Tokenizer => TokenizerName.Byte;

    public int VocabularySize => ByteTokenizer.Instance.VocabularySize;

    // The separators between files are tokens too, and bytes.
    public long Tokens => Files.Sum(file => file.Bytes + 1) - 1;

    public ReadOnlyMemory<ushort>? BytesOfTokens => null;

    /// <summary>Expands data.path: files, directories and globs.</summary>
    /// <exception cref="UserException">A path is missing, nothing matches, or there is no text.</exception>
    public static Corpus Open(DataConfig config)
    {
        return Open(config.Path, config.Exclude, "data.path", "data.exclude");
    }

    /// <summary>Expands files, directories and globs.</summary>
    /// <param name="paths">What to expand.</param>
    /// <param name="exclude">Globs left out of directories and globs.</param>
    /// <param name="key">The option or key of the paths, for messages.</param>
    /// <param name="excludeKey">The option or key of the globs, for messages.</param>
    /// <exception cref="UserException">A path is missing, nothing matches, or there is no text.</exception>
    public static Corpus Open(IReadOnlyList<string> paths, IReadOnlyList<string> exclude, string key, string excludeKey)
    {
        var files = new SortedDictionary<string, CorpusFile>(StringComparer.Ordinal);
        foreach (string path in paths)
        {
            foreach (CorpusFile file in Expand(path, exclude, key, excludeKey))
                files.TryAdd(file.Path, file);
        }

        CorpusFile[] ordered =
        [
            .. files
                .Values.Where(file => file.Bytes > 0)
                .OrderBy(file => file.Name, StringComparer.Ordinal)
                .ThenBy(file => file.Path, StringComparer.Ordinal),
        ];
        return ordered.Length > 0
            ? new Corpus(ordered)
            : throw new UserException(
                $"{key} {string.Join(", ", paths)} holds no text: every file there is empty, binary or excluded."
            );
    }

    public ITokenSource OpenTokens() => new ByteTokenSource(this);

    private static IEnumerable<CorpusFile> Expand(
        string path,
        IReadOnlyList<string> exclude,
        string key,
        string excludeKey
    )
    {
        if (File.Exists(path))
            return [Describe(path, Path.GetFileName(path), Start(path, key))];
        var matcher = new Matcher(StringComparison.Ordinal);
        matcher.AddExcludePatterns(exclude);
        string root = path;
        if (Directory.Exists(path))
        {
            matcher.AddInclude("**/*");
        }
        else
        {
            // The folders before the first wildcard are where a glob is rooted.
            string[] parts = path.Split('/', Path.DirectorySeparatorChar);
            int wild = Array.FindIndex(parts, part => part.Contains('*', StringComparison.Ordinal));
            if (wild < 0)
                throw new UserException($"{key} {path} does not exist: name a file, a directory or a glob of text.");
            root = string.Join('/', parts[..wild]);
            if (!Directory.Exists(root))
                throw new UserException($"{key} {path} matches nothing: the folder {root} does not exist.");
            matcher.AddInclude(string.Join('/', parts[wild..]));
        }

        string[] matches = [.. matcher.GetResultsInFullPath(root)];
        if (matches.Length == 0)
            throw new UserException($"{key} {path} matches no file ({excludeKey}: {string.Join(", ", exclude)}).");
        // No text file has a NUL byte near its start, and in the corpus NUL separates documents.
        return matches
            .Select(file => (Path: file, Start: Start(file, key)))
            .Where(file => !file.Start.Contains((byte)0))
            .Select(file => Describe(file.Path, Path.GetRelativePath(root, file.Path), file.Start));
    }

    private static CorpusFile Describe(string path, string name, byte[] start) =>
        new(
            Path.GetFullPath(path),
            name.Replace(Path.DirectorySeparatorChar, '/'),
            new FileInfo(path).Length,
            Convert.ToHexStringLower(SHA256.HashData(start))[..16]
        );

    private static byte[] Start(string path, string key)
    {
        try
        {
            using FileStream file = File.OpenRead(path);
            var start = new byte[ProbeBytes];
            return start[..file.ReadAtLeast(start, start.Length, throwOnEndOfStream: false)];
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw new UserException($"{key}: {path} cannot be read: {error.Message}");
        }
    }
}
