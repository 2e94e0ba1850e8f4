namespace LongNet.Trainer.Reporting;

/// <summary>What is measured in one evaluation.</summary>
/// <param name="Step">Steps done.</param>
/// <param name="Loss">Mean cross-entropy per held-out target token, in nats.</param>
/// <param name="BytesPerToken">Bytes of text that a target token stood for on average; 1 where tokens are
/// bytes.</param>
internal sealed record EvaluationMetrics(long Step, double Loss, double BytesPerToken = 1)
{
    /// <summary>The loss in bits per byte of the text that was evaluated.</summary>
    public double BitsPerByte => Loss / Math.Log(2) / BytesPerToken;
}
