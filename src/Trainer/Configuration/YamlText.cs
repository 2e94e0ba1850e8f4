using LongNet.Core;
using LongNet.Trainer.Storage;
using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace LongNet.Trainer.Configuration;

/// <summary>Reads YAML, whose parser fails in more ways than it declares.</summary>
internal static class YamlText
{
    /// <summary>Reads a file that holds a group of keys.</summary>
    /// <exception cref="UserException">It holds something else, or cannot be read.</exception>
    public static YamlMappingNode ParseFile(string path)
    {
        try
        {
            using var reader = new StreamReader(path);
            var stream = new YamlStream();
            stream.Load(reader);
            return stream.Documents.Count > 0 && stream.Documents[0].RootNode is YamlMappingNode root
                ? root
                : throw new UserException(
                    $"{path} holds no configuration: it must be a YAML mapping with keys such as model, "
                        + "data and training."
                );
        }
        catch (YamlException error)
        {
            throw new UserException(
                $"{path}, line {error.Start.Line}: this is not valid YAML: "
                    + $"{error.InnerException?.Message ?? error.Message}"
            );
        }
        catch (Exception error) when (IsParserFault(error))
        {
            throw new UserException($"{path} is not valid YAML.");
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw new UserException($"The configuration {path} cannot be read: {error.Message}");
        }
    }

    /// <summary>Reads one value; null where the text is not valid YAML.</summary>
    public static YamlNode? TryParse(string text)
    {
        var stream = new YamlStream();
        try
        {
            stream.Load(new StringReader(text));
            // Fails where an alias stands within its own anchor.
            _ = stream.Documents.Select(document => document.AllNodes.Count()).Sum();
            return stream.Documents.Count > 0 ? stream.Documents[0].RootNode : new YamlScalarNode("");
        }
        catch (Exception error) when (error is YamlException || IsParserFault(error))
        {
            return null;
        }
    }

    // YamlDotNet's scanner fails in these ways on some text that is not YAML.
    private static bool IsParserFault(Exception error) =>
        error
            is InvalidOperationException
                or ArgumentException
                or IndexOutOfRangeException
                or NullReferenceException
                or FormatException;
}
