using LongNet.Core.Serialization;

namespace LongNet.Core.Model.Torchscale;

/// <summary>
/// What the tensors of a file are called here. The authors' Python code (microsoft/torchscale) has this project's names
/// inside optional wrappers, and some tensors that are not learned.
/// </summary>
/// <param name="sources">Name in the file of every tensor that stands for a parameter, by its name here.</param>
/// <param name="secondBranch">Names in the file of what the second branch of Multiway networks holds.</param>
/// <param name="decayShape">Name in the file and shape of an xPos buffer, where there is one.</param>
internal sealed class TorchscaleNames(
    IReadOnlyDictionary<string, string> sources,
    IReadOnlyList<string> secondBranch,
    (string Name, IReadOnlyList<long> Shape)? decayShape
)
{
    // Data parallelism, a model that holds the decoder, and the decoder.
    private static readonly string[] Wrappers = ["module.", "model.", "decoder."];

    // Parts that change what is computed and that nothing here computes.
    private static readonly (string Part, string What)[] Unsupported =
    [
        ("embed_positions", "learned or sinusoidal position embeddings"),
        ("layernorm_embedding", "a LayerNorm of the embeddings"),
        ("encoder", "an encoder"),
        ("encoder_attn", "attention to an encoder"),
        ("encoder_attn_layer_norm", "attention to an encoder"),
        ("cross_attn_relative_position", "attention to an encoder"),
        ("moe_layer", "a mixture of experts"),
    ];

    public IReadOnlyDictionary<string, string> Sources { get; } = sources;

    public IReadOnlyList<string> SecondBranch { get; } = secondBranch;

    public (string Name, IReadOnlyList<long> Shape)? DecayShape { get; } = decayShape;

    /// <param name="reader">The file. Only its header is read.</param>
    /// <param name="prefix">Only names that begin so count, without it.</param>
    /// <exception cref="UserException">The file is that of a model that this library does not have, or names one tensor
    /// twice.</exception>
    public static TorchscaleNames Of(SafetensorsReader reader, string prefix)
    {
        var sources = new Dictionary<string, string>(StringComparer.Ordinal);
        var secondBranch = new List<string>();
        (string, IReadOnlyList<long>)? decay = null;
        foreach (string source in reader.Names.Where(name => name.StartsWith(prefix, StringComparison.Ordinal)))
        {
            List<string> parts = [.. Unwrapped(source[prefix.Length..]).Split('.')];
            foreach (var (part, what) in Unsupported)
            {
                if (parts.Contains(part))
                {
                    throw new UserException(
                        $"{reader.Path} holds {source}, which belongs to {what}, and the models here have "
                            + "none: give the weights of a decoder without."
                    );
                }
            }

            if (parts is ["version"])
                continue;
            if (parts is [.., "xpos", "scale"])
            {
                decay = (source, reader.Shape(source));
                continue;
            }

            if (parts.Contains("B"))
            {
                secondBranch.Add(source);
                continue;
            }

            parts.RemoveAll(part => part == "A");
            string name = string.Join('.', parts);
            if (!sources.TryAdd(name, source))
                throw new UserException(
                    $"{reader.Path} holds both {sources[name]} and {source}, which are one parameter here: "
                        + "remove one of them."
                );
        }

        return new TorchscaleNames(sources, secondBranch, decay);
    }

    private static string Unwrapped(string name)
    {
        while (Array.Find(Wrappers, wrapper => name.StartsWith(wrapper, StringComparison.Ordinal)) is { } outermost)
            name = name[outermost.Length..];
        return name;
    }
}
