namespace LongNet.Core.Optimization;

/// <summary>Constants of AdamW (Loshchilov and Hutter, arXiv:1711.05101).</summary>
/// <param name="Beta1">Decay of the gradients' running mean.</param>
/// <param name="Beta2">Decay of the squared gradients' running mean.</param>
/// <param name="Epsilon">Added to the root of the second moment.</param>
/// <param name="WeightDecay">Decoupled weight decay of matrices; vectors (norms and biases) have none.</param>
public sealed record AdamWOptions(
    double Beta1 = 0.9,
    double Beta2 = 0.95,
    double Epsilon = 1e-8,
    double WeightDecay = 0.1
);
