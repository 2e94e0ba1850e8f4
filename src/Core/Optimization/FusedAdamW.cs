using System.Globalization;
using LongNet.Core.Numerics;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Core.Optimization;

/// <summary>AdamW by libtorch's fused operator: one pass over parameters, gradients and state.</summary>
public sealed class FusedAdamW : IDisposable
{
    private readonly Group[] groups;
    private readonly TorchScriptModule kernel;
    private readonly List<(string Name, Tensor Value)> state = [];
    private readonly Tensor stepCount, oneStep, learningRate;

    /// <param name="parameters">Names and parameters; not owned.</param>
    /// <param name="gradients">The gradient of each, in the same order; read at every step. Not owned.</param>
    /// <param name="options">The method's constants.</param>
    public FusedAdamW(IReadOnlyList<(string Name, Parameter Parameter)> parameters, IReadOnlyList<Tensor> gradients, AdamWOptions options)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        ArgumentNullException.ThrowIfNull(gradients);
        ArgumentNullException.ThrowIfNull(options);
        if (parameters.Count != gradients.Count)
            throw new ArgumentException($"{parameters.Count} parameters have {gradients.Count} gradients.");
        kernel = new TorchScriptModule(Script(options));
        stepCount = zeros([], dtype: ScalarType.Float32).DetachFromDisposeScope();
        oneStep = ones([], dtype: ScalarType.Float32).DetachFromDisposeScope();
        learningRate = zeros([], dtype: ScalarType.Float64).DetachFromDisposeScope();
        state.Add(("step", stepCount));

        var decayed = new Group("step_decayed");
        var plain = new Group("step_plain");
        for (int p = 0; p < parameters.Count; p++)
        {
            var (name, parameter) = parameters[p];
            Group group = parameter.dim() >= 2 ? decayed : plain;
            Tensor mean = zeros_like(parameter).DetachFromDisposeScope();
            Tensor square = zeros_like(parameter).DetachFromDisposeScope();
            group.Parameters.Add(parameter);
            group.Gradients.Add(gradients[p]);
            group.Means.Add(mean);
            group.Squares.Add(square);
            group.Steps.Add(stepCount);
            state.Add(($"exp_avg.{name}", mean));
            state.Add(($"exp_avg_sq.{name}", square));
        }

        groups = [.. new[] { decayed, plain }.Where(group => group.Parameters.Count > 0)];
    }

    /// <summary>What a checkpoint keeps: the step count and both moments of every parameter. Owned by the optimizer.</summary>
    public IReadOnlyList<(string Name, Tensor Value)> State => state;

    /// <summary>Updates every parameter in place.</summary>
    /// <param name="rate">The step's learning rate.</param>
    public void Step(double rate)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        learningRate.copy_(tensor(rate, dtype: ScalarType.Float64));
        // Not the number itself: that overload makes a Scalar for its hidden factor, which a collection may free in the call.
        stepCount.add_(oneStep, Scalars.One);
        foreach (Group group in groups)
        {
            kernel.Invoke(
                group.Function,
                group.Parameters.ToArray(),
                group.Gradients.ToArray(),
                group.Means.ToArray(),
                group.Squares.ToArray(),
                group.Steps.ToArray(),
                learningRate);
        }
    }

    public void Dispose()
    {
        learningRate.Dispose();
        oneStep.Dispose();
        foreach (var (_, value) in state)
            value.Dispose();
    }

    private static string Script(AdamWOptions options)
    {
        return Function("step_decayed", options.WeightDecay) + "\n" + Function("step_plain", 0);

        // Constants stand in the script, as a number passed by call would be a temporary Scalar.
        string Function(string name, double weightDecay) => $"""
            def {name}(params: List[Tensor], grads: List[Tensor], means: List[Tensor], squares: List[Tensor], steps: List[Tensor], lr: Tensor) -> int:
                none: List[Tensor] = []
                torch._fused_adamw_(params, grads, means, squares, none, steps, lr=lr, beta1={Number(options.Beta1)}, beta2={Number(options.Beta2)}, weight_decay={Number(weightDecay)}, eps={Number(options.Epsilon)}, amsgrad=False, maximize=False)
                return 0

            """;

        // TorchScript tells floats from ints by the point or the exponent.
        static string Number(double value) => value.ToString("0.0##################E+0", CultureInfo.InvariantCulture);
    }

    private sealed record Group(string Function)
    {
        public List<Tensor> Parameters { get; } = [];

        public List<Tensor> Gradients { get; } = [];

        public List<Tensor> Means { get; } = [];

        public List<Tensor> Squares { get; } = [];

        public List<Tensor> Steps { get; } = [];
    }
}
