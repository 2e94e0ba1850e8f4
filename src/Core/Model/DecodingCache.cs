using LongNet.Core.Attention;

namespace LongNet.Core.Model;

/// <summary>What a model keeps of the tokens that came before: one <see cref="KeyValueCache"/> per block.</summary>
public sealed class DecodingCache : IDisposable
{
    internal DecodingCache(IReadOnlyList<KeyValueCache> layers) => Layers = layers;

    /// <summary>Tokens that have come.</summary>
    public long Length => Layers[0].Length;

    /// <summary>Most tokens that may come.</summary>
    public long MaxLength => Layers[0].MaxLength;

    internal IReadOnlyList<KeyValueCache> Layers { get; }

    public void Dispose()
    {
        foreach (KeyValueCache layer in Layers)
            layer.Dispose();
    }
}
