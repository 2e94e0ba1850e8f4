using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Loop;

/// <summary>Linear warm-up to the peak, then half a cosine down to the minimum, which it keeps.</summary>
/// <param name="Peak">Learning rate after the warm-up.</param>
/// <param name="Minimum">Learning rate from <paramref name="DecaySteps"/> on.</param>
/// <param name="WarmupSteps">Steps of warm-up; step s of them has s / WarmupSteps of the peak.</param>
/// <param name="DecaySteps">Step at which the minimum is reached.</param>
internal sealed record LearningRateSchedule(double Peak, double Minimum, long WarmupSteps, long DecaySteps)
{
    public static LearningRateSchedule From(OptimizerConfig config)
    {
        return new LearningRateSchedule(config.Lr, config.MinLr!.Value, config.WarmupSteps, config.DecaySteps!.Value);
    }

    /// <param name="step">1 for the first step.</param>
    public double RateAt(long step)
    {
        if (step <= WarmupSteps)
            return Peak * step / WarmupSteps;
        if (step >= DecaySteps)
            return Minimum;
        double progress = (double)(step - WarmupSteps) / (DecaySteps - WarmupSteps);
        return Minimum + 0.5 * (Peak - Minimum) * (1 + Math.Cos(Math.PI * progress));
    }
}
