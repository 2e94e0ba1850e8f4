using System.Security.Cryptography;
using System.Text;
using LongNet.Core;
using LongNet.Trainer.Configuration;
using Microsoft.Extensions.FileSystemGlobbing;

namespace LongNet.Trainer.Data;

/// <summary>One document of a corpus.</summary>
/// <param name="Path">Full path.</param>
/// <param name="Name">Path relative to where its entry of data.path is rooted, with forward slashes; decides the order.</param>
/// <param name="Bytes">Size.</param>
/// <param name="StartDigest">Digest of the first bytes, which tells apart most texts of one size.</param>
public sealed record CorpusFile(string Path, string Name, long Bytes, string StartDigest);

/// <summary>The files that a run trains on, in an order that is the same on every machine.</summary>
public sealed class Corpus
{
    private const int ProbeBytes = 8192;

    private Corpus(IReadOnlyList<CorpusFile> files) => Files = files;

    /// <summary>The files in order; none is empty.</summary>
    public IReadOnlyList<CorpusFile> Files { get; }

    /// <summary>Tells corpora apart: file count, size, and a digest over names, sizes and the files' first bytes.</summary>
    public string Fingerprint
    {
        get
        {
            string names = string.Join('\n', Files.Select(file => $"{file.Name}\t{file.Bytes}\t{file.StartDigest}"));
            string digest = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(names)))[..16];
            return $"{Files.Count} files, {Files.Sum(file => file.Bytes)} bytes, {digest}";
        }
    }

    /// <summary>Expands data.path: files, directories and globs.</summary>
    /// <exception cref="UserException">A path is missing, nothing matches, or there is no text.</exception>
    public static Corpus Open(DataConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        var files = new SortedDictionary<string, CorpusFile>(StringComparer.Ordinal);
        foreach (string path in config.Path)
        {
            foreach (CorpusFile file in Expand(path, config.Exclude))
                files.TryAdd(file.Path, file);
        }

        CorpusFile[] kept = [.. files.Values.Where(file => file.Bytes > 0).OrderBy(file => file.Name, StringComparer.Ordinal).ThenBy(file => file.Path, StringComparer.Ordinal)];
        return kept.Length > 0
            ? new Corpus(kept)
            : throw new UserException($"data.path {string.Join(", ", config.Path)} holds no text: every file there is empty, binary or excluded.");
    }

    private static IEnumerable<CorpusFile> Expand(string path, IReadOnlyList<string> exclude)
    {
        if (File.Exists(path))
            return [Describe(path, Path.GetFileName(path), Start(path))];
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
                throw new UserException($"data.path {path} does not exist: name a file, a directory or a glob of text.");
            root = string.Join('/', parts[..wild]);
            if (!Directory.Exists(root))
                throw new UserException($"data.path {path} matches nothing: the folder {root} does not exist.");
            matcher.AddInclude(string.Join('/', parts[wild..]));
        }

        string[] found = [.. matcher.GetResultsInFullPath(root)];
        if (found.Length == 0)
            throw new UserException($"data.path {path} matches no file (data.exclude: {string.Join(", ", exclude)}).");
        // A NUL byte near the start is what no text file has; it also separates documents.
        return found.Select(file => (Path: file, Start: Start(file))).Where(file => !file.Start.Contains((byte)0))
            .Select(file => Describe(file.Path, Path.GetRelativePath(root, file.Path), file.Start));
    }

    private static CorpusFile Describe(string path, string name, byte[] start) => new(
        Path.GetFullPath(path),
        name.Replace(Path.DirectorySeparatorChar, '/'),
        new FileInfo(path).Length,
        Convert.ToHexStringLower(SHA256.HashData(start))[..16]);

    private static byte[] Start(string path)
    {
        try
        {
            using FileStream file = File.OpenRead(path);
            var start = new byte[ProbeBytes];
            return start[..file.ReadAtLeast(start, start.Length, throwOnEndOfStream: false)];
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new UserException($"data.path: {path} cannot be read: {error.Message}");
        }
    }
}
