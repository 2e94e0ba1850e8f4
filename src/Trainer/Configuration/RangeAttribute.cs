namespace LongNet.Trainer.Configuration;

/// <summary>What a number of the configuration must be by itself. What is left open ("auto") passes.</summary>
[AttributeUsage(AttributeTargets.Property)]
internal abstract class RangeAttribute : Attribute
{
    /// <summary>What the number must be, as in "at least 1"; null where it is that.</summary>
    public abstract string? Expectation(double value);
}

/// <summary>At least so much.</summary>
internal sealed class AtLeastAttribute(double least) : RangeAttribute
{
    /// <summary>What the end of the range means, such as " (0 turns it off)".</summary>
    public string Note { get; init; } = "";

    public override string? Expectation(double value) => value >= least ? null : $"at least {least}{Note}";
}

/// <summary>At most so much.</summary>
internal sealed class AtMostAttribute(double most) : RangeAttribute
{
    public override string? Expectation(double value) => value <= most ? null : $"at most {most}";
}

/// <summary>From one number to another; a message names the one that is passed.</summary>
internal sealed class WithinAttribute(double least, double most) : RangeAttribute
{
    public override string? Expectation(double value) =>
        value < least ? $"at least {least}"
        : value > most ? $"at most {most}"
        : null;
}

/// <summary>From one number to another; a message names both.</summary>
internal sealed class BetweenAttribute(double least, double most) : RangeAttribute
{
    /// <inheritdoc cref="AtLeastAttribute.Note"/>
    public string Note { get; init; } = "";

    public override string? Expectation(double value) =>
        value >= least && value <= most ? null : $"between {least} and {most}{Note}";
}

/// <summary>Above 0.</summary>
internal sealed class PositiveAttribute : RangeAttribute
{
    public double AtMost { get; init; } = double.PositiveInfinity;

    /// <inheritdoc cref="AtLeastAttribute.Note"/>
    public string Note { get; init; } = "";

    public override string? Expectation(double value) =>
        value > 0 && value <= AtMost
            ? null
            : $"above 0{(double.IsFinite(AtMost) ? $" and at most {AtMost}" : "")}{Note}";
}

/// <summary>A share, of which 1 would leave nothing.</summary>
internal sealed class ShareAttribute : RangeAttribute
{
    public override string? Expectation(double value) => value is >= 0 and < 1 ? null : "at least 0 and below 1";
}
