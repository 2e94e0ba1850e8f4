using LongNet.Trainer.Checkpoints;

namespace LongNet.Trainer.Loop;

/// <summary>
/// Dynamic loss scaling (arXiv:1710.03740, section 3.2): the loss is multiplied by a scale, so that small gradients do
/// not vanish in float16, and the gradients are divided by it before they are used. A step whose gradients overflow is
/// skipped and halves the scale; as many good steps in a row as <see cref="GrowthSteps"/> double it.
/// </summary>
/// <remarks>
/// The scale is always a power of two, so that multiplying and dividing by it rounds nothing.
/// </remarks>
internal sealed class LossScaler
{
    /// <summary>The scale of a new run.</summary>
    public const double Initial = 65536;

    /// <summary>
    /// Scales never fall below this: a smaller one would make gradients vanish that float16 can hold without scaling.
    /// </summary>
    public const double Smallest = 1;

    /// <summary>
    /// Scales never grow beyond this: the smallest float16 is 2⁻²⁴, so gradients down to 2⁻⁴⁸ remain, and smaller ones
    /// are negligible beside AdamW's epsilon.
    /// </summary>
    public const double Largest = 1 << 24;

    /// <summary>Good steps in a row that double the scale.</summary>
    public const long GrowthSteps = 2000;

    /// <summary>What the next step's loss is multiplied by.</summary>
    public double Scale { get; private set; } = Initial;

    /// <summary>Good steps since the scale last changed, or since it could have grown.</summary>
    public long GoodSteps { get; private set; }

    /// <summary>Steps of the run whose gradients were not used.</summary>
    public long SkippedSteps { get; private set; }

    /// <summary>Whether the scale can be lowered, so that a step that overflows may be skipped.</summary>
    public bool CanShrink => Scale > Smallest;

    /// <summary>The part of this that a checkpoint stores.</summary>
    public CheckpointLossScaler State => new(Scale, GoodSteps, SkippedSteps);

    /// <summary>Continues from a checkpoint.</summary>
    /// <param name="state">Its scale may be above <see cref="Largest"/>; then it can only fall.</param>
    public void Load(CheckpointLossScaler state)
    {
        (Scale, GoodSteps, SkippedSteps) = (state.Scale, state.GoodSteps, state.SkippedSteps);
    }

    /// <summary>Counts a step whose gradients were finite and used.</summary>
    public void Succeed()
    {
        if (++GoodSteps < GrowthSteps)
            return;
        GoodSteps = 0;
        if (Scale < Largest)
            Scale *= 2;
    }

    /// <summary>Counts a step that is skipped because it was not finite.</summary>
    public void Skip()
    {
        SkippedSteps++;
        GoodSteps = 0;
        Scale = Math.Max(Smallest, Scale / 2);
    }
}
